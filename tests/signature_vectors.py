"""Signatures of callbacks that another program computed."""

from __future__ import annotations

import attrs

__all__ = ["VECTORS", "Vector"]


@attrs.frozen
class Vector:
    """A signature that was computed by OpenSSL."""

    key: str
    task_id: str
    stamp: int
    signature: str


#: Computed by OpenSSL: ``printf %s "$ID.$STAMP" | openssl dgst -sha256 -hmac "$KEY" -binary | openssl base64 -A``.
#: Among them: signatures with "+" and "/", a key beyond ASCII, one longer than a block of the hash, the longest time.
#: ``tests/system_tools/test_openssl.py`` runs that command again.
VECTORS = [
    Vector("secret", "abc", 1_767_225_600, "kEgM6OvYQJhzZEV8VWRyDo4wCQ5qxLYFMQ5WWAkH5bo="),
    Vector(
        "whsec_Zm9vYmFy",
        "0123456789abcdef0123456789abcdef",
        1_767_225_600,
        "A1gyz7vdCJ70dnwHPtNQU69ifKETnBekr84eDc9GMbM=",
    ),
    Vector("key", "task_wan_1765172522234", 1_767_225_600, "Pd2gHo+y6lY8bG1d0DCjgNgfA+EMTck+dzyrQp57FNc="),
    Vector("key", "task_wan_1765172522233", 1_767_225_600, "8QoPHbfq6BP9uk/SDYnLIWJMppDrYY7dEpw8m8uJnsw="),
    Vector("ключ-🔑", "task_wan_1765172522239", 1_767_225_600, "oPASPBi/EtVbLPWGWPZkADiRgV47s715e1mcnAV3cuY="),
    Vector("k" * 100, "1a2b", 1, "cQda/hl5P/N+yv3r6H9WhVNPR0ERdZvm3hiLuF3x+hY="),
    Vector("secret", "task.with:dots-1_", 999_999_999_999, "uVDxgqc3oLrbeIylvw/8gZfPBUAWkqn7V2ccOVLM/eQ="),
]
