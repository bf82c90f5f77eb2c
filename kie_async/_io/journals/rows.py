"""
The rows of intents as both databases store them: the columns, the conditions of the queries, and the conversion.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from kie_async._core.lifecycle import (
    ENDED,
    OPEN,
    UNFINISHED,
    Intent,
    SourceFile,
    dump_record,
    encode_for_journal,
    load_record,
)
from kie_async._io.journals.journal import Changes
from kie_async.states import JobState

__all__ = [
    "COLUMNS",
    "HAS_ENDED",
    "INSERTED",
    "IS_OPEN",
    "IS_UNCHARGED",
    "IS_UNFINISHED",
    "in_states",
    "keep_duplicates",
    "to_columns",
    "to_row",
    "without_secrets",
]

#: The columns, in the order of the fields of a row.
COLUMNS = tuple(field.name for field in attrs.fields(Intent))
#: Those that a new row is inserted with.
INSERTED = tuple(name for name in COLUMNS if name != "number")
#: The members of the service's record that echo the request.
_ECHOES = frozenset({"param", "paramJson"})
#: The columns that hold a list of strings, as JSON.
_LISTS = frozenset({"duplicate_task_ids", "callback_task_ids", "saved"})


def in_states(states: Collection[JobState]) -> str:
    """Return the condition that a row is in one of the states."""
    names = ", ".join(f"'{state}'" for state in sorted(states))
    return f"state IN ({names})"


IS_OPEN, IS_UNFINISHED, HAS_ENDED = in_states(OPEN), in_states(UNFINISHED), in_states(ENDED)
#: Includes every row that may have been paid and whose cost is not known; an index has them.
IS_UNCHARGED = (
    "budget IS NOT NULL AND (credits IS NULL OR state <> 'succeeded') AND (state <> 'failed' OR ambiguous_attempts > 0)"
)


def to_row(values: Collection[object]) -> Intent:
    """Return the row of the values of ``COLUMNS``."""
    fields = dict(zip(COLUMNS, values, strict=True))
    fields["state"] = JobState(str(fields["state"]))
    fields["sources"] = tuple(SourceFile(**source) for source in _load_list(fields["sources"]))
    for name in _LISTS:
        fields[name] = tuple(_load_list(fields[name]))
    return Intent(**fields)  # type: ignore[arg-type]  # the columns are the fields


def _load_list(dumped: object) -> list[Any]:
    return [] if dumped == "[]" else json.loads(str(dumped))  # nearly all are empty


def to_columns(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the values of columns for fields of a row."""
    columns = dict(fields)
    if "sources" in columns:
        columns["sources"] = encode_for_journal([attrs.asdict(source) for source in columns["sources"]])  # type: ignore[attr-defined]  # a tuple of them
    for name in _LISTS & columns.keys():
        columns[name] = encode_for_journal(columns[name])
    if "state" in columns:
        columns["state"] = str(columns["state"])
    return columns


def keep_duplicates(fields: Mapping[str, object], present: Intent | None) -> Mapping[str, object]:
    """Return new values of a row that drop no duplicate task: other processes may have added some since it was read."""
    known = () if present is None else present.duplicate_task_ids
    given: Collection[str] = fields["duplicate_task_ids"]  # type: ignore[assignment]  # its type in Intent
    return {**fields, "duplicate_task_ids": tuple(dict.fromkeys((*known, *given)))}


def without_secrets(changes: Changes) -> Changes:
    """Return changes without prompts and image URLs, also those that the service's record echoes."""
    kept = changes.copy()
    if "input" in kept:
        kept["input"] = ""
    if "sources" in kept:
        kept["sources"] = tuple(attrs.evolve(source, origin=None, url="") for source in kept["sources"])
    if (dumped := kept.get("record")) is not None:
        record = load_record(dumped)
        echoless = {name: value for name, value in record.raw.items() if name not in _ECHOES}
        kept["record"] = dump_record(attrs.evolve(record, raw=echoless))
    return kept
