"""The exit codes of the command line: what each says, and which error leads to which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType

from kie_async import (
    ConfigurationError,
    DownloadError,
    InvalidRequestError,
    JournalError,
    KeyConflictError,
    KieError,
    MaintenanceError,
    ProtocolError,
    RateLimitError,
    ResultExpiredError,
    ServerError,
    SubmitInDoubtError,
    TaskTimeoutError,
    TransportError,
    UploadError,
)

__all__ = ["MEANINGS", "Exit", "as_text", "exit_of", "worst"]


class Exit(IntEnum):
    """How a command has ended, by what may be done next."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    IN_DOUBT = 3
    NOT_YET = 4
    NO_ANSWER = 5
    INTERRUPTED = 130


#: What each code says, in one line; the help and the documentation print this.
MEANINGS: Mapping[Exit, str] = MappingProxyType(
    {
        Exit.DONE: "done",
        Exit.REFUSED: "the service said no, the task has failed, or the budget has no room: repeating it helps nothing",
        Exit.USAGE: "wrong options, bad input, no key or no journal: nothing was sent",
        Exit.IN_DOUBT: "a create may have been paid: look at kie.ai/logs before you repeat",
        Exit.NOT_YET: "the task exists, its result is not here: go on with `kie-async wait TASKID`",
        Exit.NO_ANSWER: "no answer, or not now; nothing was paid: repeat it later",
        Exit.INTERRUPTED: "interrupted; the message says what goes on",
    }
)


def _may_have_been_paid(error: KieError) -> bool:
    """Whether it is the end of creates that were answered by an unclear 500 or 501."""
    return isinstance(error, ServerError) and error.job_id is not None and error.code in (500, 501)


def exit_of(error: KieError) -> Exit:
    """
    The exit code for an error.

    >>> from kie_async import TransportError
    >>> exit_of(TransportError("No answer."))
    <Exit.NO_ANSWER: 5>
    """
    match error:
        case SubmitInDoubtError():
            return Exit.IN_DOUBT
        case _ if _may_have_been_paid(error):
            return Exit.IN_DOUBT
        case ResultExpiredError():
            return Exit.REFUSED
        case TaskTimeoutError() | DownloadError():
            return Exit.NOT_YET
        case ConfigurationError() | KeyConflictError() | JournalError():
            return Exit.USAGE
        case InvalidRequestError() if error.problems:
            return Exit.USAGE
        case TransportError() | UploadError() | ProtocolError() | MaintenanceError() | RateLimitError():
            return Exit.NO_ANSWER
        case ServerError() if error.job_id is None:
            return Exit.NO_ANSWER
        case _:
            return Exit.REFUSED


#: Which code stands for all, where several jobs end differently: the first of these.
_WORST_FIRST = (Exit.INTERRUPTED, Exit.IN_DOUBT, Exit.NOT_YET, Exit.NO_ANSWER, Exit.REFUSED, Exit.USAGE, Exit.DONE)


def worst(codes: Iterable[Exit]) -> Exit:
    """
    The code for a command whose jobs have ended differently: what money hangs on comes first.

    >>> worst([Exit.DONE, Exit.REFUSED, Exit.IN_DOUBT]), worst([])
    (<Exit.IN_DOUBT: 3>, <Exit.DONE: 0>)
    """
    return min(codes, key=_WORST_FIRST.index, default=Exit.DONE)


def as_text() -> str:
    """The codes as paragraphs, for the end of the help."""
    return "\n\n".join(["Exit codes:", *(f"{code:>3}  {meaning}" for code, meaning in MEANINGS.items())])
