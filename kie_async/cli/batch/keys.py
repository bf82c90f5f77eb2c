"""What rows are called: their own keys, which must be good; or names made of what is in them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import attrs

from kie_async import Problem, Request
from kie_async._display import shown
from kie_async._settings import MAX_KEY, is_retry_key
from kie_async._urls import looks_like_url
from kie_async.cli.batch.columns import KEY
from kie_async.requests.images import ImageSource

__all__ = ["Hashes", "Keys", "input_hash_of", "problems_of_key", "source_of", "stem_of"]

#: How much of a hash makes a key, in hexadecimal digits: no two of a million rows are likely to share them.
_DIGITS = 16
_LONGEST_STEM = 40
#: Of so many images the hash is remembered.
_REMEMBERED = 1000
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@attrs.define
class Keys:
    """Names for rows that have none: made of what is in them, so that they stay the same wherever the rows go."""

    _seen: set[int] = attrs.field(factory=set)
    _again: Counter[int] = attrs.field(factory=Counter)

    def make(self, stem: str, input_hash: str) -> str:
        """The name of the next row with this content: the second one of the same gets another than the first."""
        number = int(input_hash[:_DIGITS], 16)
        key = f"{stem}-{input_hash[:_DIGITS]}"
        if number not in self._seen:
            self._seen.add(number)
            return key
        self._again[number] += 1
        return f"{key}-{self._again[number] + 1}"


def input_hash_of(request: Request, hashes: Mapping[str, str]) -> str:
    """
    The SHA-256 of what a request asks for, images by content.

    Args:
        request: It.

        hashes: Those of its local images, by field.
    """
    content = {"model": request.model, "input": request.input(hashes)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@attrs.define
class Hashes:
    """The hashes of images, of which the last ones are remembered: many rows may have the same."""

    _known: dict[tuple[Path, int, int], str] = attrs.field(factory=dict)

    def of(self, image: ImageSource) -> str:
        """The SHA-256 of an image that was found to be good; blocks."""
        if not isinstance(image.content, Path):
            return image.load().sha256
        seen = image.content.stat()
        name = (image.content, seen.st_size, seen.st_mtime_ns)
        if name not in self._known:
            if len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[name] = image.load().sha256
        return self._known[name]


def source_of(cells: Mapping[str, object]) -> str | None:
    """The image of a row: what the first column of that name, or with it in its name, says."""
    texts = {name: cell for name, cell in cells.items() if isinstance(cell, str) and cell}
    return texts.get("image") or next((cell for name, cell in texts.items() if "image" in name), None)


def stem_of(source: str | None) -> str:
    """What an image is called, as far as it can stand in the name of a file; a URL's is the end of its path."""
    path = source or ""
    if looks_like_url(path):
        path = path.partition("?")[0].partition("#")[0]
    name = PurePosixPath(path).stem
    return _UNFIT.sub("-", name)[:_LONGEST_STEM].strip("-.") or "shot"


def problems_of_key(key: object, seen: set[int]) -> list[Problem]:
    """
    What keeps a value from naming a row.

    Args:
        key: It; an empty text is none, and a name will be made.

        seen: The hashes of the names so far; the new one is added.
    """
    if key == "":
        return []
    if not (isinstance(key, str) and len(key) <= MAX_KEY and key.isprintable()):
        return [Problem(KEY, shown(key), f"a text of 1 to {MAX_KEY} characters, all of them printable")]
    if is_retry_key(key):
        return [Problem(KEY, shown(key), "a text that does not end in ~retry and a number, as the keys of retries do")]
    # What is not ASCII is spelt out in the names of files, so capitals of ASCII are all that a file system may not see.
    name = int.from_bytes(hashlib.blake2b(key.encode().lower(), digest_size=8).digest(), "big")
    if name in seen:
        allowed = "a key of its own for each row; capitals alone do not tell files apart everywhere"
        return [Problem(KEY, f"{key!a} again", allowed)]
    seen.add(name)
    return []
