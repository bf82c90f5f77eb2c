"""
All errors that the package raises; ``KieError`` is their root.

Cancellation is never turned into one of these. Each error carries the job's id and the service's task id if they are
known, and its last sentence is the next step. Errors can be pickled; a handle in them then has no client (see ``Job``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

import attrs

from kie_async._display import shortened

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


_Error = TypeVar("_Error", bound="KieError")


def _rebuild(kind: type[_Error], args: tuple[object, ...], state: dict[str, object]) -> _Error:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class KieError(Exception):
    """
    The root of all errors of this package.

    Attributes:
        job_id: The job's own id (``kj_…``), or None if the error is not about a job.

        task_id: The service's id of the task, or None while it is not known.
    """

    def __init__(self, message: str, *, job_id: str | None = None, task_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.task_id = task_id

    def copy(self) -> Self:
        """
        Return an equal error without a traceback: several waiters of one job must not share one exception.
        """
        return _rebuild(type(self), self.args, self.__dict__)

    def __reduce__(self) -> tuple[object, ...]:
        # By default an exception is rebuilt from its args alone, which fails with keyword-only attributes.
        return _rebuild, (type(self), self.args, dict(self.__dict__))

    @property
    def message(self) -> str:
        """The description of the error and the next step."""
        return str(self.args[0])

    def __str__(self) -> str:
        ids = {"job": self.job_id, "task": self.task_id}
        known = [f"{name} {value}" for name, value in ids.items() if value is not None]
        return f"{self.message} [{', '.join(known)}]" if known else self.message


class ConfigurationError(KieError):
    """An invalid configuration or an invalid call: change the code or the environment."""


class TransportError(KieError):
    """A request without an answer that cannot have cost anything: it may be repeated."""


class SubmitInDoubtError(KieError):
    """
    A create that was sent and whose outcome is unknown: it may have been paid, so it is not sent again.

    Attributes:
        job: The job in doubt. ``await job.resolve(task_id)``, ``await job.resubmit(allow_duplicate=True)`` or
            ``await job.abandon()`` ends the doubt; a callback may end it, too.
    """

    def __init__(self, message: str, *, job: Job, job_id: str | None = None, task_id: str | None = None) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.job = job


class APIError(KieError):
    """
    A request that the service has refused; subclasses name the reason.

    Attributes:
        code: The code in the answer's body, or the HTTP status if the body had none.

        service_message: The service's message, unchanged.
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
    """An API key that the service does not accept: set another key."""


class InsufficientCreditsError(APIError):
    """An account without enough credits: top up."""


class KeyLimitError(APIError):
    """An API key that has reached its own hourly, daily or total cap (code 433): raise the cap or wait."""


@attrs.frozen
class Problem:
    """
    One invalid field of a request.

    Attributes:
        field: The field's name, as the caller writes it.

        value: The given value, shortened.

        allowed: The allowed values, as a phrase that follows "allowed: ".
    """

    field: str
    value: str
    allowed: str

    def __str__(self) -> str:
        # A name or a path of the input may be as long as the input.
        return f"{shortened(self.field)}: got {shortened(self.value)}; allowed: {shortened(self.allowed)}"


class InvalidRequestError(APIError):
    """
    An invalid request: correct it.

    Attributes:
        problems: All invalid fields, if they were found before anything was sent; empty if the service refused the
            request.
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
    """A request that the service refused until its deadline because of too many requests: slow down, then repeat."""


class MaintenanceError(APIError):
    """A maintenance of the service that lasted longer than the caller's timeout: try again later."""


class ServerError(APIError):
    """A failure of the service: try again later."""


class ModelPausedError(APIError):
    """A model that the service has paused: use another model, or wait."""


class ProtocolError(KieError):
    """
    An answer that could not be understood.

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
    A failed generation.

    Attributes:
        fail_code: The service's code, as a string (``"500"``), or None.

        fail_message: The service's message, or None.

        worth_retrying: True if a new task of the same request may succeed.
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
    """A task that has succeeded without a result in its record: ask the service, with the task's id."""


class TaskTimeoutError(KieError, TimeoutError):
    """A wait that has reached its deadline; the task continues: ``client.job(id)`` waits again."""


class TaskNotFoundError(KieError):
    """An id that neither the journal nor the service knows: check it, and the API key."""


class UploadError(KieError):
    """A failed upload of an input file; nothing was paid: repeat."""


class DownloadError(KieError):
    """
    A result that could not be fetched or that is not what it claims; the task stays done.

    Attributes:
        worth_retrying: True if saving again may succeed; False if the result would be refused again.
    """

    worth_retrying: bool = True


class ResultExpiredError(DownloadError):
    """A result that the service no longer holds."""

    worth_retrying: bool = False


class BudgetExceededError(KieError):
    """A create that might exceed a named budget; nothing was sent."""


class KeyConflictError(KieError):
    """
    A key that belongs to another request: use another key, or the same request.

    Attributes:
        differs: The names of the differences: ``"model"`` and fields of the input.
    """

    def __init__(
        self, message: str, *, differs: Sequence[str] = (), job_id: str | None = None, task_id: str | None = None
    ) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.differs: tuple[str, ...] = tuple(differs)


class JournalError(KieError):
    """
    A journal that cannot be read or written; a create that could not be journaled was not sent.

    Attributes:
        retryable: True if the journal's server cannot be reached, so that the same call may succeed later.
    """

    retryable: bool = False


class CallbackRejectedError(KieError):
    """
    A refused callback: its token, signature or age is wrong, or it cannot be read.

    Attributes:
        status: The HTTP status of the answer to it.
    """

    def __init__(
        self, message: str, *, status: int = 400, job_id: str | None = None, task_id: str | None = None
    ) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id)
        self.status = status


class ClientClosedError(KieError):
    """A call on a client that is closed: enter ``async with`` again."""
