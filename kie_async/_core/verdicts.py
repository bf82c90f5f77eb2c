"""
What became of a create: one table from (was it sent, HTTP status, body) to a verdict, and the error that goes with it.

The rows are tried from the top, and the first that fits decides. The documentation prints this table from ``TABLE``,
so a row is described where it is decided. A create costs money and has no idempotency key: whatever no row can prove
is *in doubt*.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from kie_async import errors

if TYPE_CHECKING:
    from kie_async._core.wire import Envelope

__all__ = ["TABLE", "Reply", "Row", "Verdict", "as_markdown", "decide", "error_of", "error_of_answer", "shortened"]


class Verdict(StrEnum):
    """What became of one attempt to create a task."""

    UNSENT = "unsent"  #: Not a byte has left: nothing can have been paid.
    ACCEPTED = "accepted"  #: The task exists.
    RATE_LIMITED = "rate limited"  #: Refused by the rate limit: not accepted.
    MAINTENANCE = "maintenance"  #: Refused because of maintenance: not accepted.
    ACCOUNT = "account"  #: Refused because of the account: so will be the next one.
    REJECTED = "rejected"  #: Refused for what it is: not accepted, and not worth repeating.
    AMBIGUOUS = "ambiguous"  #: A server error that does not say whether the task was created.
    IN_DOUBT = "in doubt"  #: Sent, and nobody can tell.


@attrs.frozen(kw_only=True)
class Reply:
    """
    How one attempt ended, as far as it can be seen.

    Attributes:
        sent: Whether a byte may have left: the write-ahead hook had returned.

        status: The HTTP status, or None where no answer came.

        envelope: The body as an envelope with an integer code, or None where it is none.

        task_id: The task id in it, or None.

        head: The beginning of the body as text, for the few cases in which a proxy answered.
    """

    sent: bool
    status: int | None = None
    envelope: Envelope | None = None
    task_id: str | None = None
    head: str = ""

    @property
    def code(self) -> int | None:
        """The envelope's code, or None."""
        return None if self.envelope is None else self.envelope.code

    @property
    def message(self) -> str:
        """The envelope's message, or an empty text."""
        return "" if self.envelope is None else self.envelope.message

    def says(self, *codes: int) -> bool:
        """Whether the envelope has one of *codes*."""
        return self.code in codes

    def bare(self, *statuses: int) -> bool:
        """Whether there is no code in the body, and the HTTP status is one of *statuses*."""
        return self.code is None and self.status in statuses


#: Of the service's words, so much goes into the message of an error; the error keeps them whole.
MAX_SAID = 500

# Texts recorded under code 500, where the service reports what other services report under 4xx. A 500 whose text is not
# here stays unclear: calling it a refusal would forget a task that may have been paid.
_CREDIT_TEXT = re.compile(
    r"credits? insufficient|insufficient credits?|balance isn'?t enough|top up to continue", re.IGNORECASE
)
_PAUSED_TEXT = re.compile(r"interface is temporarily paused", re.IGNORECASE)
_FAULT_TEXT = re.compile(
    r"range of allowed options|within the specified range|is required|is not supported|cannot be mixed"
    r"|must be (?:between|one of|less|greater|at (?:least|most)|a |an |adaptive|-?\d)"
    r"|exceeds? the (?:maximum|limit)|(?<!took )too (?:long|large)"
    r"|content polic|flagged as|sensitive|copyright|could not be processed|media file is unavailable",
    re.IGNORECASE,
)


def _credit_text(reply: Reply) -> bool:
    return reply.says(500) and _CREDIT_TEXT.search(reply.message) is not None


def _paused_text(reply: Reply) -> bool:
    # The code that goes with the text was not recorded; one that has a meaning of its own keeps it.
    told = reply.code is None or reply.says(200, 401, 402, 429, 433, 455)
    return not told and _PAUSED_TEXT.search(reply.message) is not None


