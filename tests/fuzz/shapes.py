"""
The awkward shapes of the service's answers, and what must be read of each: one row for each file in ``corpus``.

The service has documented these shapes, public recordings or notes have them, or they are such answers cut, altered or
encoded otherwise.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from kie_async._core.poll_results import PollVerdict
from kie_async._core.verdicts import Verdict

__all__ = [
    "CALLBACKS",
    "CORPUS",
    "CREATES",
    "CREDITS",
    "ID",
    "LINKS",
    "MANIFESTS",
    "RECORDS",
    "TABLES",
    "UPLOADS",
    "URL",
    "Create",
    "Record",
    "corpus",
    "read",
]

CORPUS = Path(__file__).with_name("corpus")
#: The task that the shapes are about, and its result.
ID, URL = "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "https://tempfile.aiquickdraw.com/"


def read(name: str) -> bytes:
    """Return a file of the corpus."""
    return (CORPUS / name).read_bytes()


def corpus(prefix: str) -> list[bytes]:
    """Return the files of the corpus whose names begin with *prefix*."""
    return [path.read_bytes() for path in sorted(CORPUS.glob(f"{prefix}-*"))]


@attrs.frozen
class Create:
    """
    The expected reading of an answer to a create.

    Attributes:
        verdict: The verdict.

        task_id: The task that it names, as the accepted one or as a candidate.

        status: The HTTP status.
    """

    verdict: Verdict
    task_id: str | None = None
    status: int = 200


@attrs.frozen
class Record:
    """
    The expected reading of an answer to a poll of ``ID``.

    Attributes:
        state: The state of the task; empty if the answer has no record.

        urls: The number of its results; each begins with ``URL``.

        fail_code: The reason of its failure.

        credits: Its cost.

        verdict: The verdict.

        status: The HTTP status.
    """

    state: str = ""
    urls: int = 0
    fail_code: str | None = None
    credits: float | None = None
    verdict: PollVerdict = PollVerdict.RECORD
    status: int = 200


CREATES = {
    "create-200-bom.json": Create(Verdict.ACCEPTED, ID),
    "create-200-data-in-a-string.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-data-list.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-deep.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-documented-id.json": Create(Verdict.ACCEPTED, "task_wan_1765172522239"),
    "create-200-duplicate-id.json": Create(Verdict.ACCEPTED, ID),
    "create-200-empty-id.json": Create(Verdict.IN_DOUBT),
    "create-200-fractional-id.json": Create(Verdict.IN_DOUBT),
    "create-200-id-as-data.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-id-at-the-top.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-id-with-spaces.json": Create(Verdict.IN_DOUBT),
    "create-200-latin1.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-message-for-msg.json": Create(Verdict.ACCEPTED, ID),
    "create-200-nan.json": Create(Verdict.ACCEPTED, ID),
    "create-200-no-data.json": Create(Verdict.IN_DOUBT),
    "create-200-null-data.json": Create(Verdict.IN_DOUBT),
    "create-200-numeric-id.json": Create(Verdict.ACCEPTED, "1765172522239"),
    "create-200-record-id-only.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-snake-case-id.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-trailing-text.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-truncated-after-id.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-truncated-in-id.json": Create(Verdict.IN_DOUBT),
    "create-200-twice.json": Create(Verdict.IN_DOUBT, ID),
    "create-200-utf16.json": Create(Verdict.IN_DOUBT),
    "create-200.json": Create(Verdict.ACCEPTED, ID),
    "create-401-no-data.json": Create(Verdict.ACCOUNT),
    "create-401.json": Create(Verdict.ACCOUNT),
    "create-402-credits.json": Create(Verdict.ACCOUNT),
    "create-404-schema.json": Create(Verdict.REJECTED),
    "create-422-model.json": Create(Verdict.REJECTED),
    "create-422-reference-audio.json": Create(Verdict.REJECTED),
    "create-422-url-is-wrong.json": Create(Verdict.REJECTED),
    "create-429-credits.json": Create(Verdict.ACCOUNT),
    "create-429-no-data.json": Create(Verdict.RATE_LIMITED),
    "create-429-null-data.json": Create(Verdict.RATE_LIMITED),
    "create-430-music.json": Create(Verdict.IN_DOUBT),
    "create-433-sub-key.json": Create(Verdict.ACCOUNT),
    "create-455-maintenance.json": Create(Verdict.MAINTENANCE),
    "create-500-aspect-ratio-required.json": Create(Verdict.REJECTED),
    "create-500-credits.json": Create(Verdict.ACCOUNT),
    "create-500-not-in-range.json": Create(Verdict.REJECTED),
    "create-500-paused.json": Create(Verdict.REJECTED),
    "create-500-server-exception.json": Create(Verdict.AMBIGUOUS),
    "create-500-this-field-required.json": Create(Verdict.REJECTED),
    "create-500-value-range.json": Create(Verdict.REJECTED),
    "create-500-with-id.json": Create(Verdict.AMBIGUOUS, ID),
    "create-501-failed.json": Create(Verdict.AMBIGUOUS),
    "create-505-paused.json": Create(Verdict.REJECTED),
    "create-531-refunded.json": Create(Verdict.IN_DOUBT),
    "create-code-0.json": Create(Verdict.IN_DOUBT, ID),
    "create-code-200-0.json": Create(Verdict.IN_DOUBT, ID),
    "create-code-201.json": Create(Verdict.IN_DOUBT, ID),
    "create-code-as-string.json": Create(Verdict.ACCEPTED, ID),
    "create-code-true.json": Create(Verdict.IN_DOUBT, ID),
    "create-empty.txt": Create(Verdict.IN_DOUBT),
    "create-html-1010.html": Create(Verdict.REJECTED, status=403),
    "create-html-502.html": Create(Verdict.IN_DOUBT, status=502),
    "create-html-login-401.html": Create(Verdict.IN_DOUBT, status=401),
    "create-html-with-an-answer.html": Create(Verdict.IN_DOUBT),
    "create-no-code.json": Create(Verdict.IN_DOUBT, ID),
    "create-null.json": Create(Verdict.IN_DOUBT),
    "create-text-429.txt": Create(Verdict.RATE_LIMITED, status=429),
}

RECORDS = {
    "record-200-null-data.json": Record(verdict=PollVerdict.NOT_VISIBLE),
    "record-400-id-required.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-401.json": Record(verdict=PollVerdict.DENIED),
    "record-404-task-not-found.json": Record(verdict=PollVerdict.NOT_VISIBLE),
    "record-408-upstream.json": Record(verdict=PollVerdict.TIMED_OUT),
    "record-422-does-not-exist.json": Record(verdict=PollVerdict.NOT_VISIBLE),
    "record-422-is-null.json": Record(verdict=PollVerdict.NOT_VISIBLE),
    "record-429.json": Record(verdict=PollVerdict.RATE_LIMITED),
    "record-430.json": Record(verdict=PollVerdict.RATE_LIMITED),
    "record-455.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-500.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-501-no-data.json": Record("fail", fail_code="501"),
    "record-531-refunded.json": Record("fail", fail_code="531"),
    "record-cut-after-an-object.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-another-task.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-bom.json": Record("success", urls=1, credits=38.0),
    "record-duplicate-state.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-fail-400-content.json": Record("fail", fail_code="400", credits=0.0),
    "record-fail-422-blank-id.json": Record("fail", fail_code="422", credits=0.0),
    "record-fail-422-media.json": Record("fail", fail_code="422", credits=0.0),
    "record-fail-422-policy.json": Record("fail", fail_code="422", credits=0.0),
    "record-fail-500-copyright.json": Record("fail", fail_code="500", credits=0.0),
    "record-fail-500.json": Record("fail", fail_code="500", credits=0.0),
    "record-fail-no-code.json": Record("fail", credits=0.0),
    "record-fail-numeric-code.json": Record("fail", fail_code="500", credits=0.0),
    "record-fail-progress-100.json": Record("fail", fail_code="500", credits=0.0),
    "record-fail-under-501.json": Record("fail", fail_code="500", credits=0.0),
    "record-generating-price-by-token.json": Record("generating", credits=0.0),
    "record-half-surrogate.json": Record("fail", fail_code="500", credits=0.0),
    "record-html-504.html": Record(verdict=PollVerdict.UNREADABLE, status=504),
    "record-huge-number.json": Record("success", urls=1),
    "record-music-both-echoes-under-escaped.json": Record("success", urls=2, credits=38.0),
    "record-music-param-under-escaped.json": Record("success", urls=2, credits=38.0),
    "record-music.json": Record("success", urls=2, credits=38.0),
    "record-nan-cost.json": Record("success", urls=1, credits=38.0),
    "record-no-id.json": Record("success", urls=1, credits=38.0),
    "record-null-id.json": Record("success", urls=1, credits=38.0),
    "record-numbers-as-strings.json": Record("success", urls=1, credits=38.0),
    "record-param-documented-once-encoded.json": Record("success", urls=1, credits=38.0),
    "record-param-forges-a-failure.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-param-object.json": Record("success", urls=1, credits=38.0),
    "record-queuing-with-progress.json": Record("queuing", credits=38.0),
    "record-result-json-bare-url.json": Record("success", urls=1, credits=38.0),
    "record-result-json-broken-with-response.json": Record("success", urls=1, credits=38.0),
    "record-result-json-broken.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-result-json-empty.json": Record("success", credits=38.0),
    "record-result-json-no-urls.json": Record("success", credits=38.0),
    "record-result-json-object.json": Record("success", urls=1, credits=38.0),
    "record-result-json-six-images.json": Record("success", urls=6, credits=38.0),
    "record-result-json-text-model.json": Record("success", credits=38.0),
    "record-result-json-twice-encoded.json": Record("success", urls=1, credits=38.0),
    "record-result-json-with-frames.json": Record("success", urls=1, credits=38.0),
    "record-result-under-escaped.json": Record("success", urls=1, credits=38.0),
    "record-running-under-escaped.json": Record("waiting", credits=38.0),
    "record-running-with-complete-time.json": Record("generating", credits=38.0),
    "record-success-2025.json": Record("success", urls=1, credits=38.0),
    "record-success-september-2026.json": Record("success", urls=1, credits=38.0),
    "record-success.json": Record("success", urls=1, credits=38.0),
    "record-times-zero.json": Record("success", urls=1, credits=38.0),
    "record-truncated.json": Record(verdict=PollVerdict.UNREADABLE),
    "record-unknown-state.json": Record("postprocessing", credits=38.0),
    "record-waiting-no-result.json": Record("waiting", credits=38.0),
    "record-waiting-null-result.json": Record("waiting", credits=38.0),
    "record-waiting.json": Record("waiting", credits=38.0),
}

#: The tasks that a callback names.
CALLBACKS: dict[str, tuple[str, ...]] = {
    "callback-deep.json": (ID,),
    "callback-empty.txt": (),
    "callback-exponent-id.json": (),
    "callback-fail-501.json": (ID,),
    "callback-fail-null-result.json": (ID,),
    "callback-form.txt": (),
    "callback-id-at-the-top.json": (ID,),
    "callback-nine-ids.json": ("task_0", "task_1", "task_2", "task_3"),
    "callback-no-id.json": (),
    "callback-not-utf8.bin": (ID,),
    "callback-numeric-fraction.json": (),
    "callback-numeric-id.json": ("1765172522239",),
    "callback-param-under-escaped.json": (ID,),
    "callback-prompt-names-a-task.json": (ID,),
    "callback-success-2025.json": (ID,),
    "callback-success.json": (ID,),
    "callback-suno-first.json": (ID,),
    "callback-suno-style.json": (ID,),
    "callback-truncated-in-id.json": (),
    "callback-truncated.json": (),
    "callback-two-ids.json": (ID, "f" * 32),
    "callback-utf16.json": (),
    "callback-veo-style.json": (ID,),
}

#: The URL of an upload.
UPLOADS = {
    "upload-bad-key.json": None,
    "upload-missing-path.json": None,
    "upload-odd-expiry.json": "https://tempfile.redpandaai.co/a.jpg",
    "upload-quickstart.json": "https://tempfile.redpandaai.co/a.jpg",
    "upload-recorded.json": "https://tempfile.redpandaai.co/kieai/1/a.jpg",
    "upload-relative-url.json": None,
}

#: The balance.
CREDITS = {
    "credit-401.json": None,
    "credit-code-0.json": 7.0,
    "credit-float.json": 5916.25,
    "credit-integer.json": 100.0,
    "credit-nan.json": None,
    "credit-negative.json": -3.5,
    "credit-null.json": None,
    "credit-string.json": 5916.25,
}

#: The short-lived URL of a result.
LINKS = {
    "link-422-url-is-wrong.json": None,
    "link-object.json": None,
    "link-plain.json": "https://tempfile.aiquickdraw.com/s/1.mp4?token=a",
}

#: The number of valid rows of a table for the documented model, and the columns with problems.
TABLES: dict[str, tuple[int, set[str]]] = {
    "table-bom-crlf.csv": (1, set()),
    "table-cr-only.csv": (0, {"row"}),
    "table-deep.jsonl": (0, {"row"}),
    "table-empty.csv": (0, {"file"}),
    "table-equal-columns.csv": (1, {"column"}),
    "table-equal-keys.csv": (1, {"key"}),
    "table-equal-keys.jsonl": (1, {"key"}),
    "table-equal-names.jsonl": (0, {"row"}),
    "table-latin1.csv": (0, {"line"}),
    "table-list.jsonl": (0, {"row"}),
    "table-nan.jsonl": (0, {"row"}),
    "table-open-quote.csv": (0, {"row"}),
    "table-plain.csv": (1, set()),
    "table-plain.jsonl": (2, set()),
    "table-semicolons.csv": (1, set()),
    "table-tabs.csv": (1, set()),
    "table-utf16.csv": (0, {"file"}),
}

#: The keys and states in a manifest; None if it is refused.
MANIFESTS: dict[str, dict[str, str] | None] = {
    "manifest-edited-number.jsonl": None,
    "manifest-infinite-number.jsonl": None,
    "manifest-last-line-counts.jsonl": {"a": "done"},
    "manifest-line-separators.jsonl": {"a": "done"},
    "manifest-merge-conflict.jsonl": None,
    "manifest-nan.jsonl": None,
    "manifest-nan-in-input.jsonl": None,
    "manifest-numbers-in-input.jsonl": {"a": "done"},
    "manifest-no-last-break.jsonl": {"a": "done"},
    "manifest-torn.jsonl": {"a": "done"},
    "manifest-two-rows.jsonl": {"a": "done", "b": "in_doubt"},
    "manifest-zeros.jsonl": {"a": "done"},
}
