"""A scripted file host, which serves results in the tests of downloads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import attrs
from aiohttp import web
from multidict import CIMultiDict

from kie_async import Generation, MarketRequest
from kie_async.testing import Fault
from tests.helpers import PROMPT, Setup, client_and_fake, make_request

__all__ = ["MP4", "FileHost", "files_in", "generate_image", "generation_on_host", "make_mp4"]


def make_mp4(size: int) -> bytes:
    """Return a file of *size* bytes that is an MP4 by its outermost structure."""
    return (
        b"\0\0\0\x10ftypisom\0\0\2\0"
        + (size - 16).to_bytes(4, "big")
        + b"mdat"
        + (bytes(range(251)) * (size // 251 + 1))[: size - 24]
    )


#: An MP4 of 100 KB.
MP4 = make_mp4(102_412)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@attrs.define(eq=False)
class FileHost:
    """
    A file host.

    Attributes:
        url: Its URL.

        seen: Path and headers of every request.

        answers: The scripted responses, by path; all other paths serve the MP4.
    """

    url: str = ""
    seen: list[tuple[str, CIMultiDict[str]]] = attrs.field(factory=list)
    answers: dict[str, Handler] = attrs.field(factory=dict)

    def at(self, path: str, body: bytes = MP4, **how: Any) -> str:
        """Serve *body* at *path*, and return its URL."""
        how = {"content_type": "video/mp4", **how}

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=body, **how)

        self.answers[path] = answer
        return self.url + path

    def redirect(self, path: str, location: str | None, status: int = 302) -> str:
        """Serve a redirect at *path*, and return its URL."""
        headers = {} if location is None else {"Location": location}
        return self.at(path, b"", status=status, content_type="text/plain", headers=headers)

    @property
    def paths(self) -> list[str]:
        """The requested paths."""
        return [path for path, _ in self.seen]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Handle one request."""
        self.seen.append((request.path, CIMultiDict(request.headers)))
        answer = self.answers.get(request.path)
        return web.Response(body=MP4, content_type="video/mp4") if answer is None else await answer(request)


@asynccontextmanager
async def _serving() -> AsyncIterator[FileHost]:
    host = FileHost()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", host.serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield host
    finally:
        await runner.cleanup()


@asynccontextmanager
async def generation_on_host(
    *paths: str, known: bool = True, client: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Generation, FileHost, Setup]]:
    """
    Yield a generation whose results are on a file host.

    Args:
        *paths: The paths of the results on the host, or whole URLs.

        known: True to configure the client for the host, which is not public.

        client: Further arguments of the client.
    """
    async with _serving() as host:
        options = {**(client or {}), **({"upload_url": host.url} if known else {})}
        async with client_and_fake(client=options, duration=0.0) as setup:
            urls = [path if "//" in path else host.url + path for path in paths or ("/a.mp4",)]
            result = json.dumps({"resultUrls": urls})
            setup.fake.inject(Fault("poll", "alter", data={"resultJson": result}))
            yield await setup.kie.generate(make_request()), host, setup


async def generate_image(setup: Setup) -> Generation:
    """Return a generated image, which takes less time than a video."""
    return await setup.kie.generate(MarketRequest(model="z-image", input={"prompt": PROMPT}))


def files_in(folder: Any) -> dict[str, bytes]:
    """Return all files below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
