"""Test the records in the journal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from kie_async import JournalError, TaskRecord
from kie_async._core.lifecycle import dump_record, load_record
from tests.strategies import records


@given(records)
def test_records_survive_the_journal(record: TaskRecord) -> None:
    dumped = dump_record(record)
    loaded = load_record(dumped)

    assert dumped.isascii()
    assert loaded == record
    assert loaded.raw == record.raw
    assert dump_record(loaded) == dumped


def test_unknown_and_missing_members_are_tolerated() -> None:
    assert load_record('{"task_id":"a","state":"fail","later":1}') == TaskRecord(task_id="a", state="fail")


@pytest.mark.parametrize(
    "dumped",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"task_id":"a"}',
        '{"task_id":"a","state":"fail","credits":"many"}',
        '{"task_id":"a","state":"fail","result_urls":null}',
        json.dumps("a"),
        "[" * 100_000,
    ],
)
def test_other_texts_raise_journal_error(dumped: str) -> None:
    with pytest.raises(JournalError, match="cannot be read"):
        load_record(dumped)
