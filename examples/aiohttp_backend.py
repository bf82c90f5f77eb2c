"""
A web backend with aiohttp: it answers an order at once and gets the video by callback.

Run it (README.md beside this file lists the environment variables)::

    python aiohttp_backend.py
"""

import json
import os
from collections.abc import AsyncIterator

from aiohttp import web

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
    journal=os.environ.get("KIE_JOURNAL", "kie.db"),
    local_files=False,  # an image_url that is a path would name a file of this server
)
routes = web.RouteTableDef()


async def lifespan(_app: web.Application) -> AsyncIterator[None]:
    """Open the client and close it with the server."""
    async with kie:
        await kie.recover()  # resumes the jobs of an earlier process
        yield


@routes.post("/shots")
async def order_shot(request: web.Request) -> web.Response:
    """Journal an order, and answer with its id."""
    try:
        order = json.loads(await request.read())
        key, image, prompt = order["key"] or "", order["image_url"], order["prompt"]  # null would be no key
    except (ValueError, TypeError, KeyError, RecursionError, web.RequestPayloadError):
        return web.json_response({"why": "send an object with key, image_url and prompt"}, status=400)
    try:
        # The same key is the same order, and is never paid twice.
        job = await kie.submit(Wan22TurboImageToVideo(image=image, prompt=prompt), key=key, wait=False)
    except (InvalidRequestError, ConfigurationError) as error:  # the latter for an invalid key
        return web.json_response({"why": error.message}, status=422)
    except KeyConflictError as error:
        return web.json_response({"why": error.message}, status=409)
    except JournalError:  # a failover, for example: nothing was sent, and the same order may come again
        return web.json_response({"why": "try again soon"}, status=503, headers={"Retry-After": "5"})
    return web.json_response({"id": job.id}, status=202)


@routes.get("/shots/{job_id}")
async def show_shot(request: web.Request) -> web.Response:
    """Return the state of an order after at most 20 s; the customer asks again while it runs."""
    try:
        video = await kie.job(request.match_info["job_id"], own_only=True).wait(timeout=20)
    except TaskNotFoundError:
        return web.json_response({"why": "no such order"}, status=404)
    except TimeoutError:
        return web.json_response({"state": "running"})
    except TaskFailedError as error:
        return web.json_response({"state": "failed", "why": error.message})
    except JournalError:
        return web.json_response({"why": "try again soon"}, status=503, headers={"Retry-After": "5"})
    except KieError as error:  # needs an operator: the message says what to do next
        return web.json_response({"state": "stuck", "why": error.message})
    return web.json_response({"state": "done", "url": video.url})  # valid for about a day; video.save() keeps the video


def make_app() -> web.Application:
    """Make the application."""
    app = web.Application()
    app.add_routes(routes)
    app.add_routes(kie.callbacks.aiohttp_routes())  # at the path of KIE_CALLBACK_URL
    app.cleanup_ctx.append(lifespan)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host=os.environ.get("HOST", "127.0.0.1"), port=int(os.environ.get("PORT", "8000")))
