"""The files that are meant to be shown: no signature, password or place is in them, and the umask decides who reads."""

from __future__ import annotations

import json
import os
import struct
import zlib
from base64 import b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import attrs
import pytest
from PIL import Image, ImageCms, ImageOps

from kie_async.cli.batch.manifest import EntryState
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie, Fault
from tests.cli.batch.helpers import make_options, read_manifest, run_to_end, run_with_signals
from tests.cli.helpers import CAT, run_cli

CANARY = "CANARY"
#: Further metadata that must not be copied: where it stands in a file is up to the format.
MARKERS = (b"Exif", b"xmp", b"Photoshop", b"iTXt", b"tEXt", b"zTXt", b"eXIf", b"8BIM", b"MPF", b"JUMB", b"C2PA")


def exif(orientation: int = 1) -> Image.Exif:
    """Return EXIF data with a place, words of the camera and an orientation."""
    data = Image.Exif()
    data[0x0112], data[0x010F], data[0x8298] = orientation, f"{CANARY} camera", f"{CANARY} owner"
    data.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 29: CANARY})
    return data


def picture(mode: str = "RGB") -> Image.Image:
    """Return a picture whose corners differ, also after it has been turned."""
    image = Image.new("RGB", (64, 48), "white")
    for box, color in (((0, 0, 24, 16), "red"), ((40, 0, 64, 16), "lime"), ((0, 32, 24, 48), "blue")):
        image.paste(color, box)
    return image.convert(mode)


def segment(marker: int, data: bytes) -> bytes:
    """Return a segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


WORDS = CANARY.encode()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + WORDS + b"</x:xmpmeta>"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def make_jpeg(orientation: int, mode: str = "RGB") -> bytes:
    file = BytesIO()
    picture(mode).save(file, "JPEG", quality=95, exif=exif(orientation), icc_profile=PROFILE, comment=CANARY)
    data = file.getvalue()
    more = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    more += segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x06" + WORDS)
    more += segment(0xEB, b"JP\0\1JUMB C2PA " + WORDS) + segment(0xE9, WORDS)
    return data[:2] + more + data[2:]


def make_png(orientation: int, mode: str = "RGB") -> bytes:
    file = BytesIO()
    picture(mode).save(file, "PNG", exif=exif(orientation), icc_profile=PROFILE)
    data = file.getvalue()
    texts = chunk(b"tEXt", b"Comment\0" + WORDS) + chunk(b"zTXt", b"Author\0\0" + zlib.compress(WORDS))
    texts += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + chunk(b"prVt", WORDS)
    at = data.index(b"IDAT") - 4
    return data[:at] + texts + data[at:]


def make_webp(orientation: int, mode: str = "RGB") -> bytes:
    file = BytesIO()
    picture(mode).save(file, "WEBP", lossless=True, exif=exif(orientation), icc_profile=PROFILE, xmp=XMP)
    return file.getvalue()


MAKERS: Mapping[str, Callable[[int], bytes]] = {"jpg": make_jpeg, "png": make_png, "webp": make_webp}


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the greatest difference of the colors at the corners."""
    width, height = one.size
    places = [(8, 8), (width - 8, 8), (8, height - 8), (width - 8, height - 8)]
    colors = [[image.convert("RGB").getpixel(place) for place in places] for image in (one, other)]
    pairs = zip(colors[0], colors[1], strict=True)
    return max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True))  # type: ignore[arg-type]


