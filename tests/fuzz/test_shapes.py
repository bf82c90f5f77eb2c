"""Test each shape of the corpus with the reader that it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kie_async import ConfigurationError
from kie_async._core.callback_validation import named_ids
from kie_async._core.candidates import read_candidates
from kie_async._core.verdicts import Verdict, decide
from kie_async._core.wire import read_credit, read_download_url, read_envelope, read_param, read_upload
from kie_async.cli.batch.folder import MANIFEST
from kie_async.cli.batch.manifest import Manifest
from kie_async.cli.batch.table import Table
from tests.fuzz.shapes import (
    CALLBACKS,
    CORPUS,
    CREATES,
    CREDITS,
    LINKS,
    MANIFESTS,
    RECORDS,
    TABLES,
    UPLOADS,
    URL,
    Create,
    Record,
    read,
)
from tests.fuzz.targets import judge, reply_of

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0


def test_each_shape_has_one_row() -> None:
    rows = [*CREATES, *RECORDS, *CALLBACKS, *UPLOADS, *CREDITS, *LINKS, *TABLES, *MANIFESTS]

    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(rows)


@pytest.mark.parametrize("name", CREATES)
def test_answer_to_a_create_has_its_verdict_and_its_task(name: str) -> None:
    expected, reply = CREATES[name], reply_of(read(name), CREATES[name].status)
    named = next(iter(read_candidates(read(name))), None)

    assert expected == Create(decide(reply), named, expected.status)
    assert decide(reply) is not Verdict.ACCEPTED or reply.task_id == named


@pytest.mark.parametrize("name", RECORDS)
def test_answer_to_a_poll_has_its_verdict_and_its_record(name: str) -> None:
    expected, shown = RECORDS[name], judge(read(name), RECORDS[name].status)
    found = shown.record

    if found is None:
        assert expected == Record(verdict=shown.verdict, status=expected.status)
    else:
        fields = (str(found.state), len(found.result_urls), found.fail_code, found.credits)
        assert expected == Record(*fields, shown.verdict, expected.status)
        assert all(url.startswith(URL) for url in found.result_urls)
        assert not found.raw or (param := read_param(found)) is None or "prompt" in (param.input or {})


@pytest.mark.parametrize("name", CALLBACKS)
def test_callback_names_its_tasks(name: str) -> None:
    assert CALLBACKS[name] == tuple(named_ids(read(name)))


@pytest.mark.parametrize("name", UPLOADS)
def test_upload_has_its_url(name: str) -> None:
    found = read_upload(read(name), now=NOW)

    assert (None if UPLOADS[name] is None else (UPLOADS[name], NOW + 20 * 3600)) == found


@pytest.mark.parametrize("name", [*CREDITS, *LINKS])
def test_balance_and_link_are_read(name: str) -> None:
    envelope = read_envelope(read(name))

    assert envelope is not None
    assert (read_credit if name in CREDITS else read_download_url)(envelope) == {**CREDITS, **LINKS}[name]


@pytest.mark.parametrize("name", TABLES)
def test_table_has_its_rows_and_problems(name: str) -> None:
    table = Table(path=CORPUS / name)
    problems = {problem.problem.field for problem in table.check()}

    assert TABLES[name] == (table.count, problems)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_has_its_rows_or_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(read(name))
    expected = MANIFESTS[name]
    if expected is None:
        with pytest.raises(ConfigurationError, match="is invalid"):
            Manifest(tmp_path)
    else:
        with Manifest(tmp_path) as manifest:
            assert expected == {entry.key: entry.state for entry in manifest.entries()}
