"""Clips of five seconds: a camera moves slowly over a picture."""

from __future__ import annotations

import io
import struct
import tempfile
from fractions import Fraction
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from kie_async.testing.drawing import draw_png

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import OutputContainer
    from av.filter import Graph

__all__ = ["FRAMES", "FRAMES_PER_SECOND", "bundled_clip", "encode_clip", "make_clip", "sign_clip"]

#: What the model makes: 81 frames, 16 a second, 5.06 s.
FRAMES = 81
FRAMES_PER_SECOND = 16

Encoder: TypeAlias = Literal["libx264", "mpeg4"]

#: How far the picture is zoomed in at the end.
_ZOOM = 1.25

#: The broadest and the tallest clip, as ratio of its sides; what lies outside is cropped.
_MAX_RATIO = 2.4


def make_clip(image: bytes | None, height: int, seed: str) -> bytes:
    """
    Make a clip of *image*. Takes a fraction of a second of a processor, so call it in a thread.

    Args:
        image: A picture in any format that PyAV reads; None, or what it cannot read, becomes a drawn one.

        height: The clip's height in pixels, even; its width follows from the picture.

        seed: What a drawn picture depends on.

    Returns:
        An MP4 file with its index at the front; the bundled one, 480 pixels high, if PyAV is not installed.
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
    """The clip that comes with the package: five seconds, 480 pixels high."""
    return files("kie_async.testing").joinpath("data", "clip-480p.mp4").read_bytes()


def sign_clip(clip: bytes, text: str) -> bytes:
    r"""
    *clip* with a ``free`` box that holds *text*; players skip it (ISO/IEC 14496-12, 8.1.2), and no two files are equal.

    >>> sign_clip(b"", "id")
    b'\x00\x00\x00\nfreeid'
    """
    payload = text.encode()
    return clip + struct.pack(">I", 8 + len(payload)) + b"free" + payload


def encode_clip(image: bytes, *, height: int, encoder: Encoder | None = None) -> bytes:
    """
    Encode a clip of *image* with PyAV; see ``make_clip``.

    Args:
        image: A picture.

        height: The clip's height in pixels, even.

        encoder: H.264 where the build of PyAV can write it, else MPEG-4 Part 2, unless it is given.

    Raises:
        av.error.FFmpegError: If the picture cannot be read.

        StopIteration: If there is no picture in it.
    """
    import av

    with av.open(io.BytesIO(image), "r") as picture:
        frame = next(picture.decode(video=0))
    ratio = min(max(frame.width / frame.height, 1 / _MAX_RATIO), _MAX_RATIO)
    width = round(height * ratio / 2) * 2
    graph = _camera(frame, width=width, height=height)
    # The muxer puts the index at the front by reading back what it wrote, which takes a file.
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
    """A filter graph that is fed with *frame* and gives the frames of the clip."""
    import av.filter

    graph = av.filter.Graph()
    progress = f"on/{FRAMES - 1}"
    chain = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, FRAMES_PER_SECOND)
        ),
        # Twice the size: the zoom moves by whole pixels of its input, and would tremble.
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
    """The video stream of *clip*."""
    import av

    encoder = encoder or ("libx264" if "libx264" in av.codecs_available else "mpeg4")
    options = {"preset": "ultrafast", "crf": "30"} if encoder == "libx264" else {}
    stream: VideoStream = clip.add_stream(encoder, rate=FRAMES_PER_SECOND, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.thread_count = 1
    return stream
