"""Pictures from nothing: PNG files drawn from a seed."""

from __future__ import annotations

import hashlib
import struct
import zlib

__all__ = ["draw_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def draw_png(seed: str, *, width: int = 832, height: int = 480) -> bytes:
    r"""
    Draw a picture: a sky that fades into a ground, and some bars, in colours that depend on *seed*.

    Args:
        seed: Another seed, another picture; it also stands in the file as a comment, so that no two files are equal.

        width: Width in pixels.

        height: Height in pixels.

    Returns:
        A PNG file, 8 bits RGB (format: PNG specification, third edition).

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
        colour = bytes(a + (b - a) * y // height for a, b in zip(top, bottom, strict=True))
        line = bytearray(colour * width)
        for x, broad, tall in bars:
            if y > height - tall * height // 320:
                line[3 * x : 3 * min(x + broad, width)] = bar * (min(x + broad, width) - x)
        lines += b"\0" + line
    return (
        _SIGNATURE
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"tEXt", b"Comment\0" + seed.encode("latin-1", "replace"))
        + _chunk(b"IDAT", zlib.compress(bytes(lines), 1))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
