"""
Test the verdicts: every HTTP status with every body, against the design's table written out by hand.

``python tests/core/test_verdicts.py`` writes the table into ``docs/verdicts.md``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import aiohttp
import attrs
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from kie_async import errors
from kie_async._core.verdicts import RULES, Reply, Verdict, answer_error, create_error, decide
from kie_async._io.http.transport import Exchange, HttpResponse
from kie_async._io.submitting.submission import _read_reply
from tests.core.strategies import DOCUMENTED_CODES, codes, statuses
from tests.strategies import json_values

DOCUMENT = Path(__file__).parents[2] / "docs" / "verdicts.md"
MARKED = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->)", re.DOTALL)

#: A part of the body that no error may show.
CANARY = "canary-in-the-body"

# Texts recorded under code 500.
PARAMETER_TEXTS = (
    "resolution is not within the range of allowed options",
    "This aspect_ratio is not within the range of allowed options",
    "aspect_ratio is required",
    "This field is required",
    "Value must be within the specified range",
)
CREDIT_TEXT = "Credits insufficient : Your current balance isn't enough to run this request. Please top up to continue."
PAUSED_TEXT = "This interface is temporarily paused."
AMBIGUOUS_TEXT = "Server exception, please try again later or contact customer service"


# -- replies, and their expected outcomes -------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Body:
    """
    A body, and the design's verdict on it under any HTTP status.

    Without a code of its own (``verdict`` None) the HTTP status decides: see ``BARE``.
    """

    name: str
    raw: bytes
    verdict: Verdict | None = None
    error: type[errors.KieError] | None = None
    code: int | None = None


def answer(code: int | str, message: str = "", data: object = None) -> bytes:
    """Return an answer as the service writes it, with an unknown member."""
    return json.dumps({"code": code, "msg": message, "data": data, "trace": CANARY}).encode()


def refused(
    code: int, verdict: Verdict, error: type[errors.KieError] | None, message: str = "No.", name: str = ""
) -> Body:
    """Return a body with a code other than 200."""
    return Body(name=name or f"code {code}", raw=answer(code, message), verdict=verdict, error=error, code=code)


ACCEPTED = (
    Body(
        name="taskId", raw=answer(200, "success", {"taskId": "a" * 32, "recordId": "a" * 32}), verdict=Verdict.ACCEPTED
    ),
    Body(
        name="taskId of the pages",
        raw=answer(200, "success", {"taskId": "task_wan_1765172522239"}),
        verdict=Verdict.ACCEPTED,
    ),
    Body(name="taskId a number", raw=answer(200, "success", {"taskId": 1765172522239}), verdict=Verdict.ACCEPTED),
    Body(name="taskId, code a text", raw=answer("200", "success", {"taskId": "a" * 32}), verdict=Verdict.ACCEPTED),
)

UNCLEAR = (
    Body(name="data null", raw=answer(200, "success", None), verdict=Verdict.IN_DOUBT, code=200),
    Body(name="no data", raw=b'{"code":200,"msg":"success"}', verdict=Verdict.IN_DOUBT, code=200),
    Body(name="taskId empty", raw=answer(200, "success", {"taskId": ""}), verdict=Verdict.IN_DOUBT, code=200),
    Body(name="taskId null", raw=answer(200, "success", {"taskId": None}), verdict=Verdict.IN_DOUBT, code=200),
    Body(name="taskId true", raw=answer(200, "success", {"taskId": True}), verdict=Verdict.IN_DOUBT, code=200),
    Body(name="taskId a fraction", raw=answer(200, "success", {"taskId": 1.5}), verdict=Verdict.IN_DOUBT, code=200),
    Body(name="data a text", raw=answer(200, "success", "a" * 32), verdict=Verdict.IN_DOUBT, code=200),
    *(
        Body(name=f"unknown code {code}", raw=answer(code, "What?"), verdict=Verdict.IN_DOUBT, code=code)
        for code in (0, -1, 201, 409, 418, 430, 502, 531, 777)
    ),
)

BARE_BODIES = (
    Body(name="nothing", raw=b""),
    Body(name="no JSON", raw=f"upstream connect error, {CANARY}".encode()),
    Body(name="HTML", raw=f"<html><body><h1>Bad gateway</h1>{CANARY}</body></html>".encode()),
    Body(name="JSON cut off", raw=b'{"code":200,"msg":"success","data":{"taskId":"aaaa'),
    Body(name="not UTF-8", raw=b'{"code":200,"data":{"taskId":"\xff\xfe"}}'),
    Body(name="a JSON list", raw=b'[{"code":200,"data":{"taskId":"a"}}]'),
    Body(name="a JSON number", raw=b"200"),
    Body(name="null", raw=b"null"),
    Body(name="no code", raw=f'{{"error":"{CANARY}"}}'.encode()),
    Body(name="code null", raw=b'{"code":null,"msg":"success","data":null}'),
    Body(name="code true", raw=b'{"code":true,"msg":"success","data":null}'),
    Body(name="code a fraction", raw=b'{"code":429.5,"msg":"no","data":null}'),
)

REFUSED = (
    refused(
        429, Verdict.RATE_LIMITED, errors.RateLimitError, "Your call frequency is too high. Please try again later."
    ),
    Body(
        name="code 429 without data",
        raw=b'{"code":429,"msg":"Your call frequency is too high. Please try again later."}',
        verdict=Verdict.RATE_LIMITED,
        error=errors.RateLimitError,
        code=429,
    ),
    refused(429, Verdict.ACCOUNT, errors.InsufficientCreditsError, CREDIT_TEXT, name="code 429, the text of 402"),
    refused(455, Verdict.MAINTENANCE, errors.MaintenanceError),
    refused(401, Verdict.ACCOUNT, errors.AuthenticationError, "You do not have access permissions"),
    refused(402, Verdict.ACCOUNT, errors.InsufficientCreditsError, CREDIT_TEXT),
    refused(433, Verdict.ACCOUNT, errors.KeyLimitError),
    refused(500, Verdict.ACCOUNT, errors.InsufficientCreditsError, CREDIT_TEXT, name="code 500, the text of 402"),
    *(
        refused(500, Verdict.REJECTED, errors.InvalidRequestError, text, name=f"code 500, {text}")
        for text in PARAMETER_TEXTS
    ),
    refused(500, Verdict.AMBIGUOUS, errors.ServerError, AMBIGUOUS_TEXT),
    refused(500, Verdict.AMBIGUOUS, errors.ServerError, "", name="code 500 without a text"),
    refused(501, Verdict.AMBIGUOUS, errors.ServerError, "Playground task failed."),
    refused(400, Verdict.REJECTED, errors.InvalidRequestError),
    refused(403, Verdict.REJECTED, errors.AuthenticationError),
    refused(404, Verdict.REJECTED, errors.InvalidRequestError),
    refused(405, Verdict.REJECTED, errors.InvalidRequestError),
    refused(408, Verdict.REJECTED, errors.ServerError),
    refused(413, Verdict.REJECTED, errors.InvalidRequestError),
    refused(415, Verdict.REJECTED, errors.InvalidRequestError),
    refused(422, Verdict.REJECTED, errors.InvalidRequestError, "The model name you specified is not supported."),
    refused(451, Verdict.REJECTED, errors.InvalidRequestError),
    refused(505, Verdict.REJECTED, errors.ModelPausedError, PAUSED_TEXT),
    refused(550, Verdict.REJECTED, errors.ServerError),
)

BODIES = (*ACCEPTED, *UNCLEAR, *BARE_BODIES, *REFUSED)

#: The verdict and the error of an HTTP status if the body has no code.
BARE: dict[int, tuple[Verdict, type[errors.KieError] | None]] = {
    200: (Verdict.IN_DOUBT, None),
    400: (Verdict.REJECTED, errors.InvalidRequestError),
    401: (Verdict.IN_DOUBT, None),
    402: (Verdict.IN_DOUBT, None),
    403: (Verdict.IN_DOUBT, None),
    404: (Verdict.REJECTED, errors.InvalidRequestError),
    407: (Verdict.IN_DOUBT, None),
    413: (Verdict.REJECTED, errors.InvalidRequestError),
    421: (Verdict.IN_DOUBT, None),
    422: (Verdict.REJECTED, errors.InvalidRequestError),
    429: (Verdict.RATE_LIMITED, errors.RateLimitError),
    455: (Verdict.IN_DOUBT, None),
    500: (Verdict.IN_DOUBT, None),
    502: (Verdict.IN_DOUBT, None),
    503: (Verdict.IN_DOUBT, None),
    504: (Verdict.IN_DOUBT, None),
    520: (Verdict.IN_DOUBT, None),
}
REDIRECTS = (301, 302, 307)
BARE |= dict.fromkeys(REDIRECTS, (Verdict.REJECTED, errors.ConfigurationError))
STATUSES = tuple(BARE)


def expected_outcome(status: int, body: Body) -> tuple[Verdict, type[errors.KieError] | None, int | None]:
    """Return the verdict, the class of the error and its code, from the tables above."""
    if body.verdict is Verdict.ACCEPTED:
        return Verdict.ACCEPTED, None, None
    if body.verdict is None:
        return *BARE[status], status
    return body.verdict, body.error, body.code


def reply(status: int, body: bytes) -> Reply:
    """Return the reply that the client makes of an answer."""
    return _read_reply(Exchange(sent=True, response=HttpResponse(status, body)))


def pairs(status: int) -> dict[str, tuple[Reply, Verdict, type[errors.KieError] | None, int | None]]:
    """Return every body under one HTTP status."""
    return {body.name: (reply(status, body.raw), *expected_outcome(status, body)) for body in BODIES}


@pytest.mark.parametrize("status", STATUSES)
def test_every_body_and_status_has_its_verdict(status: int) -> None:
    expected = {name: verdict for name, (_, verdict, _, _) in pairs(status).items()}

    assert expected == {name: decide(reply) for name, (reply, _, _, _) in pairs(status).items()}


@pytest.mark.parametrize("status", STATUSES)
def test_every_refusal_has_its_typed_error(status: int) -> None:
    """The code is the body's, or the HTTP status where the body has none."""
    for name, (reply, _, kind, code) in pairs(status).items():
        if kind is not None:
            error = create_error(reply, job_id="kj_1")
            assert kind is type(error), name
            assert ("kj_1", None) == (error.job_id, error.task_id), name
            if isinstance(error, errors.APIError):
                assert (code, reply.message) == (error.code, error.service_message), name


