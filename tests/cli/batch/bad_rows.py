"""Invalid rows as data, with the problem that must be reported for each."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import attrs

from kie_async.requests.media import MAX_BYTES
from tests.cli.helpers import CAT
from tests.requests.samples import GIF, png_of

__all__ = ["BAD_ROWS", "BadRow", "prepare"]

_GOOD = {"image": "cat.jpg", "prompt": "Go"}
_COLUMNS = ("key", "image", "prompt", "resolution", "seed", "acceleration", "enable_prompt_expansion", "aspect_ratio")


@attrs.frozen(kw_only=True)
class BadRow:
    """
    An invalid row.

    Attributes:
        name: The fault.

        raw: The row as bytes of the file.

        file: The name of the table file.

        column: The column that is reported.

        value: A part of the reported value.

        allowed: A part of the reported allowed values.

        line: The line that is reported.
    """

    name: str
    raw: bytes
    file: str
    column: str
    value: str
    allowed: str
    line: int = 3

    def between_good_ones(self) -> bytes:
        """Return a table with this row on line 3, between valid rows."""
        good = _csv_row({**_GOOD, "key": "good"}), _csv_row(_GOOD)
        if self.file.endswith(".jsonl"):
            good = json.dumps({**_GOOD, "key": "good"}).encode() + b"\n", json.dumps(_GOOD).encode() + b"\n"
            return b"".join((good[0], good[1], self.raw, good[1]))
        return b"".join((",".join(_COLUMNS).encode() + b"\n", good[0], self.raw, good[1]))


def prepare(folder: Path) -> None:
    """Write the files that the rows name."""
    (folder / "a.gif").write_bytes(GIF)
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(CAT.read_bytes()[:-20])
    (folder / "huge.png").write_bytes(png_of(MAX_BYTES + 1))
    (folder / "pictures").mkdir()


def _csv_row(cells: dict[str, str]) -> bytes:
    file = io.StringIO()
    csv.DictWriter(file, _COLUMNS).writerow(cells)
    return file.getvalue().encode()


def _cell(name: str, column: str, cell: str, value: str, allowed: str) -> BadRow:
    raw = _csv_row({**_GOOD, column: cell})
    return BadRow(name=name, raw=raw, file="shots.csv", column=column, value=value, allowed=allowed)


def _line(name: str, raw: bytes, value: str, allowed: str, *, column: str = "row") -> BadRow:
    return BadRow(name=name, raw=raw + b"\n", file="shots.csv", column=column, value=value, allowed=allowed)


def _json(name: str, row: object, column: str, value: str, allowed: str) -> BadRow:
    raw = (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n"
    return BadRow(name=name, raw=raw, file="shots.jsonl", column=column, value=value, allowed=allowed)


_IMAGE = "a whole JPEG, PNG or WebP image of at most 10 MB"
_URL = "a public http or https URL, or a local image"
_TEXT = "a string of 1 to 5000 characters"
_SEED = "an integer from 0 to 2147483647"
_OBJECT = "one JSON object"

BAD_ROWS = [
    _cell("no image", "image", "", "nothing", _IMAGE),
    _cell("an image that is not there", "image", "no.jpg", "no.jpg", "does not exist"),
    _cell("an image that is a folder", "image", "pictures", "pictures", "is a directory"),
    _cell("an image that is a text", "image", "text.png", "text.png", "none of these, whatever its name says"),
    _cell("an image that is empty", "image", "empty.png", "empty.png", "is empty"),
    _cell("an image that is a GIF", "image", "a.gif", "a.gif", "is image/gif"),
    _cell("an image that is cut off", "image", "cut.jpg", "cut.jpg", "cut off or damaged"),
    _cell("an image that is too large", "image", "huge.png", "huge.png", f"has more than {MAX_BYTES} bytes"),
    _cell("an image that is a data URL", "image", "data:image/png;base64,AAAA", "data:", _URL),
    _cell("an image at a private address", "image", "http://192.168.0.1/a.png", "192.168.0.1", "not a public address"),
    _cell("an image at an FTP server", "image", "ftp://example.com/a.png", "ftp://", _URL),
    _cell("an image behind a password", "image", "https://u:p@example.com/a.png", "example.com", _URL),
    _cell("no prompt", "prompt", "", "nothing", _TEXT),
    _cell("a prompt of blanks", "prompt", "  \u00a0 ", "blanks only", _TEXT),
    _cell("a prompt that is too long", "prompt", "a" * 5001, "5001 characters", _TEXT),
    _cell("an unknown resolution", "resolution", "1080p", "'1080p'", "480p or 720p"),
    _cell("a resolution in capitals", "resolution", "720P", "'720P'", "it must be written '720p'"),
    _cell("a seed that is a word", "seed", "lucky", "'lucky'", _SEED),
    _cell("a seed with a point", "seed", "1.5", "'1.5'", _SEED),
    _cell("a seed below zero", "seed", "-1", "-1", _SEED),
    _cell("a seed that is too large", "seed", "2147483648", "2147483648", _SEED),
    _cell("a seed of a thousand digits", "seed", "9" * 1000, "9999", _SEED),
    _cell("an unknown acceleration", "acceleration", "turbo", "'turbo'", "none or regular"),
    _cell("a flag that is neither", "enable_prompt_expansion", "maybe", "'maybe'", "True or False"),
    _cell("an unknown aspect ratio", "aspect_ratio", "4:3", "'4:3'", "auto, 16:9, 9:16 or 1:1"),
    _cell("a key that another row has", "key", "good", "'good' again", "a different key for each row"),
    _cell("a key that is too long", "key", "k" * 513, "513 characters", "a string of 1 to 512 characters"),
    _cell("a key with a line break", "key", "a\nb", r"'a\nb'", "all of them printable"),
    _cell("a key of a retry", "key", "a~retry1", r"'a~retry1'", "does not end in ~retry"),
    _line("too few cells", b"a,cat.jpg,Go", "3 cells", "8, one for each column"),
    _line("too many cells", b"a,cat.jpg,Go,,,,,,,x", "10 cells", "8, one for each column"),
    _line("a quote in the middle", b'a,cat.jpg,"Go" on,,,,,', "invalid CSV", '" is written ""'),
    _line("a byte that is not UTF-8", b"a,cat.jpg,Fr\xfchling,,,,,", "byte 0xfc at place 13", "UTF-8", column="line"),
    _json("broken JSON", b'{"image": ', "row", "invalid JSON", _OBJECT),
    _json("a list", ["cat.jpg", "Go"], "row", "a list", _OBJECT),
    _json("a single value", b"7", "row", "a single value", _OBJECT),
    _json("a constant that is not JSON", b'{"image": "cat.jpg", "prompt": "Go", "seed": NaN}', "row", "NaN", _OBJECT),
    _json("a name twice", b'{"image": "cat.jpg", "prompt": "a", "prompt": "b"}', "row", "comes 2 times", _OBJECT),
    _json("deeply nested JSON", b"[" * 100_000, "row", "nested too deeply", _OBJECT),
    _json("an unknown name", {**_GOOD, "sead": 7}, "column", "'sead'", "did you mean 'seed'?"),
    _json("a seed in quotes", {**_GOOD, "seed": "7"}, "seed", "'7'", _SEED),
    _json("a prompt that is a list", {**_GOOD, "prompt": ["Go"]}, "prompt", "a value of type list", _TEXT),
    _json("a prompt with half a character", {**_GOOD, "prompt": "\ud83d"}, "prompt", "half a surrogate", "Unicode"),
    _json("an image that is a number", {**_GOOD, "image": 7}, "image", "7", _IMAGE),
    _json("a flag in words", {**_GOOD, "nsfw_checker": "true"}, "nsfw_checker", "'true'", "True or False"),
    _json("a key that is a number", {**_GOOD, "key": 7}, "key", "7", "a string of 1 to 512 characters"),
]  # fmt: skip
