"""What a command says when it has failed, and the code that it ends with."""

from __future__ import annotations

from kie_async import InvalidRequestError, JournalError, KieError, SubmitInDoubtError, TaskTimeoutError
from kie_async.cli.exit_codes import Exit, exit_of
from kie_async.cli.session import Session

__all__ = ["conclude"]


def conclude(session: Session, error: Exception) -> Exit:
    """
    Tell what has gone wrong, and what may be done next.

    Args:
        session: The command's session; its client is closed.

        error: What the command has ended with.

    Returns:
        The exit code.
    """
    output = session.output
    match error:
        case InvalidRequestError() if error.problems:
            for problem in error.problems:
                output.error(str(problem))
            output.say("Nothing was sent.")
            return Exit.USAGE
        case KieError():
            return _conclude(session, error)
        case OSError():
            where = f": {error.filename}" if error.filename else ""
            output.error(f"{error.strerror or error}{where}")
            code = Exit.USAGE
        case _:
            output.error(f"{type(error).__name__}: {error}. This is a bug of kie-async; --verbose shows where.")
            code = Exit.REFUSED
    if session.trail is not None:
        output.say(session.outlook())
    return _what_is_left(session) or code


def _conclude(session: Session, error: KieError) -> Exit:
    output, code = session.output, exit_of(error)
    if code is Exit.IN_DOUBT and session.trail is not None:
        session.trail.was_doubted(error.job_id, unclear=not isinstance(error, SubmitInDoubtError))
    # The sentences of the first two are for programmers: the outlook says the same for the command line.
    match error:
        case TaskTimeoutError():
            output.error(error.message.partition(". ")[0].removesuffix(".") + ".")
            code = _what_is_left(session) or Exit.NO_ANSWER
        case SubmitInDoubtError():
            output.error(f"No answer has told whether job {error.job_id} was accepted.")
        case JournalError():
            output.error(str(error))
            code = _what_is_left(session) or code
        case _:
            output.error(str(error))
    if code in (Exit.IN_DOUBT, Exit.NOT_YET) or isinstance(error, TaskTimeoutError):
        output.say(session.outlook())
    return code


def _what_is_left(session: Session) -> Exit | None:
    """The code for a job that a command leaves behind, or None if there is none."""
    if session.trail is None:
        return None
    if session.trail.may_be_paid:
        return Exit.IN_DOUBT
    return Exit.NOT_YET if session.trail.lives_on else None
