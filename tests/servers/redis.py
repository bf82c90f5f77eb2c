"""A real Redis server in a folder of its own, reached by a socket."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["running_redis"]


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """
    Run a server that keeps nothing on disk.

    Args:
        folder: The folder of its socket.

    Returns:
        The URL, as Celery writes it for a broker and a result backend.
    """
    socket = folder / "redis.sock"
    options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder))
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            # The few lines that follow fit the pipe.
            assert any("ready to accept connections" in line.lower() for line in process.stdout)
            yield f"redis+socket://{socket}"
        finally:
            process.kill()