@pytest.mark.parametrize("status", STATUSES)
def test_errors_end_with_a_next_step_and_quote_only_the_message(status: int) -> None:
    for name, (reply, verdict, _, _) in pairs(status).items():
        if verdict is not Verdict.ACCEPTED:
            error = create_error(reply)
            assert ends_with_a_next_step(error), name
            assert reply.message in str(error) or isinstance(
                error, (errors.ConfigurationError, errors.ProtocolError)
            ), name
            assert CANARY not in str(error), name
            assert CANARY not in repr(error), name


def ends_with_a_next_step(error: errors.KieError) -> bool:
    """Return True if the last sentence is a next step."""
    last = re.split(r"[.:] ", error.message)[-1]
    steps = r"Check|Correct|Make|Raise|Report|Slow down|Top up|Try again|Use|set"
    return re.match(steps, last) is not None and last.endswith(".") and not last.endswith("..")


def test_quoted_messages_end_with_one_full_stop() -> None:
    """The service may end its own sentence or not."""
    with_stop, without = (create_error(reply(200, answer(402, f"No credits{stop}"))).message for stop in (".", ""))

    advice = "Top up the account, then submit again (with the same key, if any)."
    assert f"createTask was refused with code 402: No credits. {advice}" == without
    assert with_stop == without