def visible_files(out: Path) -> dict[str, bytes]:
    """Return the content of all files of a folder, hidden ones included."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


async def copies(fake: FakeKie, folder: Path, images: Mapping[str, bytes]) -> list[bytes | None]:
    """Return the copies that the page shows of images that the budget keeps from being sent."""
    rows = ["image,prompt"]
    for name, data in images.items():
        (folder / name).write_bytes(data)
        rows.append(f"{name},Go")
    (folder / "shots.csv").write_text("\n".join(rows))
    options = make_options(folder / "shots.csv", budget=0.0)
    await run_to_end(fake, options)
    paths = [line["image"] for line in read_manifest(options)]
    return [None if path is None else (options.out / str(path)).read_bytes() for path in paths]


@pytest.mark.parametrize("suffix", MAKERS)
async def test_copies_are_upright_and_bare(fake: FakeKie, folder: Path, suffix: str) -> None:
    """The color profile stays."""
    images = {f"{orientation}.{suffix}": MAKERS[suffix](orientation) for orientation in range(1, 9)}
    found = await copies(fake, folder, images)

    for orientation, given, copied in zip(range(1, 9), images.values(), found, strict=True):
        assert copied is not None
        assert [WORDS] == [marker for marker in (*MARKERS, WORDS) if marker in given][-1:]
        assert [] == [marker for marker in (*MARKERS, WORDS) if marker in copied]
        with Image.open(BytesIO(given)) as before, Image.open(BytesIO(copied)) as after:
            assert ({}, PROFILE) == (dict(after.getexif()), after.info["icc_profile"])
            assert difference(ImageOps.exif_transpose(before), after) < 24
            assert after.size == ((64, 48) if orientation < 5 else (48, 64))


def broken_exif() -> bytes:
    file = BytesIO()
    picture().save(file, "JPEG")
    data = file.getvalue()
    return data[:2] + segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12" + WORDS) + data[2:]


def two_pictures() -> bytes:
    """Return a JPEG file with a second picture, as telephones write them."""
    file = BytesIO()
    second = picture()
    picture().save(file, "MPO", save_all=True, append_images=[second], exif=exif(6))
    return file.getvalue()


def animated(format_name: str) -> bytes:
    file = BytesIO()
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(file, format_name, save_all=True, append_images=frames[1:], exif=exif())
    return file.getvalue()


def transparent_palette() -> bytes:
    file = BytesIO()
    picture("P").save(file, "PNG", transparency=0, exif=exif())
    return file.getvalue()


def transparent_gray() -> bytes:
    file = BytesIO()
    picture("L").save(file, "PNG", transparency=255, exif=exif())
    return file.getvalue()


OTHERS: Mapping[str, Callable[[], bytes]] = {
    "CMYK.jpg": lambda: make_jpeg(3, "CMYK"),
    "gray.jpg": lambda: make_jpeg(8, "L"),
    "16 bits.png": lambda: make_png(6, "I;16"),
    "one bit.png": lambda: make_png(6, "1"),
    "alpha.png": lambda: make_png(6, "RGBA"),
    "alpha.webp": lambda: make_webp(6, "RGBA"),
    "palette.png": transparent_palette,
    "transparent gray.png": transparent_gray,
    "broken EXIF.jpg": broken_exif,
    "two pictures.jpg": two_pictures,
    "animated.webp": lambda: animated("WEBP"),
    "animated.png": lambda: animated("PNG"),
}


async def test_any_kind_of_image_is_copied_bare(fake: FakeKie, folder: Path) -> None:
    found = await copies(fake, folder, {name: make() for name, make in OTHERS.items()})

    for name, copied in zip(OTHERS, found, strict=True):
        assert copied is not None, name
        assert [] == [marker for marker in (*MARKERS, WORDS) if marker in copied], name
        with Image.open(BytesIO(copied)) as after:
            assert dict(after.getexif()) == {}


def undecodable() -> bytes:
    data = bytearray(make_png(1))
    at = data.index(b"IDAT") + 4
    size = int.from_bytes(data[at - 8 : at - 4], "big")
    data[at : at + size] = bytes(size)
    data[at + size : at + size + 4] = struct.pack(">I", zlib.crc32(b"IDAT" + bytes(size)))
    return bytes(data)


def huge() -> bytes:
    """Return a small file of a picture that takes 400 MB."""
    head = struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(33_001) * 20)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


async def test_image_that_cannot_be_decoded_has_no_copy(fake: FakeKie, folder: Path) -> None:
    """The service decides if it can be used; its metadata is not shown in any case."""
    assert [None, None] == await copies(fake, folder, {"odd.png": undecodable(), "huge.png": huge()})


SIGNED = (
    f"https://me:{CANARY}@kie.example/a.png?X-Amz-Signature={CANARY}",
    f"https://kie.example/a.png#token={CANARY}",
    f"HTTPS://{CANARY}@kie.example:8443?{CANARY}",
    f"s3://{CANARY}:{CANARY}@bucket/a.png?sig={CANARY}",
    f"See https://kie.example/b?key={CANARY}, or (ftp://me:p@{CANARY}@kie.example/a)",
    f'{{"url": "https:\\/\\/me:{CANARY}@kie.example\\/a?sig={CANARY}"}}',
    f"data:image/png;base64,{CANARY}",
    f"//me:{CANARY}@kie.example/a.png?sig={CANARY}",
    f"Like kie.example/a.png?X-Amz-Signature={CANARY}&a=b, and me:{CANARY}@kie.example:21/a",
    f"/a.png?token={CANARY}#{CANARY} kie.example",
    f"https://cdn.kie.example/fetch/https%3A%2F%2Fkie.example%2Fa.png%3Fw%3D1%26sig%3D{CANARY}",
    f"https%3a%2f%2Fkie.example%2fa%3fsig={CANARY} or kie.example/a%3FSig%3d{CANARY}",
)


@pytest.mark.parametrize("state", [EntryState.DONE, EntryState.FAILED, EntryState.RUNNING, EntryState.SKIPPED])
async def test_no_secret_is_in_any_shown_file(fake: FakeKie, folder: Path, state: EntryState) -> None:
    """Neither from the input, the options and the images, nor from the words of the service."""
    photo = make_jpeg(6)
    (folder / "photo.jpg").write_bytes(photo)
    rows = [
        "key,image,prompt",
        *(f'{n},photo.jpg,"{url.replace(chr(34), chr(34) * 2)}"' for n, url in enumerate(SIGNED)),
    ]
    (folder / "shots.csv").write_text("\n".join(rows))
    options = make_options(folder / "shots.csv", defaults={"seed": "7", "resolution": "480p"})
    other = make_options(
        folder / "other.csv",
        out=folder / "other",
        model="other/model",
        price=1.0,
        defaults={"a": SIGNED[0], "b:json": f'["{SIGNED[1]}", {{"{SIGNED[2]}": 1}}]'},
    )
    other.table.write_text(f'c,image_url\n"{SIGNED[3]}",https://kie.example/c.png?sig={CANARY}\n')
    if state == EntryState.FAILED:
        message = f"Cannot fetch {SIGNED[0]}"
        fake.inject(Fault("poll", "alter", times=99, data={"state": "fail", "failCode": "422", "failMsg": message}))
    if state == EntryState.RUNNING:
        await run_with_signals(fake, options, after=lambda truth: truth.tasks, count=1)
    else:
        await run_to_end(fake, attrs.evolve(options, budget=0.0 if state == EntryState.SKIPPED else None))
    await run_to_end(fake, other)

    assert {state} == {line["state"] for line in read_manifest(options)}
    for given in (options, other):
        assert "kie.example" in str(read_manifest(given))
        assert [] == [name for name, data in visible_files(given.out).items() if WORDS in data]
    if state == EntryState.DONE:
        assert [len(photo)] == [upload.size for upload in fake.truth.uploads]


ENCODED: Mapping[str, Callable[[bytes], str]] = {
    "plain": lambda data: b64encode(data).decode(),
    "URL-safe": lambda data: urlsafe_b64encode(data).decode(),
    "in lines": lambda data: encodebytes(data).decode(),
    "data URL in lines, in a text": lambda data: f"See data:image/jpeg;base64,{encodebytes(data).decode()}",
    "JSON in a text": lambda data: json.dumps({"image": b64encode(data).decode()}).replace("/", "\\/"),
}


@pytest.mark.parametrize("encode", ENCODED.values(), ids=ENCODED)
async def test_encoded_image_is_not_shown(folder: Path, encode: Callable[[bytes], str]) -> None:
    """It would show its EXIF; the service gets it as it is."""
    text = encode(b"\xff\xd8\xff" + 200 * WORDS)
    options = make_options(folder / "shots.jsonl", model="other/model", price=1.0, defaults={"other": text})
    options.table.write_text(json.dumps({"key": "a", "images": [{"data": text}], "prompt": "It is kept"}))
    async with FakeKie(duration=20.0, models=["other/model"]) as fake:
        code, _ = await run_to_end(fake, options)

    assert (ExitCode.DONE, text) == (code, fake.truth.created[0].input["other"])
    assert [] == [name for name, data in visible_files(options.out).items() if b64encode(WORDS) in data]
    assert "It is kept" in str(read_manifest(options))


async def test_key_with_a_secret_is_refused(fake: FakeKie, folder: Path) -> None:
    """It names files, and stands in manifest and page; the message does not show it, either."""
    keys = (SIGNED[0], SIGNED[1], SIGNED[4], f"http:/me:{CANARY}@host")
    (folder / "shots.csv").write_text("\n".join(["key,image,prompt", *(f'"{key}",cat.jpg,Go' for key in keys)]))
    code, streams = await run_to_end(fake, make_options(folder / "shots.csv"))

    assert (ExitCode.USAGE, []) == (code, fake.truth.create_requests)
    assert len(keys) == streams.err.count("key: got")
    assert CANARY not in streams.err


@pytest.fixture(params=[0o077, 0o027, 0o002, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def test_umask_decides_who_reads(umask: int, fake: FakeKie, folder: Path) -> None:
    """The journal is private in any case."""
    (folder / "photo.jpg").write_bytes(make_jpeg(6))
    (folder / "shots.csv").write_text("image,prompt,resolution\nphoto.jpg,Go,480p\ncat.jpg,Go,480p\n")
    options = make_options(folder / "shots.csv", out=folder / "deep" / "out")
    await run_to_end(fake, options)
    await run_to_end(fake, options)  # the files are replaced
    paths = [options.out.parent, options.out, *options.out.rglob("*")]
    modes = {path: path.stat().st_mode & 0o777 for path in paths}

    assert len(paths) == 10
    assert {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in paths} == modes
    journal = [Path(str(options.journal)), *Path(str(options.journal)).parent.glob("kie.db-*")]
    assert [] == [path for path in journal if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("umask", [0o077], indirect=True)
def test_umask_decides_for_single_results(umask: int, tmp_path: Path) -> None:
    run_cli("demo", "--count", "1", "--speed", "1000", "--resolution", "480p", "--out", str(tmp_path / "one"))
    run_cli("generate", "--fake", "--prompt", "Go", "--image", str(CAT), "-o", str(tmp_path / "two" / "a.mp4"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]

    assert len(files) > 1
    assert {0o666 & ~umask} == {path.stat().st_mode & 0o777 for path in files}
