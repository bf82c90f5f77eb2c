"""The FastAPI example, telling which worker has given each answer, and which one has taken each callback."""

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

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            # The service keeps its connections; closed ones let the next callback land on any worker.
            closing = [(b"connection", b"close")] if is_callback else []
            message["headers"] = [*message["headers"], (WORKER.lower().encode(), str(pid).encode()), *closing]
            if is_callback:
                # In one piece: all workers write to one pipe.
                sys.stdout.write(f"{CALLBACK} {pid} {scope['path']} {message['status']}\n")
                sys.stdout.flush()
        await send(message)

    await example(scope, receive, tell)
