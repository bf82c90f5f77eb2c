"""The routes: which path leads to what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.message import Message
from typing import TYPE_CHECKING

import anyio
from aiohttp import hdrs

from kie_async.testing.answers import FakeResponse, empty_success
from kie_async.testing.hosting import FileHost, UploadContent, decode_base64, placeholder
from kie_async.testing.jobs import UPLOADS, TaskApi, read_json
from kie_async.testing.truth import (
    LoggedCreate,
    LoggedDownload,
    LoggedPoll,
    LoggedQuery,
    LoggedRequest,
    LoggedUpload,
    Truth,
)

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.account import FakeAccount
    from kie_async.testing.callbacks import CallbackSender
    from kie_async.testing.faults import FaultPlace
    from kie_async.testing.server import Handler, IncomingRequest

__all__ = ["Routes"]

_RATE_LIMITED = 429


class Routes:
    """
    The routes of one fake.

    Args:
        truth: Where everything is noted.

        account: Who may ask.

        jobs: The jobs API.

        hosting: The upload and file host.

        courier: Who reports ends.

        wall: The wall clock at an instant of the loop's.

        create_seconds: Draws how long a create takes after it was counted.
    """

    def __init__(
        self,
        *,
        truth: Truth,
        account: FakeAccount,
        jobs: TaskApi,
        hosting: FileHost,
        courier: CallbackSender,
        wall: Callable[[float], float],
        create_seconds: Callable[[], float],
    ) -> None:
        self._truth = truth
        self._account = account
        self._jobs = jobs
        self._hosting = hosting
        self._courier = courier
        self._wall = wall
        self._create_seconds = create_seconds

    def table(self) -> list[tuple[str, str, FaultPlace, Handler]]:
        """Method, path, place and handler of every route; whatever is not here is not found, as cancelling is not."""
        files: list[tuple[str, str, FaultPlace, Handler]] = [
            ("GET", path + "{tail:.+}", "download", self._download) for path in ("/results/", UPLOADS, "/download/")
        ]
        return [
            # Clients of 2025 know the API by its older name.
            *(("POST", f"/api/v1/{name}/createTask", "create", self._create) for name in ("jobs", "playground")),
            *(("GET", f"/api/v1/{name}/recordInfo", "poll", self._poll) for name in ("jobs", "playground")),
            ("GET", "/api/v1/chat/credit", "credit", self._credit),
            ("POST", "/api/v1/common/download-url", "download_url", self._download_url),
            ("POST", "/api/file-stream-upload", "upload", self._stream_upload),
            ("POST", "/api/file-base64-upload", "upload", self._base64_upload),
            ("POST", "/api/file-url-upload", "upload", self._url_upload),
            *files,
        ]

    def _key(self, exchange: IncomingRequest) -> str | None:
        return self._account.key_of(exchange.request.headers.get(hdrs.AUTHORIZATION, ""))

    async def _create(self, exchange: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        body = read_json(exchange.body)
        post = LoggedCreate(exchange.at, body=body, model=_text(body, "model"), callback_url=_text(body, "callBackUrl"))
        self._truth.create_requests.append(post)
        if not exchange.acts:
            return post, empty_success()
        answer, task = self._jobs.create(
            post,
            key=self._key(exchange),
            origin=exchange.origin,
            epoch=self._wall(exchange.at),
            numeric=exchange.fault is not None and exchange.fault.kind == "numeric_task_id",
        )
        if task is not None:
            post.task_id = task.task_id
            self._courier.expect(task)
        if answer.code != _RATE_LIMITED:
            await anyio.sleep(self._create_seconds())
        return post, answer

    async def _poll(self, exchange: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        poll = LoggedPoll(exchange.at, exchange.request.query.get("taskId", ""))
        self._truth.polls.append(poll)
        return poll, self._jobs.record_info(poll, key=self._key(exchange))

    async def _credit(self, exchange: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        return self._query(exchange, "credit"), self._jobs.credit(exchange.at, key=self._key(exchange))

    async def _download_url(self, exchange: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        url = _text(read_json(exchange.body), "url")
        answer = self._hosting.download_url(url, exchange.at, key=self._key(exchange), origin=exchange.origin)
        return self._query(exchange, "download_url"), answer

    def _query(self, exchange: IncomingRequest, place: str) -> LoggedQuery:
        query = LoggedQuery(exchange.at, place)
        self._truth.queries.append(query)
        return query

    async def _stream_upload(self, exchange: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        parts = read_form(exchange.body, exchange.request.headers.get(hdrs.CONTENT_TYPE, ""))
        folder, name = (parts[field].decode() if field in parts else None for field in ("uploadPath", "fileName"))
        return self._upload(exchange, (parts.get("file"), folder, name))

    async def _base64_upload(self, exchange: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        body = read_json(exchange.body)
        content = decode_base64(_text(body, "base64Data"))
        return self._upload(exchange, (content, _text(body, "uploadPath"), _text(body, "fileName")))

    async def _url_upload(self, exchange: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        body = read_json(exchange.body)
        content = placeholder(_text(body, "fileUrl"))
        return self._upload(exchange, (content, _text(body, "uploadPath"), _text(body, "fileName")))

    def _upload(self, exchange: IncomingRequest, brought: UploadContent) -> tuple[LoggedRequest, FakeResponse]:
        upload = LoggedUpload(exchange.at)
        self._truth.uploads.append(upload)
        if not exchange.acts:
            return upload, empty_success()
        answer = self._hosting.upload(
            upload, brought, key=self._key(exchange), origin=exchange.origin, epoch=self._wall(exchange.at)
        )
        return upload, answer

    async def _download(self, exchange: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        request = exchange.request
        download = LoggedDownload(exchange.at, request.path, hdrs.AUTHORIZATION in request.headers)
        self._truth.downloads.append(download)
        return download, await self._hosting.fetch(request.path, request.headers, exchange.at)


def _text(body: JSON, field: str) -> str | None:
    """The text in a field of *body*, or None if there is none."""
    value = body.get(field) if isinstance(body, Mapping) else None
    return value if isinstance(value, str) else None


def read_form(body: bytes, content_type: str) -> dict[str, bytes]:
    r"""
    The fields of a form (RFC 7578).

    >>> form = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
    >>> read_form(form, "multipart/form-data; boundary=x")
    {'a': b'1'}
    """
    boundary = _parameter(content_type, "boundary")
    fields: dict[str, bytes] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode()) if boundary else []:
        head, blank, content = part.partition(b"\r\n\r\n")
        for line in head.decode("utf-8", "replace").split("\r\n") if blank else []:
            field, _, value = line.partition(":")
            if field.lower() == "content-disposition":
                fields[_parameter(value, "name")] = content
    return fields


def _parameter(header: str, name: str) -> str:
    message = Message()
    message["Content-Type"] = header.strip()
    value = message.get_param(name)
    return value if isinstance(value, str) else ""
