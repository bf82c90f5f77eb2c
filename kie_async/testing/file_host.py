"""The file host of the fake: uploads, results and temporary links."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import attrs

from kie_async._media import identify
from kie_async.testing import media, responses
from kie_async.testing.responses import FakeResponse, json_response
from kie_async.testing.task_api import UPLOADS, image_url

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.tasks import FakeTask
    from kie_async.testing.truth import LoggedUpload

__all__ = ["FileHost", "FileStore", "StoredFile", "UploadContent", "decode_base64", "detect_type", "placeholder"]

#: The service deletes results two weeks after the end of their task, whatever links exist.
DELETED_AFTER = 14 * 86_400.0

#: The lifetime of a temporary link.
LINK_EXPIRES_AFTER = 20 * 60.0

#: The account's number in the paths of uploads.
_ACCOUNT = "100001"

#: The content of an upload, its folder and its name, as far as they were given.
UploadContent = tuple[bytes | None, str | None, str | None]

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404


def detect_type(content: bytes) -> tuple[str, str]:
    r"""
    Return the media type of *content*, detected from its first bytes, and the file suffix for it.

    >>> detect_type(b"\xff\xd8\xff\xe0")
    ('image/jpeg', '.jpg')
    >>> detect_type(b"?")
    ('application/octet-stream', '.bin')
    """
    media_type = identify(content)
    return ("application/octet-stream", ".bin") if media_type is None else (media_type.mime, media_type.suffix)


def _path_of(url: str) -> str:
    return unquote(urlsplit(url).path)


@attrs.frozen
class StoredFile:
    """An uploaded file: its content, its media type, and its expiry by the loop's clock."""

    content: bytes = attrs.field(repr=False)
    mime: str
    expires_at: float


@attrs.define(kw_only=True, eq=False)
class FileStore:
    """
    All files of a fake, in memory.

    Attributes:
        seed: Seeds names and links.

        upload_expires_after: The lifetime of an upload, in seconds.

        max_clips: The number of encoded clips that are kept; a clip is a fraction of a megabyte.

        make_clip: Encodes a clip in a thread; see ``media.make_clip``.
    """

    seed: int
    upload_expires_after: float
    max_clips: int = 32
    make_clip: Callable[[bytes | None, int, str], bytes] = media.make_clip
    _uploads: dict[str, StoredFile] = attrs.field(factory=dict, init=False)
    _links: dict[str, tuple[str, float]] = attrs.field(factory=dict, init=False)
    _clips: OrderedDict[tuple[str, int], asyncio.Future[bytes]] = attrs.field(factory=OrderedDict, init=False)

    @cached_property
    def _rng(self) -> Random:
        return Random(f"{self.seed} files")

    def new_name(self, content: bytes, epoch: float) -> str:
        """Return a new name in the recorded format: the time in milliseconds, a random number and a suffix."""
        return f"{round(epoch * 1000)}-{self._rng.getrandbits(40):010x}{detect_type(content)[1]}"

    def store(self, path: str, content: bytes, now: float) -> StoredFile:
        """Store *content* under *path* and replace an earlier file."""
        stored = StoredFile(content, detect_type(content)[0], now + self.upload_expires_after)
        self._uploads[path] = stored
        return stored

    def find(self, path: str, now: float) -> StoredFile | None:
        """Return the upload under *path*, or None if it does not exist or has expired."""
        stored = self._uploads.get(path)
        return stored if stored is not None and now < stored.expires_at else None

    def find_url(self, url: str, now: float) -> StoredFile | None:
        """Return the upload at *url*, or None; the host of *url* is ignored."""
        return self.find(_path_of(url), now)

    def create_link(self, path: str, now: float) -> str:
        """Return a new path that leads to the file at *path* for twenty minutes; the file need not exist."""
        link = f"/download/{self._rng.getrandbits(128):032x}/{path.rpartition('/')[2]}"
        self._links[link] = (path, now + LINK_EXPIRES_AFTER)
        return link

    def resolve_link(self, link: str, now: float) -> str | None:
        """Return the path behind *link*, or None if the link is unknown or has expired."""
        path, expires_at = self._links.get(link, ("", now))
        return path if now < expires_at else None

    async def result_of(self, task: FakeTask, now: float) -> bytes:
        """Return the result of *task*; a clip is encoded in a thread on first use, once per picture and height."""
        if task.output == "image":
            return media.draw_png(task.task_id, width=512, height=512)
        if task.output in ("audio", "music"):
            return media.make_tone(task.task_id)
        url = image_url(task)
        stored = None if url is None else self.find(_path_of(url), now)
        image = None if stored is None else stored.content
        name = (task.task_id if url is None else url) if image is None else hashlib.sha256(image).hexdigest()
        # Several requests may wait for the same clip: the cancellation of one must not cancel the encoding.
        return media.append_text(await asyncio.shield(self._clip(name, image, _height_of(task))), task.task_id)

    def _clip(self, name: str, image: bytes | None, height: int) -> asyncio.Future[bytes]:
        clip = self._clips.get((name, height))
        if clip is None or clip.cancelled():
            clip = asyncio.get_running_loop().run_in_executor(None, self.make_clip, image, height, name)
            self._clips[name, height] = clip
            if len(self._clips) > self.max_clips:
                self._clips.popitem(last=False)
        self._clips.move_to_end((name, height))
        return clip


