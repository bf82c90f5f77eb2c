"""
The verdict on a create: one table from (sent or not, HTTP status, body) to a verdict, and the error that goes with it.

The first rule of ``RULES`` that matches decides. A create costs money and has no idempotency key, so everything that no
rule can prove is *in doubt*. ``docs/verdicts.md`` prints the table; ``docs/explanation/in-doubt.md`` explains it.
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

__all__ = [
    "RULES",
    "Reply",
    "Verdict",
    "VerdictRule",
    "answer_error",
    "create_error",
    "decide",
    "is_from_gateway",
    "names_content_fault",
    "names_lost_media",
    "shortened",
]


class Verdict(StrEnum):
    """The outcome of one attempt to create a task."""

    UNSENT = "unsent"  #: Not a byte was sent: nothing can have been paid.
    ACCEPTED = "accepted"  #: The task exists.
    RATE_LIMITED = "rate limited"  #: Refused by the rate limit: not accepted.
    MAINTENANCE = "maintenance"  #: Refused because of maintenance: not accepted.
    ACCOUNT = "account"  #: Refused because of the account; the next create will be refused, too.
    REJECTED = "rejected"  #: Refused because of the request: not accepted, and not worth a retry.
    AMBIGUOUS = "ambiguous"  #: A server error that does not say whether the task was created.
    IN_DOUBT = "in doubt"  #: Sent, and no answer says whether the task was created.


@attrs.frozen(kw_only=True)
class Reply:
    """
    The observable end of one attempt.

    Attributes:
        sent: True if a byte may have been sent: the write-ahead hook had returned.

        status: The HTTP status, or None without an answer.

        envelope: The body as an envelope, or None if it is not one.

        task_id: The task id in it, or None.

        head: The beginning of the body as text, to recognize a proxy's answer.

        from_service_url: True if the service itself has answered at the base URL, or may have: then a gateway may give
            a bare refusal in place of the service's answer to a create that was accepted.
    """

    sent: bool
    status: int | None = None
    envelope: Envelope | None = None
    task_id: str | None = None
    head: str = ""
    from_service_url: bool = False

    @property
    def code(self) -> int | None:
        """The envelope's code, or None."""
        return None if self.envelope is None else self.envelope.code

    @property
    def message(self) -> str:
        """The envelope's message, or an empty string."""
        return "" if self.envelope is None else self.envelope.message

    def has_code(self, *codes: int) -> bool:
        """Return True if the envelope has one of *codes*."""
        return self.code in codes

    def has_bare_status(self, *statuses: int) -> bool:
        """Return True if the body has no code and the HTTP status is one of *statuses*."""
        return self.code is None and self.status in statuses

    @property
    def from_gateway(self) -> bool:
        """True for the refusal of a gateway or a proxy; see ``is_from_gateway``."""
        return is_from_gateway(self.status, self.code, self.head)

    @property
    def summary(self) -> str:
        """The answer in a few words."""
        return (
            "a page, or a refusal, of a gateway or a proxy: " * self.from_gateway
            + f"HTTP {self.status}, code {self.code}"
            + "; check the base URL if this repeats" * (self.code is None and self.status is not None)
        )

    @property
    def is_bare_refusal(self) -> bool:
        """True for a bare status that refuses the request, if it is not a gateway's answer in place of the service."""
        return self.code is None and (self.is_redirect or self.status in _REFUSED_STATUSES)

    @property
    def is_redirect(self) -> bool:
        """True for an HTTP status of 300 to 399."""
        return self.status is not None and 300 <= self.status < 400  # noqa: PLR2004 (the class of redirects)


#: HTTP statuses that speak of the key or the account, and come from a gateway or a proxy if the body has no code.
_GATEWAY_STATUSES = frozenset({401, 402, 403, 407})


def is_from_gateway(status: int | None, code: int | None, head: str) -> bool:
    """
    Return True for an answer of a gateway or a proxy that may, or may not, be about the key or the account.

    The service answers with a code in the body, also where it refuses a key. A bare HTTP 401, 402, 403 or 407 and a
    page (a login, a captcha, a block) tell nothing about the key, the account or the task.

    >>> is_from_gateway(407, None, ""), is_from_gateway(200, None, "<html>"), is_from_gateway(401, 401, "{")
    (True, True, False)
    """
    return code is None and (status in _GATEWAY_STATUSES or head.lstrip("\ufeff \t\r\n").startswith("<"))


# -- the service's texts ----------------------------------------------------------------------------------------------

