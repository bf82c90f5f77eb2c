"""The exit codes."""

from __future__ import annotations

import pytest

from kie_async import (
    AuthenticationError,
    ConfigurationError,
    DownloadError,
    InsufficientCreditsError,
    InvalidRequestError,
    KeyLimitError,
    KieClient,
    KieError,
    MaintenanceError,
    ModelPausedError,
    NoResultError,
    Problem,
    ProtocolError,
    RateLimitError,
    ResultExpiredError,
    ServerError,
    SubmitInDoubtError,
    TaskFailedError,
    TaskNotFoundError,
    TaskTimeoutError,
    TransportError,
    UploadError,
)
from kie_async.cli.exit_codes import EXIT_CODE_MEANINGS, ExitCode, exit_code_help, exit_code_of

JOB = KieClient("unused-key").job("kj_1")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, AuthenticationError("no", code=401)),
        (1, InsufficientCreditsError("no", code=402)),
        (1, KeyLimitError("no", code=433)),
        (1, ModelPausedError("no", code=505)),
        (1, InvalidRequestError("the service said so", code=422)),
        (1, TaskFailedError("failed", task_id="1")),
        (1, TaskNotFoundError("who?", task_id="1")),
        (1, NoResultError("empty", task_id="1")),
        (1, ResultExpiredError("gone", task_id="1")),
        (1, ServerError("refused", code=550, job_id="kj_1")),
        (2, ConfigurationError("no key")),
        (2, InvalidRequestError("bad", problems=[Problem("seed", "-1", "0 or more")])),
        (3, SubmitInDoubtError("sent", job=JOB, job_id="kj_1")),
        (3, ServerError("500 three times", code=500, job_id="kj_1")),
        (3, ServerError("501 three times", code=501, job_id="kj_1")),
        (4, TaskTimeoutError("late", task_id="1")),
        (4, AuthenticationError("polls are refused", code=401, task_id="1")),
        (4, DownloadError("broken off", task_id="1")),
        (5, TransportError("no answer")),
        (5, UploadError("no answer")),
        (5, ProtocolError("what?")),
        (5, MaintenanceError("later", code=455)),
        (5, RateLimitError("slow down", code=429)),
        (5, ServerError("a question was answered by 500", code=500)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KieError) else None,
)
def test_exit_code_of_each_error(code: int, error: KieError) -> None:
    """A script must not repeat a command after 3, and may repeat it after 5."""
    assert code == exit_code_of(error)


def test_help_explains_every_exit_code() -> None:
    assert set(EXIT_CODE_MEANINGS) == set(ExitCode)
    assert [f"{code:>3}  {meaning}" for code, meaning in EXIT_CODE_MEANINGS.items()] == exit_code_help().split("\n\n")[
        1:
    ]
