"""A plain HTTP client for tests of the fake, independent of the package's own client."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import pytest

from kie_async.testing import FakeKie

#: Untyped JSON and untyped options of a fake.

WAN = "wan/2-2-a14b-image-to-video-turbo"
KEY = "a key"


class ApiResponse(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


class Api:
    """A client that checks nothing and retries nothing."""

    def __init__(self, fake: FakeKie, session: aiohttp.ClientSession) -> None:
        self.fake = fake
        self._session = session

    async def request(
        self, method: str, path: str, *, key: str | None = KEY, headers: dict[str, str] | None = None, **options: Any
    ) -> ApiResponse:
        """Request a path of the fake, or a URL."""
        url = path if path.startswith("http") else self.fake.url + path
        sent = {**({"Authorization": f"Bearer {key}"} if key is not None else {}), **(headers or {})}
        async with self._session.request(method, url, headers=sent, allow_redirects=False, **options) as answer:
            return ApiResponse(answer.status, dict(answer.headers), await answer.read())

    async def create(
        self, model: str = WAN, *, callback_url: str | None = None, key: str | None = KEY, **given: Any
    ) -> ApiResponse:
        """Create a task, by default with a valid input."""
        body = {"model": model, "input": {"prompt": "A cat", "image_url": "https://example.com/cat.png", **given}}
        if callback_url is not None:
            body["callBackUrl"] = callback_url
        return await self.request("POST", "/api/v1/jobs/createTask", json=body, key=key)

    async def task(self, model: str = WAN, *, callback_url: str | None = None, **given: Any) -> str:
        """Create a task and return its id."""
        answer = await self.create(model, callback_url=callback_url, **given)
        task_id: str = answer.json["data"]["taskId"]
        return task_id

    async def poll(self, task_id: str, *, key: str | None = KEY) -> ApiResponse:
        """Poll a task."""
        return await self.request("GET", "/api/v1/jobs/recordInfo", params={"taskId": task_id}, key=key)

    async def record(self, task_id: str) -> dict[str, Any]:
        """Poll a task and return the record."""
        data: dict[str, Any] = (await self.poll(task_id)).json["data"]
        return data

    async def result_url(self, task_id: str) -> str:
        """Return the first URL of a successful task."""
        url: str = json.loads((await self.record(task_id))["resultJson"])["resultUrls"][0]
        return url

    async def credits(self) -> float:
        """Return the credits of the account."""
        amount: float = (await self.request("GET", "/api/v1/chat/credit")).json["data"]
        return amount

    async def upload(self, content: bytes, **fields: str) -> ApiResponse:
        """Upload *content* as a form."""
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(content), filename="cat.png", content_type="image/png")
        for name, value in {"uploadPath": "images", **fields}.items():
            form.add_field(name, value)
        return await self.request("POST", "/api/file-stream-upload", data=form)


Serve: TypeAlias = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture
def serve() -> Serve:
    """Provide a function that starts a fake and returns a client of it."""

    @asynccontextmanager
    async def serving(**options: Any) -> AsyncIterator[Api]:
        cookies = aiohttp.DummyCookieJar()
        async with FakeKie(**options) as fake, aiohttp.ClientSession(cookie_jar=cookies) as session:
            yield Api(fake, session)

    return serving
