"""Odd requests of strangers to the backends: keys, ids, bodies and headers that no customer means."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import attrs
from yarl import URL

__all__ = ["send_odd"]

_ORDER = {"key": "odd", "image_url": "https://example.com/cat.png", "prompt": "The cat turns its head"}
_JSON = "application/json"
_DEEP = 100_000


@attrs.frozen
class OddRequest:
    """
    A request that each backend must refuse with a status of 400 to 499.

    Attributes:
        path: The path, percent-encoded.

        body: The body of a POST; None for a GET.

        headers: More headers.
    """

    path: str = "/shots"
    body: bytes | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)


def _orders() -> dict[str, Mapping[str, Any]]:
    """Return orders of one odd field each."""
    keys = {
        "of 600 characters": "k" * 600,
        "of 100,000 characters": "k" * 100_000,
        "with half a surrogate": "order-\ud800",
        "with a low surrogate": "\udfff",
        "of a retry": "order~retry2",
        "empty": "",
        "null": None,
        "number": 7,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "true": True,
        "list": ["order"],
        "object": {"order": 7},
        "large number": 10**4000,
    }
    images = {
        "path": "/etc/passwd",
        "relative path": "cat.png",
        "home": "~/.ssh/id_rsa",
        "device": "/dev/stdin",
        "file URL": "file:///etc/passwd",
        "data URL": "data:image/png;base64,iVBORw0KGgo=",
        "private address": "http://169.254.169.254/latest/meta-data",
        "other scheme": "ftp://example.com/cat.png",
        "empty": "",
        "null": None,
        "number": 7,
        "list": ["https://example.com/cat.png"],
        "object": {"url": "https://example.com/cat.png"},
        "half a surrogate": "https://example.com/\ud800.png",
        "path with half a surrogate": "/etc/\udc80",
        "NUL": "/etc/passwd\0.png",
        "NaN": float("nan"),
        "odd port": "https://example.com:99999999/cat.png",
        "open bracket": "https://[::1/cat.png",
    }
    prompts = {
        "empty": "",
        "null": None,
        "number": 7,
        "NaN": float("nan"),
        "half a surrogate": "The cat \ud83d",
        "too long": "cat " * 10_000,
        "object": {"text": "The cat"},
    }
    odd: dict[str, Mapping[str, Any]] = {}
    for field, values in (("key", keys), ("image_url", images), ("prompt", prompts)):
        odd |= {f"{field}: {name}": {**_ORDER, field: value} for name, value in values.items()}
        odd[f"{field}: missing"] = {name: value for name, value in _ORDER.items() if name != field}
    return odd


def _bodies() -> dict[str, bytes]:
    """Return bodies that are not an order."""
    order = json.dumps(_ORDER).encode()
    return {
        "empty": b"",
        "blank": b" \n",
        "cut off": order[:-9],
        "followed by text": order + b"}",
        "list": b"[]",
        "list of orders": b"[" + order + b"]",
        "string": b'"key"',
        "number": b"7",
        "null": b"null",
        "NaN": b"NaN",
        "bytes of no text": b"\xff\xfe\x00",
        "half of UTF-8": b'{"key": "\xc3", "image_url": "https://example.com/a.png", "prompt": "x"}',
        "NUL": b"\0",
        "deep list": b"[" * _DEEP + b"]" * _DEEP,
        "deep object": b'{"key":' * _DEEP,
        "deep key": b'{"image_url": "https://example.com/a.png", "prompt": "x", "key": '
        + b"[" * _DEEP
        + b"]" * _DEEP
        + b"}",
        "endless number": b'{"key": ' + b"9" * 10_000 + b', "image_url": "https://example.com/a.png", "prompt": "x"}',
        "large": b'{"key": "' + b"x" * 1_200_000 + b'"}',
        "form": b"key=order&image_url=cat.png&prompt=x",
    }


def _requests() -> dict[str, OddRequest]:
    good = json.dumps({**_ORDER, "key": ""}).encode()
    odd = {name: OddRequest(body=json.dumps(order).encode()) for name, order in _orders().items()}
    odd |= {f"body: {name}": OddRequest(body=body) for name, body in _bodies().items()}
    headers = {
        "unknown charset": {"Content-Type": "application/json; charset=no-such-charset"},
        "wide charset": {"Content-Type": "application/json; charset=utf-32"},
        "binary codec": {"Content-Type": "application/json; charset=zlib"},
        "no type": {"Content-Type": ""},
        "odd type": {"Content-Type": "\xff/;=;"},
        "broken multipart": {"Content-Type": "multipart/form-data; boundary="},
        "form": {"Content-Type": "application/x-www-form-urlencoded"},
        "not gzip": {"Content-Encoding": "gzip"},
        "unknown coding": {"Content-Encoding": "no-such-coding"},
        "odd host": {"Host": "a b"},
        "odd cookie": {"Cookie": "=;;\xff=\xff; a"},
        "odd expectation": {"Expect": "the unexpected"},
    }
    odd |= {f"header: {name}": OddRequest(body=good, headers=more) for name, more in headers.items()}
    ids = {
        "unknown": "kj_" + "0" * 32,
        "of a task": "0" * 32,
        "of 600 characters": "kj_" + "0" * 600,
        "of 5,000 characters": "0" * 5_000,
        "with half a surrogate": "kj_%ED%A0%80",
        "of no text": "kj_%FF%FE",
        "with NUL": "kj_%00",
        "with a line break": "kj_1%0A",
        "with a slash": "kj_1%2F..%2F..",
        "of dots": "%2E%2E",
        "blank": "%20",
        "of other digits": "kj_%D9%A3",
        "with half an escape": "kj_%",
        "with SQL": "kj_1'%20OR%201=1;--",
        "of an upper prefix": "KJ_" + "0" * 32,
        "empty": "",
    }
    return odd | {f"id: {name}": OddRequest(path=f"/shots/{given}") for name, given in ids.items()}


async def send_odd(http: aiohttp.ClientSession, url: str) -> dict[str, int]:
    """
    Send each odd request to a backend.

    Returns:
        The status of each answer, by the name of the request.
    """
    statuses = {}
    for name, odd in _requests().items():
        method, headers = ("GET", dict[str, str]()) if odd.body is None else ("POST", {"Content-Type": _JSON})
        headers |= {"Connection": "close", **odd.headers}
        body = None if odd.body is None else io.BytesIO(odd.body)
        async with http.request(method, URL(url + odd.path, encoded=True), data=body, headers=headers) as answer:
            await answer.read()
            statuses[name] = answer.status
    return statuses
