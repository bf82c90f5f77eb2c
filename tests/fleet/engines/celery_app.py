"""The Celery example, with messages of ended workers delivered again after seconds instead of an hour."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.celery_tasks import app, main

__all__ = ["app"]

app.conf.broker_transport_options = {
    "visibility_timeout": 5,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
