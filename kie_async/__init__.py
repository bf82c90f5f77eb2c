"""
An asyncio-first SDK for the Kie.ai generation API.

A paid task is never forgotten and never paid twice behind your back, and the account's limit is used to the last
percent and never exceeded. Everything here is loaded on first use: importing the package loads no aiohttp, cattrs or
tenacity.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kie_async._version import __version__

if TYPE_CHECKING:
    from kie_async.budget import Budget as Budget
    from kie_async.budget import BudgetInfo as BudgetInfo
    from kie_async.budget import Estimate as Estimate
    from kie_async.callbacks import Callbacks as Callbacks
    from kie_async.catalogue.prices import ListPrice as ListPrice
    from kie_async.client import KieClient as KieClient
    from kie_async.errors import APIError as APIError
    from kie_async.errors import AuthenticationError as AuthenticationError
    from kie_async.errors import BudgetExceededError as BudgetExceededError
    from kie_async.errors import CallbackRejectedError as CallbackRejectedError
    from kie_async.errors import ClientClosedError as ClientClosedError
    from kie_async.errors import ConfigurationError as ConfigurationError
    from kie_async.errors import DownloadError as DownloadError
    from kie_async.errors import InsufficientCreditsError as InsufficientCreditsError
    from kie_async.errors import InvalidRequestError as InvalidRequestError
    from kie_async.errors import JournalError as JournalError
    from kie_async.errors import KeyConflictError as KeyConflictError
    from kie_async.errors import KeyLimitError as KeyLimitError
    from kie_async.errors import KieError as KieError
    from kie_async.errors import MaintenanceError as MaintenanceError
    from kie_async.errors import ModelPausedError as ModelPausedError
    from kie_async.errors import NoResultError as NoResultError
    from kie_async.errors import Problem as Problem
    from kie_async.errors import ProtocolError as ProtocolError
    from kie_async.errors import RateLimitError as RateLimitError
    from kie_async.errors import ResultExpiredError as ResultExpiredError
    from kie_async.errors import ServerError as ServerError
    from kie_async.errors import SubmitInDoubtError as SubmitInDoubtError
    from kie_async.errors import TaskFailedError as TaskFailedError
    from kie_async.errors import TaskNotFoundError as TaskNotFoundError
    from kie_async.errors import TaskTimeoutError as TaskTimeoutError
    from kie_async.errors import TransportError as TransportError
    from kie_async.errors import UploadError as UploadError
    from kie_async.events import Event as Event
    from kie_async.events import EventName as EventName
    from kie_async.job import Job as Job
    from kie_async.outcomes import Done as Done
    from kie_async.outcomes import Failed as Failed
    from kie_async.outcomes import InDoubt as InDoubt
    from kie_async.outcomes import Outcome as Outcome
    from kie_async.outcomes import RunSummary as RunSummary
    from kie_async.outcomes import Skipped as Skipped
    from kie_async.policy import Limits as Limits
    from kie_async.policy import PostgresJournal as PostgresJournal
    from kie_async.policy import RetryPolicy as RetryPolicy
    from kie_async.policy import SqliteJournal as SqliteJournal
    from kie_async.records import JSON as JSON
    from kie_async.records import Generation as Generation
    from kie_async.records import TaskRecord as TaskRecord
    from kie_async.records import TaskState as TaskState
    from kie_async.requests import MarketRequest as MarketRequest
    from kie_async.requests import Request as Request
    from kie_async.requests import Wan22TurboImageToVideo as Wan22TurboImageToVideo
    from kie_async.run import Run as Run
    from kie_async.states import JobInfo as JobInfo
    from kie_async.states import JobState as JobState
    from kie_async.statistics import AccountInfo as AccountInfo
    from kie_async.statistics import Statistics as Statistics
    from kie_async.statistics import WorkerInfo as WorkerInfo

__all__ = [
    "JSON",
    "APIError",
    "AccountInfo",
    "AuthenticationError",
    "Budget",
    "BudgetExceededError",
    "BudgetInfo",
    "CallbackRejectedError",
    "Callbacks",
    "ClientClosedError",
    "ConfigurationError",
    "Done",
    "DownloadError",
    "Estimate",
    "Event",
    "EventName",
    "Failed",
    "Generation",
    "InDoubt",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "Job",
    "JobInfo",
    "JobState",
    "JournalError",
    "KeyConflictError",
    "KeyLimitError",
    "KieClient",
    "KieError",
    "Limits",
    "ListPrice",
    "MaintenanceError",
    "MarketRequest",
    "ModelPausedError",
    "NoResultError",
    "Outcome",
    "PostgresJournal",
    "Problem",
    "ProtocolError",
    "RateLimitError",
    "Request",
    "ResultExpiredError",
    "RetryPolicy",
    "Run",
    "RunSummary",
    "ServerError",
    "Skipped",
    "SqliteJournal",
    "Statistics",
    "SubmitInDoubtError",
    "TaskFailedError",
    "TaskNotFoundError",
    "TaskRecord",
    "TaskState",
    "TaskTimeoutError",
    "TransportError",
    "UploadError",
    "Wan22TurboImageToVideo",
    "WorkerInfo",
    "__version__",
]

#: The public names of each module.
_NAMES = {
    "budget": "Budget BudgetInfo Estimate",
    "callbacks": "Callbacks",
    "catalogue.prices": "ListPrice",
    "client": "KieClient",
    "errors": """
        APIError AuthenticationError BudgetExceededError CallbackRejectedError ClientClosedError
        ConfigurationError DownloadError InsufficientCreditsError InvalidRequestError JournalError
        KeyConflictError KeyLimitError KieError MaintenanceError ModelPausedError NoResultError Problem
        ProtocolError RateLimitError ResultExpiredError ServerError SubmitInDoubtError TaskFailedError
        TaskNotFoundError TaskTimeoutError TransportError UploadError
    """,
    "events": "Event EventName",
    "job": "Job",
    "outcomes": "Done Failed InDoubt Outcome RunSummary Skipped",
    "policy": "Limits PostgresJournal RetryPolicy SqliteJournal",
    "records": "Generation JSON TaskRecord TaskState",
    "requests": "MarketRequest Request Wan22TurboImageToVideo",
    "run": "Run",
    "states": "JobInfo JobState",
    "statistics": "AccountInfo Statistics WorkerInfo",
}
_MODULES = {name: f"kie_async.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
