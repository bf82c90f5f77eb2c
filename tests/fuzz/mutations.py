"""Mutations of bytes that look like JSON, CSV or lines: cuts, splices, flips, doubled members, other encodings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random

__all__ = ["mutated"]

#: The most bytes of a mutated input.
_LONGEST = 8192
_MEMBER = re.compile(rb'"(\w+)"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9.]+|true|false|null|\[\]|\{\})')
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")
_PIECES = (
    *(b'"', b"\\", b'\\"', b'\\\\"', b"{", b"}", b"[", b"]", b":", b",", b'","', b'"}', b'"}}', b"\n", b"\r", b"\r\n"),
    *(b"\0", b"\xef\xbb\xbf", b"\xff", b"\xe2\x80\xa8", b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"-0", b"9" * 400),
    *(b"null", b"true", b"200", b"401", b"429", b"500", b"501", b"<", b"<html>", b" ", b";", b"\t", b'""', b"x"),
    *(b'"taskId":"other"', b'"task_id":1', b'"state":"fail"', b'"state":"success"', b'"data":null', b'"code":500'),
    *(b'"resultJson":"{\\"resultUrls\\":[\\"https://evil.example/1\\"]}"', b'"paramJson":"{', b'"response":{}'),
)
_VALUES = (b"null", b'""', b"0", b"-1", b"true", b"[]", b"{}", b'"x"', b"1.5", b'"fail"', b'["a"]', b'{"a":1}')


def _cut(body: bytes, rng: Random, _: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _drop(body: bytes, rng: Random, _: bytes) -> bytes:
    start = rng.randrange(len(body) + 1)
    return body[:start] + body[start + rng.randrange(1, 20) :]


def _double(body: bytes, rng: Random, _: bytes) -> bytes:
    start = rng.randrange(len(body) + 1)
    stop = start + rng.randrange(1, 60)
    return body[:stop] + body[start:]


def _insert(body: bytes, rng: Random, _: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.choice(_PIECES) + body[at:]


def _flip(body: bytes, rng: Random, _: bytes) -> bytes:
    if not body:
        return body
    at = rng.randrange(len(body))
    return body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :]


def _splice(body: bytes, rng: Random, other: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)] + other[rng.randrange(len(other) + 1) :]


def _double_member(body: bytes, rng: Random, other: bytes) -> bytes:
    members = list(_MEMBER.finditer(body))
    others = list(_MEMBER.finditer(other)) or members
    if not members:
        return body
    at, added = rng.choice(members).end(), rng.choice(others)
    return body[:at] + b"," + added[0] + body[at:]


def _set_value(body: bytes, rng: Random, _: bytes) -> bytes:
    members = list(_MEMBER.finditer(body))
    if not members:
        return body
    start, stop = rng.choice(members).span(2)
    value = rng.choice(
        (*_VALUES, b"[" * 70 + b"]" * 70, json.dumps(body[start:stop].decode("utf-8", "replace")).encode())
    )
    return body[:start] + value + body[stop:]


def _set_number(body: bytes, rng: Random, _: bytes) -> bytes:
    numbers = list(_NUMBER.finditer(body))
    if not numbers:
        return body
    start, stop = rng.choice(numbers).span()
    return body[:start] + rng.choice((b"0", b"-1", b"1e400", b"NaN", b"200", b"500", b"9" * 30, b"0.5")) + body[stop:]


def _nest(body: bytes, rng: Random, _: bytes) -> bytes:
    depth = rng.choice((1, 70, 1500))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"data":', b"}")))
    return opening * depth + body + closing * depth


def _unescape(body: bytes, rng: Random, _: bytes) -> bytes:
    return body.replace(*rng.choice(((b'\\"', b'"'), (b"\\\\", b"\\"), (b'"', b'\\"'), (b"\n", b"\r"), (b",", b";"))))


def _encode(body: bytes, rng: Random, _: bytes) -> bytes:
    text = body.decode("utf-8", "replace")
    forms: tuple[Callable[[], bytes], ...] = (
        lambda: text.encode("utf-16"),
        lambda: text.encode("latin-1", "replace"),
        lambda: b"\xef\xbb\xbf" + body,
        lambda: json.dumps(text).encode(),
        lambda: b'{"code":200,"data":' + json.dumps(text).encode() + b"}",
    )
    return rng.choice(forms)()


_MUTATIONS = (
    *(_cut, _drop, _double, _insert, _insert, _flip, _splice, _double_member, _double_member, _set_value, _set_value),
    *(_set_number, _nest, _unescape, _encode),
)


def mutated(body: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Return *body* after one to five mutations; *others* are bytes of the same kind."""
    for _ in range(rng.randrange(1, 6)):
        body = rng.choice(_MUTATIONS)(body, rng, rng.choice(others))[:_LONGEST]
    return body
