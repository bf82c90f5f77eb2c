"""The fields of an outcome that describe its job."""

from __future__ import annotations

import pytest

from kie_async import TaskRecord
from kie_async._core.lifecycle import Intent
from kie_async._io.mapping.rows import job_fields
from kie_async.states import JobState


def test_service_times_precede_journal_times() -> None:
    row = Intent(
        id="kj_1", model="m", input="{}", fingerprint="f", created_at=1.0, updated_at=9.0, state=JobState.SUCCEEDED,
        task_id="t", accepted_at=3.0, sending_at=2.0, credits=80.0,
    )  # fmt: skip
    record = TaskRecord(task_id="t", state="success", created_at=2.5, completed_at=8.0)

    assert {} == job_fields(None, None)
    fields = job_fields(row, record)
    assert (2.5, 8.0, 5.5, "succeeded", 80.0) == (
        fields["created_at"], fields["ended_at"], fields["seconds"], fields["state"], fields["credits"]
    )  # fmt: skip
    fallback = job_fields(row, TaskRecord(task_id="t", state="success"))
    assert (3.0, 9.0, None) == (fallback["created_at"], fallback["ended_at"], fallback["seconds"])


@pytest.mark.parametrize(
    ("state", "created_at", "ended_at"),
    [(JobState.UNRESOLVED, 2.0, None), (JobState.REJECTED, 2.0, 9.0), (JobState.CANCELLED, 2.0, None)],
)
def test_fields_of_a_job_without_a_task(state: JobState, created_at: float, ended_at: float | None) -> None:
    row = Intent(
        id="kj_1", model="m", input="{}", fingerprint="f", created_at=1.0, updated_at=9.0, state=state, sending_at=2.0
    )
    fields = job_fields(row, None)
    assert (created_at, ended_at) == (fields["created_at"], fields["ended_at"])
