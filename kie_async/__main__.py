"""The command ``kie-async`` as ``python -m kie_async``."""

from __future__ import annotations

from kie_async.cli import main

if __name__ == "__main__":
    main()
