"""What became of one row, and how a line of the manifest says it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum

import attrs
from attrs.validators import in_, instance_of, optional

from kie_async import JSON

__all__ = ["Entry", "State", "entry_of", "line_of"]

#: What JSON may hold as it is and a terminal or a reader of lines may not: it is written as an escape.
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class State(StrEnum):
    """What may have become of a row."""

    DONE = "done"  #: It has its files.
    FAILED = "failed"  #: It has none, and none will come by itself.
    RUNNING = "running"  #: The service is at work on it, and this program is not: it was stopped.
    IN_DOUBT = "in_doubt"  #: It was sent, and nobody can tell whether it was accepted.
    SKIPPED = "skipped"  #: Nothing was sent: the budget or the time was used up.


_A_TEXT, _A_NUMBER = instance_of(str), instance_of((int, float))


@attrs.frozen(kw_only=True)
class Entry:
    """
    What became of one row. It may come from a file that somebody has edited, so its values are looked at.

    Attributes:
        key: Its name.

        line: Where it stands in the table.

        state: What became of it; see ``State``.

        model: The model's name.

        input_hash: The SHA-256 of model and input, images by content.

        task_id: The service's id, or None.

        job_id: The job's id in the journal, or None.

        credits: What it has cost, or None where nobody said.

        seconds: How long the service took, or None.

        file: The result, by its path from the manifest's folder; None while there is none.

        sha256: The file's hash.

        size: How large it is, in bytes.

        more: Further results, by path: their hashes.

        created_at: When the service created the task, in seconds since the epoch, or None.

        input: What the service was told besides images.

        source: The image as the table has it: a path or a URL.

        image: The image beside the page, by its path from the manifest's folder; None for one at a URL.

        reason: Why there is no result.

        command: What to do about it, as a line for the shell.
    """

    key: str = attrs.field(validator=_A_TEXT)
    line: int = attrs.field(validator=instance_of(int))
    state: str = attrs.field(validator=in_(tuple(State)))
    model: str = attrs.field(default="", validator=_A_TEXT)
    input_hash: str = attrs.field(default="", validator=_A_TEXT)
    task_id: str | None = attrs.field(default=None, validator=optional(_A_TEXT))
    job_id: str | None = attrs.field(default=None, validator=optional(_A_TEXT))
    credits: float | None = attrs.field(default=None, validator=optional(_A_NUMBER))
    seconds: float | None = attrs.field(default=None, validator=optional(_A_NUMBER))
    file: str | None = attrs.field(default=None, validator=optional(_A_TEXT))
    sha256: str | None = attrs.field(default=None, validator=optional(_A_TEXT))
    size: int | None = attrs.field(default=None, validator=optional(instance_of(int)))
    more: Mapping[str, str] = attrs.field(factory=dict, validator=instance_of(dict))
    created_at: float | None = attrs.field(default=None, validator=optional(_A_NUMBER))
    input: Mapping[str, JSON] = attrs.field(factory=dict, validator=instance_of(dict))
    source: str | None = attrs.field(default=None, validator=optional(_A_TEXT))
    image: str | None = attrs.field(default=None, validator=optional(_A_TEXT))
    reason: str | None = attrs.field(default=None, validator=optional(_A_TEXT))
    command: str | None = attrs.field(default=None, validator=optional(_A_TEXT))


_FIELDS = frozenset(field.name for field in attrs.fields(Entry))


def line_of(entry: Entry) -> bytes:
    """A line of the manifest, with its end."""
    text = json.dumps(attrs.asdict(entry), ensure_ascii=False)
    return f"{_UNSEEN.sub(_escaped, text)}\n".encode(errors="replace")


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def entry_of(line: bytes) -> Entry | None:
    """What a line says; None where it was not written by this program, or edited so that it says nothing."""
    try:
        found = json.loads(line)
        return Entry(**{name: value for name, value in found.items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