def _height_of(task: FakeTask) -> int:
    """Return the height that a task's input requests (``"480p"``), in pixels: even, at most 1080; else 720."""
    lines = re.fullmatch(r"(\d{3,4})p", str(task.input.get("resolution", "")), re.IGNORECASE)
    return min(int(lines[1]), 1080) // 2 * 2 if lines else 720


@attrs.frozen(kw_only=True)
class FileHost:
    """
    The responses about files.

    Attributes:
        files: The files.

        tasks: The tasks by id.

        expires_after: The time after the end of a task until the URL of its result expires, in seconds.
    """

    files: FileStore
    tasks: Mapping[str, FakeTask]
    expires_after: float

    def upload(
        self, upload: LoggedUpload, given: UploadContent, *, key: str | None, origin: str, epoch: float
    ) -> FakeResponse:
        """
        Store a file, or refuse it; unlike the API, this host sends refusals with real HTTP statuses.

        Args:
            upload: The log entry, which is completed.

            given: The content, the folder and the name.

            key: The API key if it is valid, else None.

            origin: Scheme, host and port that the client used.

            epoch: The wall clock, in seconds.
        """
        content, folder, name = given
        if key is None:
            return _refuse(_UNAUTHORIZED, responses.AUTHENTICATION_FAILED)
        if not folder:
            return _refuse(_BAD_REQUEST, responses.NO_UPLOAD_PATH)
        if content is None:
            return _refuse(_BAD_REQUEST, "Missing required parameter: file")
        path = f"kieai/{_ACCOUNT}/{folder.strip('/')}/{name or self.files.new_name(content, epoch)}"
        stored = self.files.store(UPLOADS + path, content, upload.at)
        upload.path, upload.size, upload.mime = UPLOADS + path, len(content), stored.mime
        at = datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        url = origin + quote(UPLOADS + path)
        return responses.uploaded(path=path, url=url, size=len(content), mime=stored.mime, at=at)

    def download_url(self, url: JSON, now: float, *, key: str | None, origin: str) -> FakeResponse:
        """Create a temporary link to a file of the service, which need not exist."""
        if key is None:
            return json_response(401)
        if not isinstance(url, str) or not url.startswith((f"{origin}/results/", origin + UPLOADS)):
            return json_response(422, responses.BAD_URL)
        return json_response(200, data=origin + quote(self.files.create_link(_path_of(url), now)))

    async def fetch(self, path: str, headers: Mapping[str, str], now: float) -> FakeResponse:
        """
        Return the file at *path*, or the part of it that a ``Range`` header requests.

        Args:
            path: The path of a result, an upload or a temporary link.

            headers: The request's headers.

            now: The loop's clock.
        """
        agent = headers.get("User-Agent", "")
        if not agent or agent.startswith("Python-urllib"):
            return _plain(_FORBIDDEN, "error code: 1010")
        is_link = path.startswith("/download/")
        target = self.files.resolve_link(path, now) if is_link else path
        content = None if target is None else await self._content(target, now, is_link=is_link)
        return _plain(_NOT_FOUND, "404: Not Found") if content is None else _select_range(content, headers)

    async def _content(self, path: str, now: float, *, is_link: bool) -> bytes | None:
        """Return the file at *path* if it still exists; a link also reaches results whose own URL has expired."""
        if path.startswith(UPLOADS):
            stored = self.files.find(path, now)
            return None if stored is None else stored.content
        task = self.tasks.get(path.split("/")[2]) if path.startswith("/results/") else None
        if task is None or path != task.result_path or task.state(now) != "success":
            return None
        if now >= task.ends_at + (DELETED_AFTER if is_link else self.expires_after):
            return None
        return await self.files.result_of(task, now)


def decode_base64(text: JSON) -> bytes | None:
    """
    Return the content of a ``base64Data`` field, which is base64 or a data URL; None if it is neither.

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
    """Return a drawn picture in place of the file at a foreign *url*, since the fake fetches nothing."""
    return media.draw_png(url) if isinstance(url, str) and url else None


def _refuse(code: int, msg: str) -> FakeResponse:
    body = responses.encode({"success": False, "code": code, "msg": msg}).encode()
    return FakeResponse(body=body, code=code, status=code)


def _plain(status: int, text: str) -> FakeResponse:
    return FakeResponse(body=text.encode(), status=status, content_type="text/plain; charset=utf-8")


def _select_range(content: bytes, headers: Mapping[str, str]) -> FakeResponse:
    """Return *content* or a part of it (RFC 9110, 14: a single range of bytes, and If-Range with an entity tag)."""
    tag = f'"{binascii.crc32(content):08x}-{len(content):x}"'
    known = {"ETag": tag, "Accept-Ranges": "bytes"}
    mime = detect_type(content)[0]
    requested = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", "").replace(" ", ""))
    if requested is None or requested[0] == "bytes=-" or headers.get("If-Range", tag) != tag:
        return FakeResponse(body=content, content_type=mime, headers=known)
    size = len(content)
    if requested[1]:
        first, last = int(requested[1]), min(int(requested[2] or size - 1), size - 1)
    else:
        first, last = max(size - int(requested[2]), 0), size - 1
    if first > last:
        known["Content-Range"] = f"bytes */{size}"
        return FakeResponse(body=b"", status=416, content_type=mime, headers=known)
    known["Content-Range"] = f"bytes {first}-{last}/{size}"
    return FakeResponse(body=content[first : last + 1], status=206, content_type=mime, headers=known)