# -- no answer at all ---------------------------------------------------------------------------------------------

_KEY = ConnectionKey("api.kie.ai", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
_REQUEST = aiohttp.RequestInfo(
    URL("https://api.kie.ai"), "POST", CIMultiDictProxy(CIMultiDict()), URL("https://api.kie.ai")
)

#: Failures of aiohttp, by phase. Each can occur before the first byte and after it.
FAILURES: dict[str, Exception | None] = {
    "DNS": aiohttp.ClientConnectorDNSError(_KEY, OSError(-2, "Name or service not known")),
    "refused": aiohttp.ClientConnectorError(_KEY, ConnectionRefusedError(111, "Connection refused")),
    "connect time-out": aiohttp.ConnectionTimeoutError("Connection timeout to host"),
    "connect eaten by the total time-out": TimeoutError(),
    "TLS": aiohttp.ClientConnectorSSLError(_KEY, OSError(1, "handshake failure")),
    "certificate": aiohttp.ClientConnectorCertificateError(_KEY, ValueError("expired")),
    "reset on accept, within the body, or after the request": aiohttp.ClientOSError(104, "Connection reset by peer"),
    "closed after the request": aiohttp.ServerDisconnectedError(),
    "no answer": aiohttp.SocketTimeoutError("Timeout on reading data from socket"),
    "garbage instead of HTTP": aiohttp.ClientResponseError(_REQUEST, (), status=400, message="Bad status line"),
    "cut within the body": aiohttp.ClientPayloadError("Response payload is not completed"),
    "the hook itself": errors.JournalError("The journal is full."),
    "cancelled, or killed": None,
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize(("hook_returned", "verdict"), [(False, Verdict.UNSENT), (True, Verdict.IN_DOUBT)])
def test_only_the_hook_decides_if_a_create_was_sent(
    name: str,
    hook_returned: bool,  # noqa: FBT001 (a parameter of the test)
    verdict: Verdict,
) -> None:
    assert verdict is decide(_read_reply(Exchange(sent=hook_returned, error=FAILURES[name])))


@pytest.mark.parametrize("body", [b"", b"<html></html>", b"{}", b"null"])
def test_no_other_bare_status_is_a_refusal(body: bytes) -> None:
    """A proxy may have sent it after the service had accepted."""
    listed = {*BARE, *range(300, 400)}

    assert {Verdict.IN_DOUBT} == {decide(reply(status, body)) for status in range(100, 600) if status not in listed}


def test_free_requests_without_an_answer_may_be_repeated() -> None:
    error = answer_error(Reply(sent=True), what="the poll", task_id="t1")

    assert isinstance(error, errors.TransportError)
    assert "the poll got no answer. Try again." == error.message
    assert "t1" == error.task_id


@pytest.mark.parametrize(
    ("status", "body", "bare"),
    [
        (404, b"", True),
        (302, b"<html>", True),
        (308, b"", True),
        (422, b'{"detail":[]}', True),
        (404, b'{"code":404}', False),
        (302, b'{"code":500}', False),
        (405, b"", False),
        (429, b"", False),
        (403, b"error code: 1010", False),
    ],
)
def test_a_bare_refusal_has_no_code(status: int, body: bytes, *, bare: bool) -> None:
    assert bare is reply(status, body).is_bare_refusal


# -- named cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        AMBIGUOUS_TEXT,
        "Internal Error, Please try again later.",
        "internal error, please try again later",
        "the server is busy",
        "The upstream API service timed out and no results were returned, please try again.",
        "Sora official service is currently under heavy load and not responding. Please try again later.",
        "The upstream service took too long to respond.",
        "Invalid response from the upstream service",
    ],
)
def test_a_500_that_names_no_fault_is_ambiguous(text: str) -> None:
    """If it were a refusal, a task that was paid would be forgotten."""
    assert Verdict.AMBIGUOUS is decide(reply(200, answer(500, text)))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (500, "Each reference audio must be between 2 and 30 seconds"),
        (500, "The current content could not be processed"),
        (500, "first/last frame content cannot be mixed with reference media content"),
        (500, "CONTENT_POLICY_BLOCKED: The input or output was flagged as sensitive."),
        (500, "the output video may be related to copyright restrictions"),
        (500, "Your media file is unavailable, please replace it."),
        (422, "character_id example_123456789 invalid"),
        (422, "url is wrong"),
    ],
)
def test_recorded_fault_texts_are_refusals(code: int, text: str) -> None:
    refusal = reply(200, answer(code, text))

    assert Verdict.REJECTED is decide(refusal)
    assert isinstance(create_error(refusal), errors.InvalidRequestError)


