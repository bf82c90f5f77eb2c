"""The files that the service holds: uploads, results, links to them."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import attrs

from kie_async.testing import video
from kie_async.testing.drawing import draw_png
from kie_async.testing.jobs import image_of

if TYPE_CHECKING:
    from kie_async.testing.tasks import FakeTask

__all__ = ["FileStore", "StoredFile", "path_of", "sniff"]

#: Results are deleted two weeks after the end, whatever links there are.
DELETED_AFTER = 14 * 86_400.0

#: How long a minted link works.
LINK_EXPIRES_AFTER = 20 * 60.0

_MAGIC = (
    (b"\xff\xd8\xff", 0, "image/jpeg", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", 0, "image/png", ".png"),
    (b"WEBP", 8, "image/webp", ".webp"),
    (b"ftyp", 4, "video/mp4", ".mp4"),
)


def sniff(content: bytes) -> tuple[str, str]:
    r"""
    The media type of *content* and the suffix that goes with it, by its first bytes.

    >>> sniff(b"\xff\xd8\xff\xe0")
    ('image/jpeg', '.jpg')
    >>> sniff(b"?")
    ('application/octet-stream', '.bin')
    """
    for magic, offset, mime, suffix in _MAGIC:
        if content[offset : offset + len(magic)] == magic:
            return mime, suffix
    return "application/octet-stream", ".bin"


def path_of(url: str) -> str:
    """The path in *url*, as files are held under it."""
    return unquote(urlsplit(url).path)


@attrs.frozen
class StoredFile:
    """An uploaded file: its content, its media type, and until when it is held, by the loop's clock."""

    content: bytes = attrs.field(repr=False)
    mime: str
    expires_at: float


class FileStore:
    """
    All files of one fake, in memory.

    Args:
        seed: Seeds names and links.

        upload_expires_after: How long an upload is held, in seconds.

        max_clips: How many clips are kept, encoded; one is a fraction of a megabyte.

        make_clip: Encodes one, in a thread; see ``video.make_clip``.
    """

    def __init__(
        self,
        *,
        seed: int,
        upload_expires_after: float,
        max_clips: int = 32,
        make_clip: Callable[[bytes | None, int, str], bytes] = video.make_clip,
    ) -> None:
        self._max_clips = max_clips
        self._make_clip = make_clip
        self._upload_expires_after = upload_expires_after
        self._uploads: dict[str, StoredFile] = {}
        self._links: dict[str, tuple[str, float]] = {}
        self._clips: OrderedDict[tuple[str, int], asyncio.Future[bytes]] = OrderedDict()
        self._rng = Random(f"{seed} files")

    def name_for(self, content: bytes, epoch: float) -> str:
        """A new name, of the recorded form: the time in milliseconds, something random, and a suffix."""
        return f"{round(epoch * 1000)}-{self._rng.getrandbits(40):010x}{sniff(content)[1]}"

    def hold(self, path: str, content: bytes, now: float) -> StoredFile:
        """Hold *content* under *path*; what was there before is gone."""
        held = StoredFile(content, sniff(content)[0], now + self._upload_expires_after)
        self._uploads[path] = held
        return held

    def find(self, path: str, now: float) -> StoredFile | None:
        """The upload under *path*, or None if there is none any more."""
        held = self._uploads.get(path)
        return held if held is not None and now < held.expires_at else None

    def mint(self, path: str, now: float) -> str:
        """A new path under which the file at *path* can be fetched for twenty minutes, whether there is one or not."""
        link = f"/download/{self._rng.getrandbits(128):032x}/{path.rpartition('/')[2]}"
        self._links[link] = (path, now + LINK_EXPIRES_AFTER)
        return link

    def behind(self, link: str, now: float) -> str | None:
        """The path for which *link* was minted, or None if the link is none or has expired."""
        path, expires_at = self._links.get(link, ("", now))
        return path if now < expires_at else None

    async def result_of(self, task: FakeTask, now: float) -> bytes:
        """
        What *task* has made. Clips are encoded when first asked for, once for a picture and height, in a thread.
        """
        if task.output == "image":
            return draw_png(task.task_id, width=512, height=512)
        url = image_of(task)
        held = None if url is None else self.find(path_of(url), now)
        image = None if held is None else held.content
        source = task.task_id if url is None else url
        name = source if image is None else hashlib.sha256(image).hexdigest()
        clip = self._clip(name, image, _height_of(task))
        # Several may wait for one clip: whoever goes away must not take it along.
        return video.sign_clip(await asyncio.shield(clip), task.task_id)

    def _clip(self, name: str, image: bytes | None, height: int) -> asyncio.Future[bytes]:
        clip = self._clips.get((name, height))
        if clip is None or clip.cancelled():
            clip = asyncio.get_running_loop().run_in_executor(None, self._make_clip, image, height, name)
            self._clips[name, height] = clip
            if len(self._clips) > self._max_clips:
                self._clips.popitem(last=False)
        self._clips.move_to_end((name, height))
        return clip


def _height_of(task: FakeTask) -> int:
    """The height that a task's input asks for (``"480p"``), in pixels: even, at most 1080; else 720."""
    lines = re.fullmatch(r"(\d{3,4})p", str(task.input.get("resolution", "")), re.IGNORECASE)
    return min(int(lines[1]), 1080) // 2 * 2 if lines else 720
