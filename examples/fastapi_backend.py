"""
A web backend with FastAPI: it answers an order at once and gets the video by callback.

Run it, with one process or with four (README.md beside this file lists the environment variables)::

    uvicorn fastapi_backend:app
    WEB_CONCURRENCY=4 uvicorn fastapi_backend:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

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
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Open the client and close it with the server."""
    async with kie:
        await kie.recover()  # resumes the jobs of an earlier process
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/kie", kie.callbacks.asgi_app())  # the path of KIE_CALLBACK_URL


@app.exception_handler(RequestValidationError)
async def refuse(_request: Request, _error: RequestValidationError) -> JSONResponse:
    """Refuse an order without repeating it: FastAPI's own answer fails if the order holds NaN."""
    return JSONResponse({"detail": "send an object with the strings key, image_url and prompt"}, 422)


@app.exception_handler(JournalError)
async def wait_for_journal(_request: Request, _error: JournalError) -> JSONResponse:
    """Answer while the journal is away, such as in a failover: nothing was sent, and the same order may come again."""
    return JSONResponse({"detail": "try again soon"}, 503, {"Retry-After": "5"})


class Order(BaseModel):
    """The body of an order."""

    key: str  # the order number: the same key is never paid twice
    image_url: str
    prompt: str


@app.post("/shots", status_code=202)
async def order_shot(order: Order) -> dict[str, str]:
    """Journal an order, and answer with its id."""
    request = Wan22TurboImageToVideo(image=order.image_url, prompt=order.prompt)
    try:
        job = await kie.submit(request, key=order.key, wait=False)
    except (InvalidRequestError, ConfigurationError) as error:  # the latter for an invalid key
        raise HTTPException(422, error.message) from error
    except KeyConflictError as error:
        raise HTTPException(409, error.message) from error
    return {"id": job.id}


@app.get("/shots/{job_id}")
async def show_shot(job_id: str) -> dict[str, str]:
    """Return the state of an order after at most 20 s; the customer asks again while it runs."""
    try:
        video = await kie.job(job_id, own_only=True).wait(timeout=20)
    except TaskNotFoundError as error:
        raise HTTPException(404, "no such order") from error
    except TimeoutError:
        return {"state": "running"}
    except TaskFailedError as error:
        return {"state": "failed", "why": error.message}
    except JournalError:
        raise
    except KieError as error:
        return {"state": "stuck", "why": error.message}  # needs an operator: the message says what to do next
    return {"state": "done", "url": video.url}  # valid for about a day; video.save() keeps the video
