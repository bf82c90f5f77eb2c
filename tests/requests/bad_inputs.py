"""Invalid inputs as data: how to create each, and the expected message."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from kie_async import MarketRequest, Wan22TurboImageToVideo
from kie_async._media import HEAD
from kie_async.requests.media import MAX_BYTES
from tests.requests.samples import GIF, JPEG, PNG, WEBP, png_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async import Request

__all__ = ["BAD_INPUTS", "BadInput"]

IMAGE = "https://example.com/cat.png"
PROMPT = "The cat turns its head"


@attrs.frozen
class BadInput:
    """
    An invalid input.

    Attributes:
        name: A description of the fault.

        build: Creates the request in a folder, or raises ``TypeError`` if no request can be created.

        field: The field that the message must name, with a colon after it if a request is created.

        says: A part of the message that describes the fault.
    """

    name: str
    build: Callable[[Path], Request]
    field: str
    says: str


def _wan(**options: object) -> Wan22TurboImageToVideo:
    return Wan22TurboImageToVideo(**cast("Any", {"image": IMAGE, "prompt": PROMPT} | options))


def _option(field: str, value: object, says: str, name: str | None = None) -> BadInput:
    return BadInput(f"{field} {value!r}" if name is None else name, lambda _: _wan(**{field: value}), field, says)


def _url(url: str, says: str) -> BadInput:
    return _option("image", url, says)


def _file(name: str, content: bytes | int, says: str) -> BadInput:
    def build(folder: Path) -> Request:
        path = folder / name
        path.write_bytes(png_of(content) if isinstance(content, int) else content)
        return _wan(image=path)

    return BadInput(f"file {name}", build, "image", says)


def _path(name: str, says: str, make: Callable[[Path], object] = lambda _: None) -> BadInput:
    def build(folder: Path) -> Request:
        make(folder / name)
        return _wan(image=folder / name)

    return BadInput(name, build, "image", says)


def _input(name: str, given: object, field: str, says: str) -> BadInput:
    return BadInput(
        f"input with {name}", lambda _: MarketRequest(model="z-image", input=cast("Any", given)), field, says
    )


def _model(model: object) -> BadInput:
    return BadInput(
        f"model {model!r}", lambda _: MarketRequest(model=cast("Any", model), input={}), "model", "a model's name"
    )


def _text_file(folder: Path) -> Request:
    (folder / "cat.txt").write_text("a cat")
    with (folder / "cat.txt").open() as file:
        return _wan(image=file)


def _closed_file(folder: Path) -> Request:
    (folder / "cat.png").write_bytes(PNG)
    with (folder / "cat.png").open("rb") as file:
        pass
    return _wan(image=file)


def _file_at_its_end(folder: Path) -> Request:
    (folder / "cat.png").write_bytes(PNG)
    with (folder / "cat.png").open("rb") as file:
        file.read()
        return _wan(image=file)


class _AsyncFile:
    """A file as web frameworks pass uploads."""

    async def read(self, size: int = -1) -> bytes:
        return PNG[:size]


class _Deep(dict[str, Any]):
    """A mapping that contains itself."""

    def __init__(self) -> None:
        super().__init__()
        self["again"] = self


BAD_INPUTS: tuple[BadInput, ...] = (
    # The prompt
    _option("prompt", "", "an empty string"),
    _option("prompt", " \t\n", "blanks only"),
    _option("prompt", None, "got None"),
    _option("prompt", 7, "1 to 5000 characters"),
    _option("prompt", b"The cat", "7 bytes"),
    _option("prompt", ["The cat"], "a value of type list"),
    _option("prompt", "x" * 5001, "5001 characters", name="prompt of 5001 characters"),
    _option("prompt", "\ud83d", "half a surrogate pair"),
    # Options
    _option("resolution", "1080p", "480p or 720p"),
    _option("resolution", "720P", "it must be written '720p'"),
    _option("resolution", " 480p", "it must be written '480p'"),
    _option("resolution", "", "480p or 720p"),
    _option("resolution", 720, "got 720"),
    _option("seed", -1, "got -1"),
    _option("seed", 2**31, "2147483647"),
    _option("seed", 10**5000, "a number of 16610 bits", name="seed of 5001 digits"),
    _option("seed", 1.5, "an integer"),
    _option("seed", math.nan, "an integer"),
    _option("seed", bool(1), "got True"),
    _option("seed", "7", "got '7'"),
    _option("acceleration", "fast", "none or regular"),
    _option("acceleration", bool(0), "none or regular"),
    _option("enable_prompt_expansion", "yes", "True or False"),
    _option("enable_prompt_expansion", 1, "True or False"),
    _option("nsfw_checker", 0, "True or False"),
    _option("aspect_ratio", "4:3", "auto, 16:9, 9:16 or 1:1"),
    _option("promt", "The cat", "did you mean 'prompt'"),
    _option("duration", 5, "Its options: image, prompt, resolution"),
    BadInput("no image", lambda _: Wan22TurboImageToVideo(prompt=PROMPT), "image", "missing"),  # type: ignore[call-arg]  # the point
    # Images by URL
    _url("http://127.0.0.1/cat.png", "public"),
    _url("http://127.0.0.1:8080/cat.png", "public"),
    _url("http://localhost:8000/cat.png", "private network"),
    _url("http://cat.localhost/cat.png", "private network"),
    _url("http://printer.local/cat.png", "private network"),
    _url("http://db.internal/cat.png", "private network"),
    _url("http://nas/cat.png", "without a dot"),
    _url("http://10.0.0.1/cat.png", "public"),
    _url("http://172.16.0.1/cat.png", "public"),
    _url("http://192.168.1.10/cat.png", "public"),
    _url("http://169.254.169.254/latest/meta-data", "public"),
    _url("http://100.64.0.1/cat.png", "public"),
    _url("http://224.0.0.1/cat.png", "public"),
    _url("http://0.0.0.0/cat.png", "public"),
    _url("http://2130706433/cat.png", "public"),
    _url("http://0x7f000001/cat.png", "public"),
    _url("http://0177.0.0.1/cat.png", "public"),
    _url("http://127.1/cat.png", "public"),
    _url("http://127.0.0.1./cat.png", "public"),
    _url("http://[::1]/cat.png", "public"),
    _url("http://[::ffff:127.0.0.1]/cat.png", "public"),
    _url("http://[::ffff:7f00:1]/cat.png", "public"),
    _url("http://[2002:7f00:1::]/cat.png", "public"),
    _url("http://[64:ff9b::10.0.0.1]/cat.png", "public"),
    _url("http://[fe80::1]/cat.png", "public"),
    _url("http://[fd00::1]/cat.png", "public"),
    _url("http://①②⑦.0.0.1/cat.png", "public"),
    _url("ftp://example.com/cat.png", "scheme"),
    _url("file:///etc/passwd", "scheme"),
    _url("data:image/png;base64,iVBORw0KGgo=", "scheme"),
    _url("javascript:alert(1)", "scheme"),
    _url("https://user:secret@example.com/cat.png", "user name"),
    _url("https://example.com:99999/cat.png", "port"),
    _url("https://example.com/a cat.png", "blank"),
    _url("https://example.com/cat.png\r\nHost: x", "invisible"),
    _url("https://", "no host"),
    _option("image", "https://example.com/" + "a" * 9000, "characters", name="image by a URL of 9020 characters"),
    # Images on disk
    _file("eleven.png", 11 * 1024 * 1024, "more than 10485760 bytes"),
    _file("edge.png", MAX_BYTES + 1, "more than 10485760 bytes"),
    _file("text.png", b"This is a cat.", "none of these"),
    _file("page.jpg", b"<!doctype html><title>404</title>", "none of these"),
    _file("cat.gif", GIF, "is image/gif"),
    _file("cat.mp4", b"\0\0\0\x20ftypisom".ljust(HEAD, b"\0"), "is video/mp4"),
    _file("empty.png", b"", "is empty"),
    _file("cut.png", PNG[:-12], "cut off"),
    _file("cut.jpg", JPEG[:-2], "cut off"),
    _file("cut.webp", WEBP[:-2], "cut off"),
    _file("stub.png", PNG[:6], "none of these"),
    _path("missing.png", "does not exist"),
    _path("folder.png", "is a directory", Path.mkdir),
    _path("loop.png", "cannot be read", lambda path: path.symlink_to(path)),
    _path("pipe.png", "not a regular file", os.mkfifo),
    _path(f"{'x' * 300}.png", "cannot be read"),
    BadInput("a name with NUL", lambda _: _wan(image="cat\0.png"), "image", "cannot be read"),
    # Images at hand
    _option("image", "", "an empty string"),
    _option("image", None, "got None"),
    _option("image", 5, "neither a URL nor a path"),
    _option("image", [PNG], "a value of type list"),
    _option("image", b"", "is empty"),
    _option("image", PNG[:-1], "cut off"),
    _option("image", b"no image", "none of these"),
    _option("image", bytearray(GIF), "is image/gif"),
    BadInput("10 MB and a byte", lambda _: _wan(image=memoryview(png_of(MAX_BYTES + 1))), "image", "more than"),
    _option("image", _AsyncFile(), "await", name="an asynchronous file"),
    BadInput("a file in text mode", _text_file, "image", "binary mode"),
    BadInput("a closed file", _closed_file, "image", "closed"),
    BadInput("a file at its end", _file_at_its_end, "image", "at its end"),
    # Any other model
    _model(""),
    _model(" z-image"),
    _model("z-image\n"),
    _model("z" * 129),
    _model(None),
    _model(7),
    _input("a NaN", {"scale": math.nan}, "input.scale", "a finite number"),
    _input("infinity", {"scale": [1, math.inf]}, "input.scale[1]", "a finite number"),
    _input("bytes", {"image": b"abc"}, "input.image", "upload()"),
    _input("a path", {"image": Path("cat.png")}, "input.image", "strings, numbers"),
    _input("a set", {"tags": {"a"}}, "input.tags", "strings, numbers"),
    _input("a number as key", {"shots": {1: "a"}}, "input.shots", "strings as keys"),
    _input("a key of half a surrogate pair", {"\ud83d": 1}, "input", "strings as keys"),
    _input("half a surrogate pair", {"a b": ["\ud83d"]}, "input['a b'][0]", "half a surrogate pair"),
    _input("a huge number", {"seed": 2**64}, "input.seed", "64 bits"),
    _input("itself inside", _Deep(), "input" + 17 * ".again", "16 levels"),
    _input("too many values", {"shots": list(range(10_000))}, "input", "10000"),
    _input("too much text", {"prompt": "x" * 1_000_000}, "input", "1000000 bytes"),
    _input("no mapping", [("prompt", "x")], "input", "a mapping"),
    _input("nothing", None, "input", "a mapping"),
)
