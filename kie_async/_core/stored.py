"""A task's record as the journal keeps it: in our own names, and with every value exactly as it is."""

from __future__ import annotations

import json

from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.json import make_converter

from kie_async.errors import JournalError
from kie_async.records import JSON, TaskRecord

__all__ = ["dump_record", "load_record"]


def _as_is(value: JSON, _: object = None) -> JSON:
    return value


_journal = make_converter(detailed_validation=False)
#: Made once: ``json.dumps`` would make an encoder for each record.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_verbatim = override(struct_hook=_as_is, unstruct_hook=_as_is)
_journal.register_structure_hook(
    TaskRecord, make_dict_structure_fn(TaskRecord, _journal, result=_verbatim, raw=_verbatim)
)
_journal.register_unstructure_hook(
    TaskRecord, make_dict_unstructure_fn(TaskRecord, _journal, result=_verbatim, raw=_verbatim)
)


def dump_record(record: TaskRecord) -> str:
    """
    Write a record for the journal.

    Returns:
        JSON in ASCII, which can be stored whatever the service has said; ``load_record`` makes the same record of it.
    """
    return _encode(_journal.unstructure(record))


def load_record(dumped: str) -> TaskRecord:
    """
    Read a record from the journal.

    Raises:
        JournalError: If it was not written by ``dump_record``.
    """
    try:
        return _journal.structure(json.loads(dumped), TaskRecord)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = f"A record in the journal cannot be read: {error!r}. Restore the journal from a copy."
        raise JournalError(msg) from error