#: The service's messages are cut to this length in an error's message; ``service_message`` keeps all of it.
MAX_SERVICE_MESSAGE = 500

# The one table of recorded texts that prove a refusal. The service sends them with code 500, not with 4xx. Each must be
# the whole message: a gateway may use the same words after the service has accepted ("The connection is required",
# "upstream request too long"). A 500 with any other text stays ambiguous: taken for a refusal, a task that may have
# been paid would be forgotten.


def _whole(*texts: str) -> re.Pattern[str]:
    """Return the pattern of messages that are one of *texts*, with any case, white space and full stop."""
    texts = tuple(text.replace(" ", r"\s+") for text in texts)
    return re.compile(rf"\s*(?:{'|'.join(texts)})\.?\s*", re.IGNORECASE)


#: The name of a field of a request: documented, or with an underscore and without a word of gateways.
_FIELD = (
    r"(?:(?!\S*(?:api|auth|token|key|session|header|request|trace|upstream|user|account|client|content|forward|gateway"
    r"|host|_ip|limit|proxy|server|service|upgrade))[a-z0-9]+(?:_[a-z0-9]+)+"
    r"|audio|duration|image|instrumental|lyrics|mode|prompt|quality|resolution|size|sound|style|text|title|voice)"
)

#: Cloudflare's refusal of a client; only the advice depends on it.
_PROXY_TEXT = re.compile(r"\berror(?: code:?)? 1010\b", re.IGNORECASE)
_CREDIT_TEXT = _whole(
    r"Credits insufficient ?: Your current balance isn'?t enough(?: to run this request\. Please top up to continue)?"
)
_PAUSED_TEXT = _whole("This interface is temporarily paused")
#: Faults of the parameters or the content, in answers to creates.
_FAULT_TEXT = _whole(
    r"(?:This )?\S+ is not within the range of allowed options",
    rf"(?:{_FIELD}|This field) is required",
    "Value must be within the specified range",
    r"The model name you specified is not supported\. Please verify your input and use one of the supported models"
    r" provided by KIE",
    r"Each reference (?:audio|image|video) must be between \d+ and \d+ seconds",
    r"character_id \S+ invalid",
    "url is wrong",
    "The current content could not be processed",
    "No valid characters detected in the video",
    "first/last frame content cannot be mixed with reference media content",
    r"CONTENT_POLICY_BLOCKED: The input or output was flagged as sensitive",
    "the output video may be related to copyright restrictions",
    "Your media file is unavailable, please replace it",
)
#: Faults of the content, in records of failed tasks. Such a task is over and costs nothing, and a match only prevents a
#: retry, so a part of the message suffices.
_CONTENT_TEXT = re.compile(
    r"content polic|flagged as|sensitive|copyright|could not be processed|media file is unavailable|cannot be mixed"
    r"|no valid characters",
    re.IGNORECASE,
)
#: A file of the request that the service could not fetch. It keeps uploads for 24 hours.
_LOST_MEDIA_TEXT = re.compile(
    r"(?<![a-z])(?:files?|urls?|links?|images?|media) (?:(?:is|are|has|have|was|were) )?(?:been )?"
    r"(?:unavailable|inaccessible|expired|(?:no longer|not) (?:available|accessible|found)"
    r"|(?:can ?not|could not) be (?:accessed|downloaded|fetched|loaded))\b"
    r"|\b(?:failed|unable) to (?:access|download|fetch|load|retrieve)"
    r" (?:\w+ ){0,3}(?:files?|urls?|links?|images?|media)\b",
    re.IGNORECASE,
)


def names_lost_media(message: str) -> bool:
    """
    Return True if a message of the service says that it could not fetch a file of the request.

    >>> names_lost_media("Your media file is unavailable, please replace it.")
    True
    """
    return _LOST_MEDIA_TEXT.search(message) is not None


def names_content_fault(message: str) -> bool:
    """Return True if the message of a failed task names a fault of the content, so that a retry would fail, too."""
    return _CONTENT_TEXT.search(message) is not None


def _lacks_credits(reply: Reply) -> bool:
    # The pages of the music models give 429 this meaning.
    return reply.has_code(429, 500) and _CREDIT_TEXT.fullmatch(reply.message) is not None


def _is_rate_limit(reply: Reply) -> bool:
    return (reply.has_code(429) or reply.has_bare_status(429)) and not _lacks_credits(reply)


