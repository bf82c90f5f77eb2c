"""
Every error that the package raises, by whose move is next.

``KieError`` is the one root. Cancellation is never turned into one of these. Each error carries the job's id and the
service's task id as far as they are known, and its last sentence says what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kie_async.job import Job

__all__ = [
    "APIError",
    "AuthenticationError",
    "BudgetExceededError",
    "CallbackRejectedError",
    "ClientClosedError",
    "ConfigurationError",
    "DownloadError",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "JournalError",
    "KeyConflictError",
    "KeyLimitError",
    "KieError",
    "MaintenanceError",
    "ModelPausedError",
    "NoResultError",
    "Problem",
    "ProtocolError",
    "RateLimitError",
    "ResultExpiredError",
    "ServerError",
    "SubmitInDoubtError",
    "TaskFailedError",
    "TaskNotFoundError",
    "TaskTimeoutError",
    "TransportError",
    "UploadError",
]


def _rebuild(kind: type[KieError], args: tuple[object, ...], state: dict[str, object]) -> KieError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class KieError(Exception):
    """
    The root of all errors of this package.

    Attributes:
        job_id: The job's own id (``kj_…``), or None where no job is concerned.

        task_id: The service's id of the task, or None while it is not known.
    """

    def __init__(self, message: str, *, job_id: str | None = None, task_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.task_id = task_id

    def again(self) -> Self:
        """
        The same error once more, without a traceback: several waiters of one job must not share one exception.
        """
        other = type(self).__new__(type(self), *self.args)
        other.args = self.args
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is rebuilt from its args alone by default; keyword-only attributes would make that fail.
        return _rebuild, (type(self), self.args, dict(self.__dict__))

    @property
    def message(self) -> str:
        """What went wrong and what to do next, as one text."""
        return str(self.args[0])

    def __str__(self) -> str:
        known = [
            f"{name} {value}" for name, value in (("job", self.job_id), ("task", self.task_id)) if value is not None
        ]
        return f"{self.message} [{', '.join(known)}]" if known else self.message


class ConfigurationError(KieError):
    """Raised when the client is set up or used in a way that cannot work: change the code or the environment."""


class TransportError(KieError):
    """Raised when no answer came and nothing can have been paid: the request may be made again."""


class SubmitInDoubtError(KieError):
    """
    Raised when a create was sent and its outcome is not known: it may have been paid, so it is not sent again.

    Attributes:
        job: The job in doubt: ``await job.resolve(task_id)``, ``await job.resubmit(allow_duplicate=True)`` or
            ``await job.abandon()`` settle it; a callback may settle it by itself.
    """

    def __init__(self, message: str, *, job: Job, job_id: str | None = None, task_id: str | None = None) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.job = job


class APIError(KieError):
    """
    Raised when the service has refused a request; its subclasses say why.

    Attributes:
        code: The code in the answer's body, or the HTTP status where the body had none.

        service_message: The service's own words, as they came.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        service_message: str = "",
        job_id: str | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.code = code
        self.service_message = service_message


class AuthenticationError(APIError):
    """Raised when the service does not accept the API key: set another one."""


class InsufficientCreditsError(APIError):
    """Raised when the account has not enough credits: top up."""


class KeyLimitError(APIError):
    """Raised when the API key has reached its own hourly, daily or total cap (code 433): raise it or wait."""


@attrs.frozen
class Problem:
    """
    One thing that is wrong with a request.

    Attributes:
        field: The field's name, as the caller writes it.

        value: What was given, shortened.

        allowed: What may be given instead, as a phrase that follows "allowed: ".
    """

    field: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.field}: got {self.value}; allowed: {self.allowed}"


class InvalidRequestError(APIError):
    """
    Raised when a request cannot be fulfilled as it stands: correct it.

    Attributes:
        problems: Everything that is wrong, where it was found before anything was sent; empty where the service said
            no.
    """

    def __init__(
        self,
        message: str,
        *,
        problems: Sequence[Problem] = (),
        code: int | None = None,
        service_message: str = "",
        job_id: str | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message, code=code, service_message=service_message, job_id=job_id, task_id=task_id)
        self.problems: tuple[Problem, ...] = tuple(problems)


class RateLimitError(APIError):
    """Raised when the service kept refusing a request because too many were made: slow down, then repeat."""


class MaintenanceError(APIError):
    """Raised when the service was under maintenance for longer than the caller would wait: try again later."""


class ServerError(APIError):
    """Raised when the service has failed: try again later."""


class ModelPausedError(APIError):
    """Raised when the service has switched the model off for now: use another one or wait."""


class ProtocolError(KieError):
    """
    Raised when an answer could not be understood.

    Attributes:
        head: The first bytes of the answer, at most 256.
    """

    def __init__(
        self, message: str, *, head: bytes = b"", job_id: str | None = None, task_id: str | None = None
    ) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.head: bytes = head[:256]


class TaskFailedError(KieError):
    """
    Raised when the generation has failed.

    Attributes:
        fail_code: The service's code, as text (``"500"``), or None.

        fail_message: The service's own words, or None.

        worth_retrying: Whether the same request may succeed when it is made again.
    """

    def __init__(
        self,
        message: str,
        *,
        fail_code: str | None = None,
        fail_message: str | None = None,
        worth_retrying: bool = False,
        job_id: str | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.fail_code = fail_code
        self.fail_message = fail_message
        self.worth_retrying = worth_retrying


class NoResultError(KieError):
    """Raised when a task has succeeded and its record holds no result: ask the service, with the task's id."""


class TaskTimeoutError(KieError, TimeoutError):
    """Raised when a wait has reached its deadline; the task itself lives on: ``client.job(id)`` waits again."""


class TaskNotFoundError(KieError):
    """Raised when neither the journal nor the service knows the id: check it, and the API key."""


class UploadError(KieError):
    """Raised when an input file could not be uploaded; nothing was paid: repeat."""


class DownloadError(KieError):
    """Raised when a result could not be fetched or is not what it claims; the task stays done: save again."""


class ResultExpiredError(DownloadError):
    """Raised when a result is no longer held by the service."""


class BudgetExceededError(KieError):
    """Raised when a create would cost more than the budget has left; nothing was sent."""


class KeyConflictError(KieError):
    """
    Raised when a key is used again with another request: use another key, or the same request.

    Attributes:
        differs: The names of what differs: ``"model"`` and fields of the input.
    """

    def __init__(
        self,
        message: str,
        *,
        differs: Sequence[str] = (),
        job_id: str | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.differs: tuple[str, ...] = tuple(differs)


class JournalError(KieError):
    """Raised when the journal cannot be read or written; what could not be journaled was not sent."""


class CallbackRejectedError(KieError):
    """
    Raised when a callback is not taken: its token, signature or age is wrong, or it cannot be read.

    Attributes:
        status: The HTTP status that it is answered with.
    """

    def __init__(
        self, message: str, *, status: int = 400, job_id: str | None = None, task_id: str | None = None
    ) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.status = status


class ClientClosedError(KieError):
    """Raised when a client is used after it was closed: enter ``async with`` again."""