@pytest.mark.parametrize(
    "text",
    [
        "The request could not be processed by the upstream server in time",
        "The current content could not be processed, the worker has left",
        "upstream request header too long",
        "The connection to the upstream took too long",
        "Authentication to the upstream is required",
        "A healthy upstream connection is required",
        "connection is required",
        "access_token is required",
        "request_id is required",
        "content_length is required",
        "x_forwarded_for is required",
        "client_ip is required",
        "upgrade_required is required",
        "Number of concurrent requests exceeds the limit",
        "the response exceeds the maximum size",
        "Response body too large",
        "chunked encoding is not supported",
        "retries must be less than 3",
        "sensitive data was removed from this error",
        "upstream credits insufficient for this connection",
        "Insufficient credits on connection window, stream was reset",
        "Circuit open: this interface is temporarily paused. Please retry.",
    ],
)
@pytest.mark.parametrize("code", [500, 501])
def test_texts_of_a_gateway_prove_no_refusal(code: int, text: str) -> None:
    """It may speak after the service has accepted: taken for a refusal, the task would be paid and forgotten."""
    assert Verdict.AMBIGUOUS is decide(reply(200, answer(code, text)))
    assert errors.ServerError is type(create_error(reply(200, answer(code, text))))


@given(
    st.sampled_from([*PARAMETER_TEXTS, CREDIT_TEXT, PAUSED_TEXT]),
    st.sampled_from(
        ["{} (after 3 attempts)", "upstream: {}", '{{"error":"{}"}}', "{} {}", "Retry: {}", "{}\nTrace: 1"]
    ),
)
def test_a_known_text_within_another_proves_no_refusal(text: str, around: str) -> None:
    assert Verdict.AMBIGUOUS is decide(reply(200, answer(500, around.format(text, text))))