def _is_paused(reply: Reply) -> bool:
    # The code that goes with the text was not recorded. Codes that have a meaning of their own keep it.
    has_meaning = reply.code is None or reply.has_code(200, 401, 402, 429, 433, 455)
    return not has_meaning and _PAUSED_TEXT.fullmatch(reply.message) is not None


def _names_fault(reply: Reply) -> bool:
    return reply.has_code(500) and _FAULT_TEXT.fullmatch(reply.message) is not None


# -- the table --------------------------------------------------------------------------------------------------------


@attrs.frozen
class VerdictRule:
    """
    One row of the table.

    Attributes:
        when: The reply that the rule is for, as text.

        matches: Returns True if the rule applies to a reply.

        verdict: The verdict.

        then: The consequence, as text.
    """

    when: str
    matches: Callable[[Reply], bool]
    verdict: Verdict
    then: str


_REFUSED_CODES = (400, 403, 404, 405, 408, 413, 415, 422, 451, 505, 550)
#: A server that is not the service refuses with them what it does not know; so may a gateway.
_REFUSED_STATUSES = (400, 404, 413, 422)


def _is_blocked_client(reply: Reply) -> bool:
    return reply.has_bare_status(403) and _PROXY_TEXT.search(reply.head) is not None


RULES: tuple[VerdictRule, ...] = (
    VerdictRule(
        "the write-ahead hook had not returned: DNS, refused, TLS, an outdated token, cancelled before the first byte",
        lambda r: not r.sent,
        Verdict.UNSENT,
        "sent again, with backoff, within `unsent_timeout`; then `TransportError`, and the job is CANCELLED",
    ),
    VerdictRule(
        "code 200 with a taskId, whatever the HTTP status",
        lambda r: r.has_code(200) and r.task_id is not None,
        Verdict.ACCEPTED,
        "SUBMITTED: the id is journaled before anything else; if it is the task of another job, IN_DOUBT",
    ),
    VerdictRule(
        "a bare HTTP 3xx, 400, 404, 413 or 422, while the service has not answered at the base URL, and does not answer"
        " the question for the balance there",
        lambda r: r.is_bare_refusal and not r.from_service_url,
        Verdict.REJECTED,
        "the error of that status, with the advice to check the base URL; no redirect is followed",
    ),
    VerdictRule(
        "code 429, or a bare HTTP 429",
        _is_rate_limit,
        Verdict.RATE_LIMITED,
        "its token expires, and from the second one in a window on the limit is estimated; the job keeps its place and"
        " is sent again, within `max_age`",
    ),
    VerdictRule(
        "code 455",
        lambda r: r.has_code(455),
        Verdict.MAINTENANCE,
        "one probe a minute for the whole client, within `maintenance_timeout`; then `MaintenanceError`",
    ),
    VerdictRule(
        "code 401, 402 or 433, or code 429 or 500 with the whole text of 402",
        lambda r: r.has_code(401, 402, 433) or _lacks_credits(r),
        Verdict.ACCOUNT,
        "the queue pauses, and every waiter of an unsent job gets the error, in other processes, too; a later"
        " `submit()` in any process is the probe",
    ),
    VerdictRule(
        "code 500 whose whole text is a known refusal of parameters or content; any code whose whole text says paused",
        lambda r: _names_fault(r) or _is_paused(r),
        Verdict.REJECTED,
        "`InvalidRequestError` or `ModelPausedError`, not retried",
    ),
    VerdictRule(
        "code 500 or 501, anything else",
        lambda r: r.has_code(500, 501),
        Verdict.AMBIGUOUS,
        "sent again, `server_error_attempts` in all, each under its own attempt number; then `ServerError`, REJECTED",
    ),
    VerdictRule(
        "code 400, 403, 404, 405, 408, 413, 415, 422, 451, 505 or 550; a bare HTTP 403 with Cloudflare's error 1010",
        lambda r: r.has_code(*_REFUSED_CODES) or _is_blocked_client(r),
        Verdict.REJECTED,
        "the error of that code",
    ),
    VerdictRule(
        "all else: timeout, reset, any other bare status, HTML, broken JSON, `data: null`, an unknown code, the process"
        " killed",
        lambda _: True,
        Verdict.IN_DOUBT,
        "never sent again automatically: `SubmitInDoubtError`",
    ),
)


def decide(reply: Reply) -> Verdict:
    """
    Return the verdict of the first rule that matches.

    >>> decide(Reply(sent=False))
    <Verdict.UNSENT: 'unsent'>
    >>> decide(Reply(sent=True, status=502))
    <Verdict.IN_DOUBT: 'in doubt'>
    """
    return next(rule.verdict for rule in RULES if rule.matches(reply))


