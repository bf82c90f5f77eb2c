"""Small valid images: each of them decodes."""

from __future__ import annotations

import base64
import struct
import zlib


def png(padding: int = 0) -> bytes:
    """
    Return one grey pixel as PNG.

    Args:
        padding: The number of bytes that a private chunk adds, on top of the 12 of the chunk itself; 0 adds no chunk.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(b"\0\x80"))
    filler = chunk(b"fiLl", bytes(padding)) if padding else b""
    return b"\x89PNG\r\n\x1a\n" + header + filler + pixel + chunk(b"IEND", b"")


def png_of(size: int) -> bytes:
    """Return one grey pixel as a PNG of *size* bytes."""
    return png(size - len(png()) - 12)


PNG = png()

#: 16 by 16 grey pixels.
JPEG = base64.b85decode(
    "|JeWj01!-Jc4Ia&E;2YSF)%U!|JwjV00;yG1Ox;H1qB5K1qKEN1_lNO1_lNO1_lQQ2M7oV2L}fR1_uWS2nYxX2?+=Y2nY!Y3JMAg3=0bm4h|6!"
    "6#v8kN&o=>000000000000000000010RR9100000000000000001yEH0000000000000000000H0RR910000000000000000RO-M5eNVf01yKK"
    "A^-vr00R*K|Jncy0|5X65d#qbKL7v^|Je"
)

#: One pixel.
WEBP = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/\0\0\0\x10\x07\x10\x11\x11\x88\x88\xfe\x07\0"

#: One pixel; the service does not take this format.
GIF = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