@pytest.mark.parametrize("text", [*PARAMETER_TEXTS, CREDIT_TEXT, PAUSED_TEXT])
def test_known_texts_may_differ_in_case_space_and_full_stop(text: str) -> None:
    verdicts = {decide(reply(200, answer(500, form))) for form in (text.upper(), f" {text.rstrip('.')}", f"{text}\n")}

    assert verdicts <= {Verdict.REJECTED, Verdict.ACCOUNT}


@pytest.mark.parametrize("code", [422, 500, 501, 505, 777])
def test_a_paused_model_is_recognized_by_its_text(code: int) -> None:
    """Its code was not recorded with the text."""
    refusal = reply(200, answer(code, PAUSED_TEXT))

    assert Verdict.REJECTED is decide(refusal)
    assert isinstance(create_error(refusal), errors.ModelPausedError)


@pytest.mark.parametrize(
    "body", [b"error code: 1010", b"<html>Access denied. Error 1010</html>", answer(403, "error code: 1010")]
)
def test_the_proxys_refusal_is_not_a_bad_key(body: bytes) -> None:
    refusal = reply(403, body)
    error = create_error(refusal)

    assert Verdict.REJECTED is decide(refusal)
    assert errors.APIError is type(error)
    assert "User-Agent" in error.message


@pytest.mark.parametrize("text", ["IP not allowed (request 1010)", "error 10105", "terror 1010"])
def test_other_texts_with_that_number_are_a_bad_key(text: str) -> None:
    assert errors.AuthenticationError is type(create_error(reply(403, answer(403, text))))


def test_unreadable_answers_keep_their_first_bytes() -> None:
    error = answer_error(reply(502, b"<html>" + b"x" * 1000), what="the poll")

    assert isinstance(error, errors.ProtocolError)
    assert b"<html>" + b"x" * 250 == error.head


# -- whatever comes back ------------------------------------------------------------------------------------------

_recorded = st.sampled_from([*PARAMETER_TEXTS, CREDIT_TEXT, AMBIGUOUS_TEXT, PAUSED_TEXT])
_envelopes = st.builds(
    lambda code, message, data: json.dumps({"code": code, "msg": message, "data": data}).encode(),
    codes | json_values(),
    _recorded | st.text(),
    st.sampled_from([None, {"taskId": "a" * 32}, {"taskId": 7}]) | json_values(),
)
_replies = st.builds(reply, statuses, _envelopes | st.binary() | st.sampled_from([body.raw for body in BODIES]))

#: Verdicts that prove that nothing was paid, and the codes that prove it.
_NOT_ACCEPTED = {Verdict.RATE_LIMITED, Verdict.MAINTENANCE, Verdict.ACCOUNT, Verdict.REJECTED}
_PROOF = {400, 401, 402, 403, 404, 405, 408, 413, 415, 422, 429, 433, 451, 455, 500, 505, 550}


