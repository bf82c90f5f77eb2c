"""The file host: what is said to who brings a file, asks for one, or wants a link to one."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from kie_async.testing import dialect
from kie_async.testing.answers import FakeResponse, envelope_response
from kie_async.testing.drawing import draw_png
from kie_async.testing.files import DELETED_AFTER, FileStore, path_of, sniff
from kie_async.testing.jobs import UPLOADS

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.tasks import FakeTask
    from kie_async.testing.truth import LoggedUpload

__all__ = ["FileHost", "UploadContent"]

#: The account's number, as it stands in the paths of uploads.
_ACCOUNT = "100001"

#: What is brought: the content, the folder it is to lie in, and a name for it, as far as they were given.
UploadContent = tuple[bytes | None, str | None, str | None]

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404


class FileHost:
    """
    Uploads, results and minted links of one fake.

    Args:
        files: The files.

        tasks: The tasks, by id.

        expires_after: How long after its end a task's result can be fetched at its own URL, in seconds.
    """

    def __init__(self, *, files: FileStore, tasks: Mapping[str, FakeTask], expires_after: float) -> None:
        self._files = files
        self._tasks = tasks
        self._expires_after = expires_after

    def upload(
        self, upload: LoggedUpload, brought: UploadContent, *, key: str | None, origin: str, epoch: float
    ) -> FakeResponse:
        """
        Hold a file, or refuse it; unlike the API, this host answers refusals with real HTTP statuses.

        Args:
            upload: What is noted about it.

            brought: What was brought.

            key: The API key if it is good, else None.

            origin: Scheme, host and port that the client used.

            epoch: The wall clock, in seconds.
        """
        content, folder, name = brought
        if key is None:
            return _refuse(_UNAUTHORIZED, dialect.AUTHENTICATION_FAILED)
        if not folder:
            return _refuse(_BAD_REQUEST, dialect.NO_UPLOAD_PATH)
        if content is None:
            return _refuse(_BAD_REQUEST, "Missing required parameter: file")
        path = f"kieai/{_ACCOUNT}/{folder.strip('/')}/{name or self._files.name_for(content, epoch)}"
        held = self._files.hold(UPLOADS + path, content, upload.at)
        upload.path, upload.size, upload.mime = UPLOADS + path, len(content), held.mime
        at = datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        url = origin + quote(UPLOADS + path)
        return FakeResponse(
            body=dialect.uploaded(path=path, url=url, size=len(content), mime=held.mime, at=at), code=200
        )

    def download_url(self, url: JSON, now: float, *, key: str | None, origin: str) -> FakeResponse:
        """Mint a link to a file of the service's own, which need not exist."""
        if key is None:
            return envelope_response(401)
        if not isinstance(url, str) or not url.startswith((f"{origin}/results/", origin + UPLOADS)):
            return envelope_response(422, dialect.BAD_URL)
        return envelope_response(200, data=origin + quote(self._files.mint(path_of(url), now)))

    async def fetch(self, path: str, headers: Mapping[str, str], now: float) -> FakeResponse:
        """
        Hand out the file at *path*, or the part of it that a ``Range`` asks for.

        Args:
            path: The path of a result, an upload or a minted link.

            headers: The request's headers.

            now: The loop's clock.
        """
        agent = headers.get("User-Agent", "")
        if not agent or agent.startswith("Python-urllib"):
            return _plain(_FORBIDDEN, "error code: 1010")
        minted = path.startswith("/download/")
        behind = self._files.behind(path, now) if minted else path
        content = None if behind is None else await self._content(behind, now, minted=minted)
        if content is None:
            return _plain(_NOT_FOUND, "404: Not Found")
        return _part(content, headers)

    async def _content(self, path: str, now: float, *, minted: bool) -> bytes | None:
        """The file at *path*, if it is still there; a link reaches results whose own URL has expired."""
        if path.startswith(UPLOADS):
            held = self._files.find(path, now)
            return None if held is None else held.content
        task = self._tasks.get(path.split("/")[2]) if path.startswith("/results/") else None
        if task is None or path != task.result_path or task.state(now) != "success":
            return None
        if now >= task.ends_at + (DELETED_AFTER if minted else self._expires_after):
            return None
        return await self._files.result_of(task, now)


def decode_base64(text: JSON) -> bytes | None:
    """
    The content of a ``base64Data`` field, which is base64 or a data URL, or None if it is neither.

    >>> decode_base64("data:image/png;base64,aGk=")
    b'hi'
    """
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except binascii.Error:
        return None


def placeholder(url: JSON) -> bytes | None:
    """What stands for the file at a foreign *url*, since the fake fetches nothing."""
    return draw_png(url) if isinstance(url, str) and url else None


def _refuse(code: int, msg: str) -> FakeResponse:
    body = dialect.compact({"success": False, "code": code, "msg": msg}).encode()
    return FakeResponse(body=body, code=code, status=code)


def _plain(status: int, text: str) -> FakeResponse:
    return FakeResponse(body=text.encode(), status=status, content_type="text/plain; charset=utf-8")


def _part(content: bytes, headers: Mapping[str, str]) -> FakeResponse:
    """*content*, or one part of it (RFC 9110, 14: a single range of bytes, and If-Range with an entity tag)."""
    tag = f'"{binascii.crc32(content):08x}-{len(content):x}"'
    known = {"ETag": tag, "Accept-Ranges": "bytes"}
    mime = sniff(content)[0]
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", "").replace(" ", ""))
    if wanted is None or wanted[0] == "bytes=-" or headers.get("If-Range", tag) != tag:
        return FakeResponse(body=content, content_type=mime, headers=known)
    size = len(content)
    if wanted[1]:
        first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
    else:
        first, last = max(size - int(wanted[2]), 0), size - 1
    if first > last:
        return FakeResponse(
            body=b"", status=416, content_type=mime, headers={**known, "Content-Range": f"bytes */{size}"}
        )
    known["Content-Range"] = f"bytes {first}-{last}/{size}"
    return FakeResponse(body=content[first : last + 1], status=206, content_type=mime, headers=known)
