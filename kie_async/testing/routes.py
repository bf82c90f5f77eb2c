"""The routes of the fake: the handler of each path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.message import Message
from typing import TYPE_CHECKING

import anyio
import attrs
from aiohttp import hdrs

from kie_async.testing.account import FakeAccount
from kie_async.testing.callbacks import CallbackSender
from kie_async.testing.file_host import FileHost, UploadContent, decode_base64, placeholder
from kie_async.testing.model_api import ModelApi
from kie_async.testing.responses import FakeResponse, json_response
from kie_async.testing.task_api import UPLOADS, TaskApi, read_json
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
    from kie_async.testing.faults import FaultPlace
    from kie_async.testing.server import Handler, IncomingRequest

__all__ = ["Routes"]

_RATE_LIMITED = 429


@attrs.frozen(kw_only=True)
class Routes:
    """
    The routes of a fake.

    Attributes:
        truth: The log.

        account: The account.

        api: The jobs API.

        models: The list of models.

        file_host: The file host.

        sender: The sender of callbacks.

        wall: Returns the wall clock at an instant of the loop's clock.

        create_seconds: Draws the processing time of a create request.
    """

    truth: Truth
    account: FakeAccount
    api: TaskApi
    models: ModelApi
    file_host: FileHost
    sender: CallbackSender
    wall: Callable[[float], float]
    create_seconds: Callable[[], float]

    def table(self) -> list[tuple[str, str, FaultPlace, Handler]]:
        """Return method, path, place and handler of every route. The service cannot cancel tasks, so no route does."""
        files: list[tuple[str, str, FaultPlace, Handler]] = [
            ("GET", path + "{tail:.+}", "download", self._download) for path in ("/results/", UPLOADS, "/download/")
        ]
        return [
            # Clients of 2025 use the older name of the API.
            *(("POST", f"/api/v1/{name}/createTask", "create", self._create) for name in ("jobs", "playground")),
            *(("GET", f"/api/v1/{name}/recordInfo", "poll", self._poll) for name in ("jobs", "playground")),
            ("GET", "/api/v1/chat/credit", "credit", self._credit),
            ("GET", "/api/v1/models", "models", self._list_models),
            ("GET", "/api/v1/models/{tail:.+}", "models", self._describe_model),
            ("POST", "/api/v1/common/download-url", "download_url", self._download_url),
            ("POST", "/api/file-stream-upload", "upload", self._stream_upload),
            ("POST", "/api/file-base64-upload", "upload", self._base64_upload),
            ("POST", "/api/file-url-upload", "upload", self._url_upload),
            *files,
        ]

    def _key(self, incoming: IncomingRequest) -> str | None:
        return self.account.valid_key(incoming.request.headers.get(hdrs.AUTHORIZATION, ""))

    async def _create(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        body = read_json(incoming.body)
        post = LoggedCreate(incoming.at, body=body, model=_text(body, "model"), callback_url=_text(body, "callBackUrl"))
        self.truth.create_requests.append(post)
        if not incoming.performed:
            return post, json_response(200)
        response, task = self.api.create(
            post,
            key=self._key(incoming),
            origin=incoming.origin,
            epoch=self.wall(incoming.at),
            numeric=incoming.fault is not None and incoming.fault.kind == "numeric_task_id",
        )
        if task is not None:
            post.task_id = task.task_id
            self.sender.schedule(task)
        if response.code != _RATE_LIMITED:
            await anyio.sleep(self.create_seconds())
        return post, response

    async def _poll(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        poll = LoggedPoll(incoming.at, incoming.request.query.get("taskId", ""))
        self.truth.polls.append(poll)
        return poll, self.api.record_info(poll, key=self._key(incoming))

    async def _credit(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        return self._query(incoming, "credit"), self.api.credit(incoming.at, key=self._key(incoming))

    async def _download_url(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        url = _text(read_json(incoming.body), "url")
        response = self.file_host.download_url(url, incoming.at, key=self._key(incoming), origin=incoming.origin)
        return self._query(incoming, "download_url"), response

    async def _list_models(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        response = self.models.list_models(incoming.at, incoming.request.query, key=self._key(incoming))
        return self._query(incoming, "models"), response

    async def _describe_model(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        path = incoming.request.match_info["tail"]
        return self._query(incoming, "models"), self.models.describe(incoming.at, path, key=self._key(incoming))

    def _query(self, incoming: IncomingRequest, place: str) -> LoggedQuery:
        query = LoggedQuery(incoming.at, place)
        self.truth.queries.append(query)
        return query

    async def _stream_upload(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        parts = read_form(incoming.body, incoming.request.headers.get(hdrs.CONTENT_TYPE, ""))
        folder, name = (parts[field].decode() if field in parts else None for field in ("uploadPath", "fileName"))
        return self._upload(incoming, (parts.get("file"), folder, name))

    async def _base64_upload(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        body = read_json(incoming.body)
        content = decode_base64(_text(body, "base64Data"))
        return self._upload(incoming, (content, _text(body, "uploadPath"), _text(body, "fileName")))

    async def _url_upload(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        body = read_json(incoming.body)
        content = placeholder(_text(body, "fileUrl"))
        return self._upload(incoming, (content, _text(body, "uploadPath"), _text(body, "fileName")))

    def _upload(self, incoming: IncomingRequest, given: UploadContent) -> tuple[LoggedRequest, FakeResponse]:
        upload = LoggedUpload(incoming.at)
        self.truth.uploads.append(upload)
        if not incoming.performed:
            return upload, json_response(200)
        response = self.file_host.upload(
            upload, given, key=self._key(incoming), origin=incoming.origin, epoch=self.wall(incoming.at)
        )
        return upload, response

    async def _download(self, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        request = incoming.request
        download = LoggedDownload(incoming.at, request.path, hdrs.AUTHORIZATION in request.headers)
        self.truth.downloads.append(download)
        return download, await self.file_host.fetch(request.path, request.headers, incoming.at)


def _text(body: JSON, field: str) -> str | None:
    """Return the string in a field of *body*, or None."""
    value = body.get(field) if isinstance(body, Mapping) else None
    return value if isinstance(value, str) else None


def read_form(body: bytes, content_type: str) -> dict[str, bytes]:
    r"""
    Parse the fields of a form (RFC 7578).

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