@given(_replies)
def test_not_accepted_needs_a_code_that_proves_it(reply: Reply) -> None:
    """A bare redirect is a refusal, too, and so is the text of a paused model."""
    paused, redirected = "temporarily paused" in reply.message, reply.code is None and reply.is_redirect
    if decide(reply) in _NOT_ACCEPTED and not paused and not redirected:
        assert (reply.code if reply.code is not None else reply.status) in _PROOF


@given(_replies)
def test_accepted_means_code_200_with_a_task_id(reply: Reply) -> None:
    assert (reply.code == 200 and reply.task_id is not None) is (decide(reply) is Verdict.ACCEPTED)


@given(reply=_replies, known=st.booleans())
def test_where_the_service_answers_no_bare_refusal_is_one(reply: Reply, *, known: bool) -> None:
    """A gateway may have sent it after the service had accepted; a 429 and Cloudflare's 1010 are sent before."""
    verdict = decide(attrs.evolve(reply, from_service_url=known))
    if reply.is_bare_refusal:
        assert (Verdict.IN_DOUBT if known else Verdict.REJECTED) is verdict
        assert "base URL" in reply.summary
    else:
        assert decide(reply) is verdict


@given(_replies)
def test_not_sent_is_always_unsent(reply: Reply) -> None:
    assert Verdict.UNSENT is decide(attrs.evolve(reply, sent=False))


_ERRORS: dict[Verdict, tuple[type[errors.KieError], ...]] = {
    Verdict.RATE_LIMITED: (errors.RateLimitError,),
    Verdict.MAINTENANCE: (errors.MaintenanceError,),
    Verdict.ACCOUNT: (errors.AuthenticationError, errors.InsufficientCreditsError, errors.KeyLimitError),
    Verdict.AMBIGUOUS: (errors.ServerError,),
    Verdict.REJECTED: (
        errors.APIError,
        errors.AuthenticationError,
        errors.ConfigurationError,
        errors.InvalidRequestError,
        errors.ModelPausedError,
        errors.ServerError,
    ),
}


@pytest.mark.parametrize("code", DOCUMENTED_CODES)
def test_errors_agree_with_verdicts(code: int) -> None:
    """The text of one refusal may be sent with the code of another."""
    for text in (*PARAMETER_TEXTS, CREDIT_TEXT, AMBIGUOUS_TEXT, PAUSED_TEXT, "error code: 1010", ""):
        refusal = reply(200, answer(code, text))
        if (verdict := decide(refusal)) in _ERRORS:
            assert type(create_error(refusal)) in _ERRORS[verdict], text


# -- the printed table --------------------------------------------------------------------------------------------


def rules_as_markdown() -> str:
    """Return the table in Markdown."""
    lines = ["| reply, first rule that matches | verdict | consequence |", "| --- | --- | --- |"]
    lines += [f"| {rule.when} | {rule.verdict} | {rule.then} |" for rule in RULES]
    return "\n".join(lines) + "\n"


def test_no_cell_of_the_table_breaks_markdown() -> None:
    assert not [rule for rule in RULES if re.search(r"[|\n]", rule.when + rule.then)]


def test_every_verdict_has_a_rule_and_the_last_matches_all() -> None:
    assert set(Verdict) == {rule.verdict for rule in RULES}
    assert Verdict.IN_DOUBT is RULES[-1].verdict


def test_the_document_shows_the_table() -> None:
    """Update it with ``python tests/core/test_verdicts.py``."""
    document = DOCUMENT.read_text()

    assert with_table(document) == document


def with_table(document: str) -> str:
    """Return *document* with the table between its markers."""
    written, times = MARKED.subn(lambda _: f"\n{rules_as_markdown()}\n", document)
    assert 1 == times, "the document has lost its markers"
    return written


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))


@pytest.mark.parametrize("code", [400, 422, 451])
def test_refusal_of_a_lost_file_names_the_new_upload_as_the_next_step(code: int) -> None:
    error = create_error(reply(200, answer(code, "Your media file is unavailable, please replace it.")))

    assert isinstance(error, errors.InvalidRequestError)
    assert error.message.endswith("local files are uploaded again; replace expired URLs.")
