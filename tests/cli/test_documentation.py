"""``docs/cli.md`` matches the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from kie_async import Generation, JobInfo, TaskRecord
from kie_async.cli.batch.manifest import ManifestEntry
from kie_async.cli.exit_codes import EXIT_CODE_MEANINGS
from kie_async.cli.jobs import info_fields
from kie_async.cli.listen import CallbackLogEntry
from kie_async.cli.models import model_fields
from kie_async.cli.tasks import record_fields, unsent_fields
from kie_async.cli.wait_and_save import result_fields
from kie_async.records import SavedFile
from kie_async.states import JobState

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
RECORD = TaskRecord(task_id="t1", state="success")
INFO = JobInfo(job_id="kj_1", state=JobState.INTENT, model="a/b", created_at=0.0, updated_at=0.0)


async def save_nothing(_generation: Generation, _path: Path) -> list[SavedFile]:
    """Save nothing."""
    return []


def documented_fields(command: str) -> list[str]:
    """Return the fields that the page lists for a command."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{command}`"))
    fields = re.sub(r"\([^)]*\)", "", row.split("|")[2])
    return re.findall(r"`(\w+)`", fields)


def test_documented_exit_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)

    assert [(str(int(code)), meaning) for code, meaning in EXIT_CODE_MEANINGS.items()] == rows


def test_documented_job_states() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| [^`|]+ \|$", PAGE.partition("| state | meaning |")[2], re.MULTILINE)

    assert [str(state) for state in JobState] == rows


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("models", list(model_fields("kling/v2-1-pro"))),
        ("generate", list(result_fields(Generation(record=RECORD, saver=save_nothing), []))),
        ("status", list(record_fields(RECORD, job_id=None, now=0.0))),
        ("status", list(unsent_fields(INFO, now=0.0))),
        ("ls", list(info_fields(INFO, now=0.0))),
        ("batch", [field.name for field in attrs.fields(ManifestEntry)]),
        ("listen", list(attrs.asdict(CallbackLogEntry(event="callback")))),
    ],
)
def test_documented_json_fields(command: str, fields: Sequence[str]) -> None:
    assert fields == documented_fields(command)