@attrs.frozen
class Row:
    """
    One row of the table.

    Attributes:
        when: What came back, for people.

        fits: Whether the row applies.

        verdict: What it means.

        then: What follows, for people.
    """

    when: str
    fits: Callable[[Reply], bool]
    verdict: Verdict
    then: str


_REFUSED_CODES = (400, 403, 404, 405, 408, 413, 415, 422, 451, 505, 550)
_REFUSED_STATUSES = (400, 403, 404, 413, 422)

TABLE: tuple[Row, ...] = (
    Row(
        "the write-ahead hook had not returned: DNS, refused, TLS, a stale token, cancelled before the first byte",
        lambda r: not r.sent,
        Verdict.UNSENT,
        "again, with back-off, within `unsent_timeout`; then `TransportError`, and the intent is CANCELLED",
    ),
    Row(
        "code 200 with a taskId, whatever the HTTP status",
        lambda r: r.says(200) and r.task_id is not None,
        Verdict.ACCEPTED,
        "SUBMITTED: the id is journaled before anything else",
    ),
    Row(
        "HTTP 3xx",
        lambda r: r.status is not None and 300 <= r.status < 400,  # noqa: PLR2004 (the class of redirects)
        Verdict.REJECTED,
        "`ConfigurationError`: no redirect is followed",
    ),
    Row(
        "code 429, or a bare HTTP 429",
        lambda r: r.says(429) or r.bare(429),
        Verdict.RATE_LIMITED,
        "its token is burnt: a lower limit is learned; the job keeps its place and is sent again, within `max_age`",
    ),
    Row(
        "code 455",
        lambda r: r.says(455),
        Verdict.MAINTENANCE,
        "one probe a minute for the whole client, within `maintenance_timeout`; then `MaintenanceError`",
    ),
    Row(
        "code 401, 402 or 433, a bare HTTP 401 or 402, or code 500 with the text of 402",
        lambda r: r.says(401, 402, 433) or r.bare(401, 402) or _credit_text(r),
        Verdict.ACCOUNT,
        "the queue pauses, and every waiter of an unsent intent gets the error; a later `submit()` is the probe",
    ),
    Row(
        "code 500 whose text names a fault of the parameters or the content; any code whose text says paused",
        lambda r: (r.says(500) and _FAULT_TEXT.search(r.message) is not None) or _paused_text(r),
        Verdict.REJECTED,
        "`InvalidRequestError` or `ModelPausedError`, not retried",
    ),
    Row(
        "code 500 or 501, anything else",
        lambda r: r.says(500, 501),
        Verdict.AMBIGUOUS,
        "sent again, `server_error_attempts` in all, each under its own attempt number; then `ServerError`, REJECTED",
    ),
    Row(
        "code 400, 403, 404, 405, 408, 413, 415, 422, 451, 505 or 550; a bare HTTP 400, 403, 404, 413 or 422",
        lambda r: r.says(*_REFUSED_CODES) or r.bare(*_REFUSED_STATUSES),
        Verdict.REJECTED,
        "the error of that code",
    ),
    Row(
        "all else: time-out, reset, bare 5xx, HTML, broken JSON, `data: null`, an unknown code, the process killed",
        lambda _: True,
        Verdict.IN_DOUBT,
        "never sent again by itself: `SubmitInDoubtError`",
    ),
)


def decide(reply: Reply) -> Verdict:
    """
    The verdict of the first row that fits.

    >>> decide(Reply(sent=False))
    <Verdict.UNSENT: 'unsent'>
    >>> decide(Reply(sent=True, status=502))
    <Verdict.IN_DOUBT: 'in doubt'>
    """
    return next(row.verdict for row in TABLE if row.fits(reply))


