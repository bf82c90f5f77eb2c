"""Media made from nothing or from a picture: PNG files, tones, and clips of five seconds in which a camera moves."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import tempfile
import zlib
from fractions import Fraction
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import OutputContainer
    from av.filter import Graph

__all__ = [
    "FRAMES",
    "FRAMES_PER_SECOND",
    "append_text",
    "bundled_clip",
    "draw_png",
    "encode_clip",
    "make_clip",
    "make_tone",
]

#: The clips of the real model: 81 frames, 16 per second, 5.06 s.
FRAMES = 81
FRAMES_PER_SECOND = 16

Encoder: TypeAlias = Literal["libx264", "mpeg4"]

#: The samples of a tone, in a second.
_SAMPLES = 8000

#: The zoom at the end of a clip.
_ZOOM = 1.25

#: The largest ratio of the sides of a clip; wider and taller pictures are cropped.
_MAX_RATIO = 2.4


def make_clip(image: bytes | None, height: int, seed: str) -> bytes:
    """
    Make a clip of *image*; call it in a thread, since it takes a fraction of a second of CPU time.

    Args:
        image: A picture in any format that PyAV reads; a drawn picture replaces None and unreadable data.

        height: The height of the clip in pixels, even; the width follows from the picture.

        seed: The seed of a drawn picture.

    Returns:
        An MP4 file with its index at the front; the bundled clip, 480 pixels high, if PyAV is not installed.
    """
    try:
        from av.error import FFmpegError
    except ImportError:
        return bundled_clip()
    try:
        return encode_clip(image if image is not None else draw_png(seed), height=height)
    except (FFmpegError, StopIteration):
        return encode_clip(draw_png(seed), height=height)


def bundled_clip() -> bytes:
    """Return the clip of the package: five seconds, 480 pixels high."""
    return files("kie_async.testing").joinpath("data", "clip-480p.mp4").read_bytes()


def append_text(clip: bytes, text: str) -> bytes:
    r"""
    Append a ``free`` box with *text* to *clip*; players skip it (ISO/IEC 14496-12, 8.1.2).

    >>> append_text(b"", "id")
    b'\x00\x00\x00\nfreeid'
    """
    payload = text.encode()
    return clip + struct.pack(">I", 8 + len(payload)) + b"free" + payload


def encode_clip(image: bytes, *, height: int, encoder: Encoder | None = None) -> bytes:
    """
    Encode a clip of *image* with PyAV; see ``make_clip``.

    Args:
        image: A picture.

        height: The height of the clip in pixels, even.

        encoder: The encoder; by default H.264 if this build of PyAV has it, else MPEG-4 Part 2.

    Raises:
        av.error.FFmpegError: If the picture cannot be read.

        StopIteration: If *image* contains no picture.
    """
    import av

    with av.open(io.BytesIO(image), "r") as picture:
        frame = next(picture.decode(video=0))
    ratio = min(max(frame.width / frame.height, 1 / _MAX_RATIO), _MAX_RATIO)
    width = round(height * ratio / 2) * 2
    graph = _camera(frame, width=width, height=height)
    # The muxer moves the index to the front by reading back its output, which requires a file.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as clip:
            stream = _stream(clip, encoder, width=width, height=height)
            for number in range(FRAMES):
                still = graph.vpull()
                still.pts, still.time_base = number, Fraction(1, FRAMES_PER_SECOND)
                clip.mux(stream.encode(still))
            clip.mux(stream.encode(None))
        return path.read_bytes()


def _camera(frame: VideoFrame, *, width: int, height: int) -> Graph:
    """Return a filter graph that has received *frame* and yields the frames of the clip."""
    import av.filter

    graph = av.filter.Graph()
    progress = f"on/{FRAMES - 1}"
    chain = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, FRAMES_PER_SECOND)
        ),
        # Twice the size: zoompan moves by whole pixels of its input, which would be visible.
        graph.add("scale", f"{2 * width}:{2 * height}:force_original_aspect_ratio=increase:flags=bilinear"),
        graph.add("crop", f"{2 * width}:{2 * height}"),
        graph.add("setsar", "1"),
        graph.add(
            "zoompan",
            f"z='1+{_ZOOM - 1}*{progress}':x='(iw-iw/zoom)*{progress}':y='(ih-ih/zoom)/2'"
            f":d={FRAMES}:s={width}x{height}:fps={FRAMES_PER_SECOND}",
        ),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ]
    for source, sink in pairwise(chain):
        source.link_to(sink)
    graph.configure()
    frame.pts, frame.time_base = 0, Fraction(1, FRAMES_PER_SECOND)
    graph.vpush(frame)
    graph.vpush(None)
    return graph


def _stream(clip: OutputContainer, encoder: Encoder | None, *, width: int, height: int) -> VideoStream:
    """Add the video stream to *clip*."""
    import av

    encoder = encoder or ("libx264" if "libx264" in av.codecs_available else "mpeg4")
    options = {"preset": "ultrafast", "crf": "30"} if encoder == "libx264" else {}
    stream: VideoStream = clip.add_stream(encoder, rate=FRAMES_PER_SECOND, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.thread_count = 1
    return stream


def draw_png(seed: str, *, width: int = 832, height: int = 480) -> bytes:
    r"""
    Draw a picture: a gradient with some bars, in colors that depend on *seed*.

    Args:
        seed: The seed; it is also a comment in the file, so that no two files are equal.

        width: The width in pixels.

        height: The height in pixels.

    Returns:
        A PNG file with 8 bits per channel (PNG specification, third edition).

    >>> draw_png("a")[:8]
    b'\x89PNG\r\n\x1a\n'
    >>> draw_png("a") == draw_png("b")
    False
    """
    digest = hashlib.sha256(seed.encode()).digest()
    top, bottom, bar = digest[0:3], digest[3:6], digest[6:9]
    bars = sorted((digest[9 + i] * width // 256, 4 + digest[17 + i] % 40, digest[25 + i % 7]) for i in range(8))
    lines = bytearray()
    for y in range(height):
        color = bytes(a + (b - a) * y // height for a, b in zip(top, bottom, strict=True))
        line = bytearray(color * width)
        for x, broad, tall in bars:
            if y > height - tall * height // 320:
                line[3 * x : 3 * min(x + broad, width)] = bar * (min(x + broad, width) - x)
        lines += b"\0" + line
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"tEXt", b"Comment\0" + seed.encode("latin-1", "replace"))
        + _chunk(b"IDAT", zlib.compress(bytes(lines), 1))
        + _chunk(b"IEND", b"")
    )


def make_tone(seed: str) -> bytes:
    r"""
    Return a second of a tone whose pitch depends on *seed*, as a WAV file.

    >>> make_tone("a")[8:12]
    b'WAVE'
    """
    import wave

    turn = 2 * math.pi * (200 + int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) / 2**56) / _SAMPLES
    file = io.BytesIO()
    with wave.open(file, "wb") as tone:
        tone.setnchannels(1)
        tone.setsampwidth(1)
        tone.setframerate(_SAMPLES)
        tone.writeframes(bytes(round(127 + 100 * math.sin(turn * place)) for place in range(_SAMPLES)))
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
