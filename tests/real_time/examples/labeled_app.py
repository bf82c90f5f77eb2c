"""The FastAPI example, extended to report the worker of each response and of each callback."""

from __future__ import annotations

import os
import sys

from starlette.types import Message, Receive, Scope, Send

from examples.fastapi_backend import app as example
from tests.real_time.examples.processes import CALLBACK, WORKER

__all__ = ["app"]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one connection."""
    pid = os.getpid()
    is_callback = scope["type"] == "http" and scope["path"].startswith("/kie/")

    async def send_with_worker(message: Message) -> None:
        if message["type"] == "http.response.start":
            # Closing the connection lets the service's next callback reach any worker.
            closing = [(b"connection", b"close")] if is_callback else []
            message["headers"] = [*message["headers"], (WORKER.lower().encode(), str(pid).encode()), *closing]
            if is_callback:
                # In one write, since all workers share one pipe.
                sys.stdout.write(f"{CALLBACK} {pid} {scope['path']} {message['status']}\n")
                sys.stdout.flush()
        await send(message)

    await example(scope, receive, send_with_worker)