_NEXT: dict[int, tuple[type[errors.APIError], str]] = {
    400: (errors.InvalidRequestError, "Correct the request."),
    401: (errors.AuthenticationError, "Check the API key (KIE_API_KEY) at kie.ai/api-key."),
    402: (errors.InsufficientCreditsError, "Top up the account, then submit again."),
    403: (errors.AuthenticationError, "Check the key's permissions and its list of allowed addresses."),
    404: (errors.InvalidRequestError, "Check the base URL (it ends after the host), and the model's name."),
    405: (errors.InvalidRequestError, "Check the base URL."),
    408: (errors.ServerError, "The service had trouble upstream. Try again later."),
    413: (errors.InvalidRequestError, "Make the request smaller."),
    415: (errors.InvalidRequestError, "Check the base URL."),
    422: (errors.InvalidRequestError, "Correct the request."),
    429: (errors.RateLimitError, "Slow down, then repeat; other programs may be using the same account."),
    433: (errors.KeyLimitError, "Raise the key's cap in the dashboard, or wait until it is over."),
    451: (errors.InvalidRequestError, "Use other content, or an image that the service may fetch."),
    455: (errors.MaintenanceError, "The service is under maintenance. Try again later."),
    500: (errors.ServerError, "Try again later."),
    501: (errors.ServerError, "Try again later."),
    505: (errors.ModelPausedError, "Use another model, or wait until it is back."),
    550: (errors.ServerError, "Try again later."),
}


def error_of_answer(
    reply: Reply, *, what: str, job_id: str | None = None, task_id: str | None = None
) -> errors.KieError:
    """
    The typed error for an answer that was no success.

    Args:
        reply: The answer.

        what: What was asked for, as the subject of a sentence: ``"createTask"``.

        job_id: The job's own id, if there is one.

        task_id: The service's id, if it is known.
    """
    if reply.status is None:
        return errors.TransportError(f"{what} got no answer. Try again.", job_id=job_id, task_id=task_id)
    if 300 <= reply.status < 400:  # noqa: PLR2004 (the class of redirects)
        return errors.ConfigurationError(
            f"{what} was answered by a redirect (HTTP {reply.status}), which is not followed. Check the base URL.",
            job_id=job_id,
            task_id=task_id,
        )
    code = reply.code if reply.code is not None else reply.status
    kind, advice = _NEXT.get(code, (None, ""))
    if _credit_text(reply):
        kind, advice = _NEXT[402]
    elif _paused_text(reply):
        kind, advice = _NEXT[505]
    elif reply.says(500) and _FAULT_TEXT.search(reply.message) is not None:
        kind, advice = _NEXT[422]
    elif code == 403 and "1010" in (reply.message or reply.head):  # noqa: PLR2004 (a proxy's code)
        # Recorded of the proxy in front of the service: an odd or empty User-Agent looks like a bad key.
        kind, advice = (
            errors.APIError,
            "The proxy in front of the service refuses the client: set an ordinary User-Agent.",
        )
    if kind is None:
        return errors.ProtocolError(
            f"{what} got an answer that could not be understood (HTTP {reply.status}, code {reply.code})."
            " Report it with the first bytes of the answer, which the error keeps.",
            head=reply.head.encode()[:256],
            job_id=job_id,
            task_id=task_id,
        )
    said = f": {shortened(reply.message)}" if reply.message else ""
    return kind(
        f"{what} was refused with code {code}{said}. {advice}",
        code=code,
        service_message=reply.message,
        job_id=job_id,
        task_id=task_id,
    )


def shortened(message: str) -> str:
    """
    The service's words as a part of a sentence of ours: not too long, and without the full stop.

    >>> shortened("Please try again later. ")
    'Please try again later'
    """
    message = message.strip().rstrip(".")
    return message if len(message) <= MAX_SAID else message[:MAX_SAID] + "…"


def error_of(reply: Reply, *, job_id: str | None = None) -> errors.KieError:
    """The typed error for a create that was not accepted."""
    return error_of_answer(reply, what="createTask", job_id=job_id)


def as_markdown() -> str:
    """The table for the documentation, in Markdown."""
    lines = ["| what came back, first row that fits | verdict | then |", "| --- | --- | --- |"]
    lines += [f"| {row.when} | {row.verdict} | {row.then} |" for row in TABLE]
    return "\n".join(lines) + "\n"
