"""The exit codes of the command line, their meanings, and the code of each error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

from kie_async import KieError, errors

__all__ = ["EXIT_CODE_MEANINGS", "ExitCode", "exit_code_help", "exit_code_of", "worst_exit_code"]


class ExitCode(IntEnum):
    """A command's exit code: it says what may be done next."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    IN_DOUBT = 3
    UNFINISHED = 4
    RETRY_LATER = 5
    INTERRUPTED = 130


#: The meaning of each code in one line, for the help and the documentation.
EXIT_CODE_MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "refused by the service, failed, or over budget: repeating the command does not help",
    ExitCode.USAGE: "invalid options or input, no key, or no journal: nothing was sent",
    ExitCode.IN_DOUBT: "a create request may have been paid: check kie.ai/logs before you repeat the command",
    ExitCode.UNFINISHED: "the task exists, but its result is not here: resume with `kie-async wait TASKID`",
    ExitCode.RETRY_LATER: "no response, or temporarily unavailable; nothing was paid: repeat the command later",
    ExitCode.INTERRUPTED: "interrupted; the last message says how to resume",
}


def exit_code_of(error: KieError) -> ExitCode:
    """
    Return the exit code of an error.

    >>> from kie_async import TransportError
    >>> exit_code_of(TransportError("No response."))
    <ExitCode.RETRY_LATER: 5>
    """
    match error:
        case errors.SubmitInDoubtError():
            return ExitCode.IN_DOUBT
        case errors.ServerError(code=500 | 501) if error.job_id is not None:
            return ExitCode.IN_DOUBT  # create requests that ended with an ambiguous error
        case errors.DownloadError(worth_retrying=False):
            return ExitCode.FAILED
        case errors.TaskTimeoutError() | errors.DownloadError():
            return ExitCode.UNFINISHED
        case errors.AuthenticationError() if error.task_id is not None:
            return ExitCode.UNFINISHED  # the key was refused to a poll, and the task continues
        case errors.ConfigurationError() | errors.KeyConflictError() | errors.JournalError():
            return ExitCode.USAGE
        case errors.InvalidRequestError() if error.problems:
            return ExitCode.USAGE
        case (
            errors.TransportError()
            | errors.UploadError()
            | errors.ProtocolError()
            | errors.MaintenanceError()
            | errors.RateLimitError()
        ):
            return ExitCode.RETRY_LATER
        case errors.ServerError() if error.job_id is None:
            return ExitCode.RETRY_LATER
        case _:
            return ExitCode.FAILED


#: The order in which codes stand for a command whose jobs end differently.
_WORST_FIRST = (130, 3, 4, 5, 1, 2, 0)


def worst_exit_code(codes: Iterable[ExitCode]) -> ExitCode:
    """
    Return the code of a command whose jobs have ended differently: the one that concerns money comes first.

    >>> worst_exit_code([ExitCode.DONE, ExitCode.FAILED, ExitCode.IN_DOUBT]), worst_exit_code([])
    (<ExitCode.IN_DOUBT: 3>, <ExitCode.DONE: 0>)
    """
    return min(codes, key=_WORST_FIRST.index, default=ExitCode.DONE)


def exit_code_help() -> str:
    """Return the codes as paragraphs for the end of the help."""
    return "\n\n".join(["Exit codes:", *(f"{code:>3}  {meaning}" for code, meaning in EXIT_CODE_MEANINGS.items())])
