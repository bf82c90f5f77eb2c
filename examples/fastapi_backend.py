"""
A web backend with FastAPI: an order is answered at once, its video comes by callback.

Run it, with one process or with four (README.md beside this file says what else it wants in the environment)::

    uvicorn fastapi_backend:app
    WEB_CONCURRENCY=4 uvicorn fastapi_backend:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path
from pydantic import BaseModel, Field

from kie_async import (
    InvalidRequestError,
    KeyConflictError,
    KieClient,
    KieError,
    Limits,
    TaskFailedError,
    TaskNotFoundError,
    Wan22TurboImageToVideo,
)

# The account's limits hold for all workers together: each gets its share. uvicorn and gunicorn read the variable, too.
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))

kie = KieClient(  # KIE_API_KEY and KIE_WEBHOOK_KEY are read by itself
    callback_url=os.environ["KIE_CALLBACK_URL"],
    journal=os.environ.get("KIE_JOURNAL", "kie.db"),
    limits=Limits(creates=20 // workers, polls_per_second=5 / workers),
)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Open the client and close it with the server."""
    async with kie:
        await kie.recover()  # goes on with what an earlier process has left
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/kie", kie.callbacks.asgi_app())  # the path of KIE_CALLBACK_URL


class Order(BaseModel):
    """What a customer sends."""

    key: Annotated[str, Field(min_length=1, max_length=100)]  # the order's number: the same key is never paid twice
    image_url: Annotated[str, Field(pattern="^https://")]  # anything else would name a file of this server
    prompt: str


@app.post("/shots", status_code=202)
async def order_shot(order: Order) -> dict[str, str]:
    """Write an order down, and answer with its id."""
    request = Wan22TurboImageToVideo(image=order.image_url, prompt=order.prompt)
    try:
        job = await kie.submit(request, key=order.key, wait=False)
    except InvalidRequestError as error:
        raise HTTPException(422, error.message) from error
    except KeyConflictError as error:
        raise HTTPException(409, error.message) from error
    return {"id": job.id}


@app.get("/shots/{job_id}")
async def show_shot(job_id: Annotated[str, Path(pattern=r"^kj_\w+$")]) -> dict[str, str]:
    """Say how an order is; one that is not done within 20 s is asked for again."""
    try:
        video = await kie.job(job_id).wait(timeout=20)
    except TaskNotFoundError as error:
        raise HTTPException(404, "no such order") from error
    except TimeoutError:
        return {"state": "running"}
    except TaskFailedError as error:
        return {"state": "failed", "why": error.message}
    except KieError as error:
        return {"state": "stuck", "why": error.message}  # somebody has to look: the message says whose move is next
    return {"state": "done", "url": video.url}  # good for about a day; video.save() keeps it
