"""
The targets of the fuzzers: functions that take any bytes, and raise ``AssertionError`` if they break a property.

Any other error is a finding, too. The properties: only documented errors are raised; a task that a well-formed answer
names is never lost; nothing is read that does not stand in the bytes; what is written is read back as it was.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from kie_async import ConfigurationError, JournalError, KieError, TaskRecord
from kie_async._core.account_state import AccountState, LeaseReport, SharedLimits
from kie_async._core.callback_token import find_token, make_callback_url
from kie_async._core.callback_validation import MAX_BODY, named_ids, named_tasks, read_signature, shows_request
from kie_async._core.candidates import confirms_answer, read_candidates
from kie_async._core.job_errors import dump_error, failed_task_error, has_result, load_error
from kie_async._core.lifecycle import Intent, SourceFile, dump_record, load_record
from kie_async._core.poll_results import PollResult, PollVerdict, judge_poll
from kie_async._core.verdicts import Reply, Verdict, create_error, decide
from kie_async._core.wire import (
    read_credit,
    read_download_url,
    read_envelope,
    read_record_body,
    read_upload,
    task_id_of,
)
from kie_async._io.journals.journal import WorkerReport, load_worker
from kie_async._io.journals.rows import COLUMNS, to_columns, to_row
from kie_async.cli.batch.folder import MANIFEST
from kie_async.cli.batch.manifest import EntryState, Manifest, ManifestEntry
from kie_async.cli.batch.table import Table
from kie_async.errors import CallbackRejectedError
from kie_async.states import JobState
from tests.fuzz.shapes import ID, corpus

__all__ = ["TARGETS", "Target", "judge", "reply_of"]

_STATUSES = (200, 301, 401, 404, 429, 500, 502)
_TASK_ID = re.compile(r"[A-Za-z0-9_.:-]{1,256}", re.ASCII)
_NOW = 1_800_000_000.0
_SECRET, _JOB = b"secret", "kj_" + "1" * 32
_ROW = Intent(
    id=_JOB,
    model="wan/2-2-a14b-image-to-video-turbo",
    input='{"prompt":"A \\"quoted\\" cat"}',
    fingerprint="f",
    created_at=_NOW,
    updated_at=_NOW,
    state=JobState.IN_DOUBT,
    sending_at=_NOW,
)
#: Verdicts after which a create is sent again, or is given up as unpaid, unless the answer names a task.
_UNPAID = frozenset(Verdict) - {Verdict.UNSENT, Verdict.ACCEPTED, Verdict.IN_DOUBT}


def reply_of(body: bytes, status: int, *, from_service_url: bool = True) -> Reply:
    """Read the answer to a create."""
    envelope = read_envelope(body)
    return Reply(
        sent=True,
        status=status,
        envelope=envelope,
        task_id=None if envelope is None else task_id_of(envelope),
        head=body[:256].decode("utf-8", "replace"),
        from_service_url=from_service_url,
    )


def judge(body: bytes, status: int) -> PollResult:
    """Judge the answer to a poll of ``ID``."""
    envelope, record = read_record_body(body)
    return judge_poll(task_id=ID, status=status, envelope=envelope, record=record)


def _plain_task_id(body: bytes) -> str | None:
    """Return the id in ``data.taskId`` of a well-formed answer, read with the standard library alone."""
    try:
        document = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    data = document.get("data") if isinstance(document, dict) else None
    task_id = data.get("taskId") if isinstance(data, dict) else None
    return task_id if isinstance(task_id, str) and _TASK_ID.fullmatch(task_id) else None


def _stands_in(text: str, body: bytes) -> bool:
    """Return True if a text stands in a body, as far as that can be told without decoding escapes."""
    return b"\\" in body or text.encode("utf-8", "surrogatepass") in body


def create(body: bytes) -> None:
    """Read an answer to a create: a task that it names is accepted, or a candidate, whatever the codes are."""
    named, plain = read_candidates(body), _plain_task_id(body)
    assert len(named) <= 4
    assert all(_TASK_ID.fullmatch(task_id) and _stands_in(task_id, body) for task_id in named)
    written = None if plain is None else re.search(rf'"taskId"\s*:\s*"{re.escape(plain)}"'.encode(), body)
    if written is not None and len(named) < 4:
        assert plain in read_candidates(body[: written.end()]), "a task before the cut is lost"
    read = reply_of(body, 200)
    for status in _STATUSES:
        reply = attrs.evolve(read, status=status)
        verdict = decide(reply)
        if plain is not None:
            assert plain in named or len(named) == 4, "a task that the answer names is lost"
            assert verdict is Verdict.ACCEPTED or reply.code != 200
        assert verdict is not Verdict.ACCEPTED or reply.task_id in named
        assert verdict not in _UNPAID or plain is None or named, "a create that may be paid counts as unpaid"
        if verdict is not Verdict.ACCEPTED:
            error = create_error(reply, job_id=_JOB)
            assert len(error.message) <= 1000
        bare = decide(attrs.evolve(reply, from_service_url=False))
        assert bare is verdict or (reply.is_bare_refusal and bare is Verdict.REJECTED)


def poll(body: bytes) -> None:
    """Read an answer to a poll: its record is that of the task, its figures are numbers, and the journal keeps it."""
    envelope, read = read_record_body(body)
    results = [judge_poll(task_id=ID, status=status, envelope=envelope, record=read) for status in _STATUSES]
    record = results[0].record
    assert all(result.record == record for result in results), "the HTTP status decides what a record says"
    if record is None:
        assert all(result.verdict is not PollVerdict.RECORD and result.reason for result in results)
        return
    assert record.task_id == ID
    assert all(result.verdict is PollVerdict.RECORD for result in results)
    assert _stands_in(record.state, body) or not record.raw
    assert all(re.match(r"(?i)https?://", url) and _stands_in(url, body) for url in record.result_urls)
    figures = (record.credits, record.cost_time, record.progress, record.created_at, record.completed_at)
    assert all(figure is None or math.isfinite(figure) for figure in figures)
    dumped = dump_record(record)
    assert dump_record(load_record(dumped)) == dumped
    cut = judge(body[:-1], 200).record
    # Of several states, the brackets at the end may tell which one is text.
    if cut is not None and record.state and body.count(b'"state"') == 1:
        assert cut.state == record.state, "a body that is cut off tells another end"
        assert has_result(cut) >= has_result(record) or not cut.succeeded, "a body that is cut off has no result"
    assert failed_task_error(record, job_id=_JOB).task_id == ID
    confirms_answer(record, _ROW, _SECRET)


def other_answers(body: bytes) -> None:
    """Read an answer with an upload, a balance or a link."""
    upload = read_upload(body, now=_NOW)
    assert upload is None or (upload[0].lower().startswith("http") and _NOW < upload[1] <= _NOW + 20 * 3600)
    envelope = read_envelope(body)
    if envelope is not None:
        balance, link = read_credit(envelope), read_download_url(envelope)
        assert balance is None or math.isfinite(balance)
        assert link is None or link.lower().startswith("http")


def callback(body: bytes) -> None:
    """Read a callback: it is refused or names tasks, its own first, and no text is taken for a token or a signature."""
    named, plain = list(named_ids(body)), _plain_task_id(body)
    assert len(named) == len(set(named)) <= 4
    assert all(_TASK_ID.fullmatch(task_id) and task_id.encode() in body for task_id in named)
    if plain is not None and re.search(rb'"taskId"\s*:\s*"' + re.escape(plain.encode()) + b'"', body):
        assert plain in named or len(named) == 4, "the task of the callback is lost"
    shows_request(body[:MAX_BODY], _ROW)
    for row in (_ROW, attrs.evolve(_ROW, task_id=ID)):
        try:
            tasks = named_tasks(row, body, None)
        except CallbackRejectedError as error:
            assert (error.status, named, row.task_id) == (400, [], None)  # noqa: PT017
        else:
            assert set(tasks) <= {*named, ID}
            assert row.task_id is None or tasks[0] == ID
    text = body.decode("utf-8", "replace")
    stamp, _, signature = text.partition("\n")
    try:
        signed = read_signature(
            lambda: ["key"], {"x-webhook-timestamp": stamp, "x-webhook-signature": signature}, wall=_NOW
        )
    except CallbackRejectedError as error:
        assert error.status == 401  # noqa: PT017
    else:
        assert abs(int(stamp) - _NOW) <= 300
        assert not signed.covers(ID)
    token = find_token(_SECRET, text)
    assert token is None or token.job_id in text
    url = make_callback_url("https://a.example/kie", _SECRET, _JOB, 1)
    assert find_token(_SECRET, f"{url}/?{text}") is not None


def journal(body: bytes) -> None:
    """Read texts of the journal: all that was written is read back, and other texts raise documented errors only."""
    text = body.decode("utf-8", "replace")
    for stored in (text, f'{{"task_id":"a","state":"fail","raw":{text}}}'):
        try:
            record = load_record(stored)
        except JournalError:
            continue
        assert dump_record(load_record(dump_record(record))) == dump_record(record)
    error = load_error(text, job_id=_JOB, task_id=ID)
    assert isinstance(error, KieError)
    assert (error.job_id, error.task_id, bool(str(error))) == (_JOB, ID, True)
    again = load_error(dump_error(error), job_id=_JOB, task_id=ID)
    assert (type(again), again.message) == (type(error), error.message)
    texts = tuple(text.split("\n")[:3])
    sources = tuple(
        SourceFile(field=name, sha256=text[:9], origin=text or None, url=text, usable_until=_NOW) for name in texts
    )
    row = Intent(
        id=_JOB,
        model=text,
        input=text,
        fingerprint="f",
        created_at=_NOW,
        updated_at=_NOW,
        sources=sources,
        record=dump_record(TaskRecord(task_id=ID, state=text, raw={"param": text})),
        error=dump_error(error),
        **dict.fromkeys(("duplicate_task_ids", "callback_task_ids", "saved"), texts),  # type: ignore[arg-type]  # lists
    )
    columns = to_columns({name: getattr(row, name) for name in COLUMNS})
    assert to_row([columns[name] for name in COLUMNS]) == row
    report = WorkerReport(watched=len(body), jobs=dict.fromkeys(texts, 1), recovers=True)
    worker = load_worker(text, text, 1, _NOW, _NOW, json.dumps(attrs.asdict(report)))
    assert (worker.watched, worker.jobs, worker.limits) == (len(body), report.jobs, report.limits)


def account(body: bytes) -> None:
    """Run a program of exchanges on an account's state, whose text is written and read after each of them."""
    state, now = AccountState(SharedLimits(3, 10.0)), 100.0
    reports: dict[str, list[LeaseReport]] = {"a": [], "b": []}
    held: dict[str, set[int]] = {"a": set(), "b": set()}
    verdicts = [verdict for verdict in Verdict if verdict is not Verdict.UNSENT]
    for first, second in zip(body[:64:2], body[1:64:2], strict=False):
        name, now = "ab"[first % 2], now + second / 16
        view = state.exchange(
            name, now, limits=SharedLimits(3, 10.0), reports=reports[name], held=list(held[name]), wanted=first // 2 % 5
        )
        verdict = verdicts[first // 10 % len(verdicts)]
        reports[name] = [
            LeaseReport(number=lease.number, at=now, verdict=verdict) for lease in view.leases[second % 2 :]
        ]
        held[name] = {lease.number for lease in view.leases[: second % 2]}
        dumped = state.dump()
        state = AccountState.load(dumped)
        assert state.dump() == dumped
        assert state.info("default", now, "").tokens_in_use >= 0


@contextmanager
def _file(name: str, content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def _table(suffix: str) -> Callable[[bytes], None]:
    def read_table(content: bytes) -> None:
        """Check a table: each problem is one printable line, and a table without problems has the rows it counted."""
        with _file(f"t{suffix}", content) as path:
            for model in (None, "any/model"):
                table = Table(path=path, model=model)
                problems = [str(problem) for problem in table.check(with_keys=True)]
                assert all(problem.isprintable() for problem in problems)
                assert table.count or problems
                if not problems:
                    rows = list(table.prepared_rows())
                    keys = {row.key.lower() for row in rows}
                    assert len(rows) == table.count == len(keys)
                    assert all(row.line >= 1 for row in rows)

    return read_table


def _refuse_constant(constant: str) -> None:
    msg = f"{constant} is not JSON"
    raise AssertionError(msg)


def manifest(content: bytes) -> None:
    """Open a manifest: it is refused, or each row is kept, through a compaction, and through a cut at any byte."""
    with _file(MANIFEST, content) as path:
        try:
            opened = Manifest(path.parent)
        except ConfigurationError as error:
            assert str(path) in error.message  # noqa: PT017 (a target, not a test)
            assert path.read_bytes() == content
            return
        with opened:
            entries = {entry.key: entry for entry in opened.entries()}
            opened.compact()
            assert len(opened) == len(entries)
            assert entries == {entry.key: entry for entry in opened.entries()}
        lines = [entry.to_line() for entry in entries.values()]
        for line, entry in zip(lines, entries.values(), strict=True):
            read = ManifestEntry.from_line(line)
            json.loads(line, parse_constant=_refuse_constant)
            assert read == entry or b"\\ud" in content.lower()
            assert line.count(b"\n") == 1
        written = b"".join(lines)
        cut = written[: len(content) * 7 % (len(written) + 1)]
        path.write_bytes(cut)
        with Manifest(path.parent) as torn:
            assert len(torn) >= cut.count(b"\n") - (b"\\ud" in content.lower()) * len(entries)
            torn.record(ManifestEntry(key="after", line=1, state=EntryState.DONE))
            assert torn.entry("after") is not None


@attrs.frozen
class Target:
    """
    A function to fuzz, and the bytes to begin with.

    Attributes:
        run: The function.

        seeds: The bytes.
    """

    run: Callable[[bytes], None]
    seeds: list[bytes]


def _stored_seeds() -> list[bytes]:
    records = [judge(body, 200).record for body in corpus("record")]
    errors = [dump_error(create_error(reply_of(body, 200))) for body in corpus("create")]
    return [*(dump_record(record).encode() for record in records if record), *(error.encode() for error in errors)]


TARGETS: Mapping[str, Target] = {
    "create": Target(create, corpus("create")),
    "poll": Target(poll, corpus("record")),
    "callback": Target(callback, corpus("callback")),
    "other-answers": Target(other_answers, [*corpus("upload"), *corpus("credit"), *corpus("link")]),
    "journal": Target(journal, _stored_seeds()),
    "account": Target(account, [bytes(range(64)), bytes(64), b"\x0a\x10" * 32]),
    "csv": Target(_table(".csv"), [body for body in corpus("table") if not body.startswith((b"{", b"["))]),
    "jsonl": Target(_table(".jsonl"), [body for body in corpus("table") if body.startswith((b"{", b"["))]),
    "manifest": Target(manifest, corpus("manifest")),
}
