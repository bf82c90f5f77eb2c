"""``python -m kie_async`` is the command ``kie-async``."""

from __future__ import annotations

from kie_async.cli import main

if __name__ == "__main__":
    main()
