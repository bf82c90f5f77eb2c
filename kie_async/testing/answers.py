"""Answers before they reach the wire: as the service means them, or as a fault has spoiled them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from kie_async.testing import dialect

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.faults import Fault

__all__ = ["JSON_TYPE", "FakeResponse", "apply_fault", "empty_success", "envelope_response"]

JSON_TYPE = "application/json;charset=UTF-8"

_BAD_GATEWAY = 502
_TEMPORARY_REDIRECT = 307

#: What a proxy shows when it has no answer.
_PAGE = """<!DOCTYPE html>
<html>
<head><title>api | {status}</title></head>
<body><h1>Error {status}</h1><p>The web server reported an error. Please try again in a few minutes.</p></body>
</html>
"""


@attrs.frozen(kw_only=True)
class FakeResponse:
    """
    One answer.

    Attributes:
        body: Its body, before any compression.

        code: The code in the body, or None where it has none.

        status: The HTTP status.

        content_type: The header of that name.

        headers: Further headers.
    """

    body: bytes
    code: int | None = None
    status: int = 200
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = attrs.field(factory=dict)


def envelope_response(
    code: int, msg: str | None = None, data: JSON = None, *, status: int = 200, with_data: bool = True
) -> FakeResponse:
    """An envelope as an answer; see ``dialect.envelope``."""
    return FakeResponse(body=dialect.envelope(code, msg, data, with_data=with_data), code=code, status=status)


def empty_success() -> FakeResponse:
    """What stands for the true answer where the service has done nothing."""
    return envelope_response(200)


def apply_fault(answer: FakeResponse, fault: Fault, *, stray: str) -> FakeResponse:
    """
    What *fault* makes of *answer*, as far as it can be said without touching the connection.

    Args:
        answer: The true answer.

        fault: What goes wrong.

        stray: Where a redirect leads to.
    """
    match fault.kind:
        case "code":
            return envelope_response(fault.code or 500, fault.msg, status=fault.status or 200)
        case "status":
            return attrs.evolve(answer, status=fault.status or answer.status)
        case "body":
            body = fault.body.encode() if isinstance(fault.body, str) else fault.body
            return FakeResponse(
                body=body or b"", status=fault.status or 200, content_type=fault.content_type, headers=fault.headers
            )
        case "html":
            status = fault.status or _BAD_GATEWAY
            return FakeResponse(
                body=_PAGE.format(status=status).encode(), status=status, content_type="text/html; charset=UTF-8"
            )
        case "redirect":
            status = fault.status or _TEMPORARY_REDIRECT
            return FakeResponse(body=b"", status=status, content_type="text/html", headers={"Location": stray})
        case "null_data":
            return _with_data(answer, None)
        case "no_task_id":
            return _with_data(answer, {})
        case "alter":
            return _with_data(answer, {**_data(answer), **(fault.data or {})})
        case "truncated_json":
            return attrs.evolve(answer, body=answer.body[: len(answer.body) // 2], code=None)
        case _:
            return answer


def _data(answer: FakeResponse) -> dict[str, JSON]:
    data = json.loads(answer.body).get("data")
    return data if isinstance(data, dict) else {}


def _with_data(answer: FakeResponse, data: JSON) -> FakeResponse:
    return attrs.evolve(answer, body=dialect.compact({**json.loads(answer.body), "data": data}).encode())
