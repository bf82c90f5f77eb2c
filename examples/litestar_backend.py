"""
A web backend with Litestar: it answers an order at once and gets the video by callback.

Run it, with one process or with four (README.md beside this file lists the environment variables)::

    uvicorn litestar_backend:app
    WEB_CONCURRENCY=4 uvicorn litestar_backend:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, asgi, get, post
from litestar.exceptions import HTTPException, NotFoundException
from msgspec import Struct

from kie_async import (
    ConfigurationError,
    InvalidRequestError,
    JournalError,
    KeyConflictError,
    KieClient,
    KieError,
    TaskFailedError,
    TaskNotFoundError,
    Wan22TurboImageToVideo,
)

kie = KieClient(  # reads KIE_API_KEY and KIE_WEBHOOK_KEY itself
    callback_url=os.environ["KIE_CALLBACK_URL"],
    journal=os.environ.get("KIE_JOURNAL", "kie.db"),  # shared by all workers, and so are the account's limits
    local_files=False,  # an image_url that is a path would name a file of this server
)


@asynccontextmanager
async def lifespan(_app: Litestar) -> AsyncIterator[None]:
    """Open the client and close it with the server."""
    async with kie:
        await kie.recover()  # resumes the jobs of an earlier process
        yield


class Order(Struct):
    """The body of an order."""

    key: str  # the order number: the same key is never paid twice
    image_url: str
    prompt: str


def refuse(_request: Request[Any, Any, Any], _error: Exception) -> Response[dict[str, str]]:
    """Refuse an order that is not UTF-8, or that is nested too deeply to be read."""
    return Response({"detail": "send an object with the strings key, image_url and prompt"}, status_code=400)


def wait_for_journal(_request: Request[Any, Any, Any], _error: JournalError) -> Response[dict[str, str]]:
    """Answer while the journal is away, such as in a failover: nothing was sent, and the same order may come again."""
    return Response({"detail": "try again soon"}, status_code=503, headers={"Retry-After": "5"})


@post("/shots", status_code=202, exception_handlers={UnicodeDecodeError: refuse, RecursionError: refuse})
async def order_shot(data: Order) -> dict[str, str]:
    """Journal an order, and answer with its id."""
    request = Wan22TurboImageToVideo(image=data.image_url, prompt=data.prompt)
    try:
        job = await kie.submit(request, key=data.key, wait=False)
    except (InvalidRequestError, ConfigurationError) as error:  # the latter for an invalid key
        raise HTTPException(status_code=422, detail=error.message) from error
    except KeyConflictError as error:
        raise HTTPException(status_code=409, detail=error.message) from error
    return {"id": job.id}


@get("/shots/{job_id:str}")
async def show_shot(job_id: str) -> dict[str, str]:
    """Return the state of an order after at most 20 s; the customer asks again while it runs."""
    try:
        video = await kie.job(job_id, own_only=True).wait(timeout=20)
    except TaskNotFoundError as error:
        raise NotFoundException(detail="no such order") from error
    except TimeoutError:
        return {"state": "running"}
    except TaskFailedError as error:
        return {"state": "failed", "why": error.message}
    except JournalError:
        raise
    except KieError as error:
        return {"state": "stuck", "why": error.message}  # needs an operator: the message says what to do next
    return {"state": "done", "url": video.url}  # valid for about a day; video.save() keeps the video


callbacks = asgi("/kie", is_mount=True, copy_scope=True)(kie.callbacks.asgi_app())  # the path of KIE_CALLBACK_URL

app = Litestar(
    [order_shot, show_shot, callbacks], lifespan=[lifespan], exception_handlers={JournalError: wait_for_journal}
)