# -- errors -----------------------------------------------------------------------------------------------------------

_CREDITS = (errors.InsufficientCreditsError, "Top up the account, then submit again (with the same key, if any).")
_INVALID = (errors.InvalidRequestError, "Correct the request.")
_LOST_MEDIA = (
    errors.InvalidRequestError,
    "The service keeps uploads for 24 hours. Submit again: local files are uploaded again; replace expired URLs.",
)
_BASE_URL = (errors.InvalidRequestError, "Check the base URL.")
_PAUSED = (errors.ModelPausedError, "Use another model, or wait until it is back.")
_SERVER = (errors.ServerError, "Try again later.")

#: The error of each code, and the next step.
_ERRORS: dict[int, tuple[type[errors.APIError], str]] = {
    400: _INVALID,
    401: (errors.AuthenticationError, "Check the API key (KIE_API_KEY) at kie.ai/api-key."),
    402: _CREDITS,
    403: (errors.AuthenticationError, "Check the key's permissions and its list of allowed addresses."),
    404: (errors.InvalidRequestError, "Check the base URL (it ends after the host), and the model's name."),
    405: _BASE_URL,
    408: (errors.ServerError, "The service had trouble upstream. Try again later."),
    413: (errors.InvalidRequestError, "Make the request smaller."),
    415: _BASE_URL,
    422: _INVALID,
    429: (errors.RateLimitError, "Slow down, then repeat; other programs may be using the same account."),
    433: (errors.KeyLimitError, "Raise the key's cap in the dashboard, or wait until it is over."),
    451: (errors.InvalidRequestError, "Use other content, or an image that the service may fetch."),
    455: (errors.MaintenanceError, "The service is under maintenance. Try again later."),
    500: _SERVER,
    501: _SERVER,
    505: _PAUSED,
    550: _SERVER,
}


def answer_error(reply: Reply, *, what: str, job_id: str | None = None, task_id: str | None = None) -> errors.KieError:
    """
    Return the typed error for an answer that reports no success.

    Args:
        reply: The answer.

        what: The request, as the subject of a sentence: ``"createTask"``.

        job_id: The job's own id, or None.

        task_id: The service's id, or None.
    """
    if reply.status is None:
        return errors.TransportError(f"{what} got no answer. Try again.", job_id=job_id, task_id=task_id)
    if reply.is_redirect and reply.code is None:
        msg = f"{what} was answered by a redirect (HTTP {reply.status}), which is not followed. Check the base URL."
        return errors.ConfigurationError(msg, job_id=job_id, task_id=task_id)
    code = reply.code if reply.code is not None else reply.status
    kind, advice = _ERRORS.get(code, (None, ""))
    if _lacks_credits(reply):
        kind, advice = _CREDITS
    elif _is_paused(reply):
        kind, advice = _PAUSED
    elif kind is errors.InvalidRequestError and names_lost_media(reply.message):
        kind, advice = _LOST_MEDIA
    elif _names_fault(reply):
        kind, advice = _INVALID
    elif code == 403 and _PROXY_TEXT.search(reply.message or reply.head):  # noqa: PLR2004
        # Recorded: the proxy in front of the service answers an odd or empty User-Agent as if the key were bad.
        kind = errors.APIError
        advice = "The proxy in front of the service refuses the client: set an ordinary User-Agent."
    if kind is None:
        msg = (
            f"{what} got an answer that could not be understood (HTTP {reply.status}, code {reply.code})."
            " Report it with the first bytes of the answer, which the error keeps."
        )
        return errors.ProtocolError(msg, head=reply.head.encode()[:256], job_id=job_id, task_id=task_id)
    reason = f": {shortened(reply.message)}" if reply.message else ""
    msg = f"{what} was refused with code {code}{reason}. {advice}"
    return kind(msg, code=code, service_message=reply.message, job_id=job_id, task_id=task_id)


def shortened(message: str) -> str:
    """
    Return a message of the service as a part of our own sentence: cut to length, and without its full stop.

    >>> shortened("Please try again later. ")
    'Please try again later'
    """
    message = message.strip().rstrip(".")
    return message if len(message) <= MAX_SERVICE_MESSAGE else message[:MAX_SERVICE_MESSAGE] + "…"


def create_error(reply: Reply, *, job_id: str | None = None) -> errors.KieError:
    """Return the typed error for a create that was not accepted."""
    return answer_error(reply, what="createTask", job_id=job_id)
