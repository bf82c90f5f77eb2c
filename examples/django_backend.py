"""
A web backend with Django (ASGI): it answers an order at once and gets the video by callback.

Run it, with one process or with four (README.md beside this file lists the environment variables)::

    uvicorn django_backend:application
    WEB_CONCURRENCY=4 uvicorn django_backend:application

In a larger project, put the client into its own module and ``application`` into ``asgi.py``.
"""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

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


@require_POST
async def order_shot(request: HttpRequest) -> JsonResponse:
    """Journal an order, and answer with its id."""
    try:
        order = json.loads(request.body)
        key, image, prompt = order["key"] or "", order["image_url"], order["prompt"]  # null would be no key
    except (ValueError, TypeError, KeyError, RecursionError):
        return JsonResponse({"why": "send an object with key, image_url and prompt"}, status=400)
    try:
        # The same key is the same order, and is never paid twice.
        job = await kie.submit(Wan22TurboImageToVideo(image=image, prompt=prompt), key=key, wait=False)
    except (InvalidRequestError, ConfigurationError) as error:  # the latter for an invalid key
        return JsonResponse({"why": error.message}, status=422)
    except KeyConflictError as error:
        return JsonResponse({"why": error.message}, status=409)
    except JournalError:  # a failover, for example: nothing was sent, and the same order may come again
        return JsonResponse({"why": "try again soon"}, status=503, headers={"Retry-After": "5"})
    return JsonResponse({"id": job.id}, status=202)


@require_GET
async def show_shot(_request: HttpRequest, job_id: str) -> JsonResponse:
    """Return the state of an order after at most 20 s; the customer asks again while it runs."""
    try:
        video = await kie.job(job_id, own_only=True).wait(timeout=20)
    except TaskNotFoundError:
        return JsonResponse({"why": "no such order"}, status=404)
    except TimeoutError:
        return JsonResponse({"state": "running"})
    except TaskFailedError as error:
        return JsonResponse({"state": "failed", "why": error.message})
    except JournalError:
        return JsonResponse({"why": "try again soon"}, status=503, headers={"Retry-After": "5"})
    except KieError as error:  # needs an operator: the message says what to do next
        return JsonResponse({"state": "stuck", "why": error.message})
    return JsonResponse({"state": "done", "url": video.url})  # valid for about a day; video.save() keeps the video


Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Any], Awaitable[None]]

urlpatterns = [path("shots", order_shot), path("shots/<str:job_id>", show_shot)]

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"])
django = get_asgi_application()
callbacks = kie.callbacks.asgi_app()


async def application(scope: Event, receive: Receive, send: Send) -> None:
    """Send callbacks to the client, start and stop the client with the server, and send all else to Django."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "http" and scope["path"].startswith("/kie/"):  # the path of KIE_CALLBACK_URL
        await callbacks(scope, receive, send)
    else:
        await django(scope, receive, send)


async def live(receive: Receive, send: Send) -> None:
    """Open the client and close it with the server: the lifespan that Django does not have."""
    await receive()
    async with kie:
        await kie.recover()  # resumes the jobs of an earlier process
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
