"""Configuration values of a client: ``Limits``, ``RetryPolicy`` and ``SqliteJournal``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import attrs

from kie_async._numbers import integer_field, number_field, refuse

__all__ = ["Limits", "RetryPolicy", "SqliteJournal"]


#: SQLite's name for a database in memory, URIs of SQLite, and URLs of other libraries: no names of files.
_NO_FILE = re.compile(r"\s*(:memory:|file:|[a-z][a-z0-9+.-]+:/|$)", re.IGNORECASE)


def _check_on_server_error(_instance: object, _attribute: object, value: object) -> None:
    if value not in ("retry", "in_doubt"):
        refuse("RetryPolicy", "on_server_error", value, "'retry' or 'in_doubt'")


def _absolute_path(path: object) -> Path:
    """Resolve *path* now: a relative path would be another file after a change of the working directory."""
    if not isinstance(path, (str, os.PathLike)):
        refuse("SqliteJournal", "path", path, "a string or a path")
    name = os.fsdecode(path)
    if (other := _NO_FILE.match(name)) is not None:
        expected = (
            "the path of a file; for a journal in memory, pass journal=None to KieClient, or --no-journal to a command"
        )
        refuse("SqliteJournal", "path", other[0], f"{expected}; an absolute path may have any name")
    return Path(name).absolute()


def _check_store_inputs(_instance: object, _attribute: object, value: object) -> None:
    if value not in ("full", "hash"):
        refuse("SqliteJournal", "store_inputs", value, "'full' or 'hash'")


@attrs.frozen(kw_only=True)
class Limits:
    """
    The rates that a client may use. Each process has its own limits: give every worker its share of the account.

    Args:
        creates: The number of tasks that may be created in any *window*. The service documents 20 in 10 s for an
            account, and refuses the rest. If the account takes fewer, that is learned from refused creates.

        window: The length of that window, in seconds.

        in_flight: The number of tasks that may run at the service at once. The service documents no cap ("100+").

        polls_per_second: The rate of polls, of all tasks together. The newest page of the service allows 10 per second
            for each task, an older one for a key; the default is right for both, and leaves half to other programs.

    Raises:
        ConfigurationError: If a value is not allowed.
    """

    creates: int = attrs.field(default=20, validator=integer_field(at_least=1))
    window: float = attrs.field(default=10.0, validator=number_field(above=0.0))
    in_flight: int = attrs.field(default=500, validator=integer_field(at_least=1))
    polls_per_second: float = attrs.field(default=5.0, validator=number_field(above=0.0))


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """
    The number and the duration of a client's retries. All times are in seconds; attempts are totals.

    Args:
        server_error_attempts: The number of times a create is sent in all when the service answers with an ambiguous
            500. Each retry may pay twice: it is logged, and a duplicate is detected if a callback URL is set.

        on_server_error: ``"retry"``; or ``"in_doubt"`` to never send again and raise ``SubmitInDoubtError`` instead.

        unsent_timeout: The time for which a request that could not be sent (DNS or connection failure) is retried,
            counted from its first failure.

        maintenance_timeout: The time for which a job waits while the service is under maintenance.

        in_doubt_timeout: The time for which a create in doubt keeps its slot; without a callback URL, also the time
            after which the job becomes UNRESOLVED.

        max_age: The time for which a task is polled, counted from its acceptance, before the job is STALLED; also the
            time for which a create is retried while the rate limit refuses every request; with a callback URL, also
            the time after which a create in doubt becomes UNRESOLVED, counted from when it was sent.

    Raises:
        ConfigurationError: If a value is not allowed.
    """

    server_error_attempts: int = attrs.field(default=3, validator=integer_field(at_least=1))
    on_server_error: Literal["retry", "in_doubt"] = attrs.field(default="retry", validator=_check_on_server_error)
    unsent_timeout: float = attrs.field(default=120.0, validator=number_field(at_least=0.0))
    maintenance_timeout: float = attrs.field(default=900.0, validator=number_field(at_least=0.0))
    in_doubt_timeout: float = attrs.field(default=600.0, validator=number_field(above=0.0))
    max_age: float = attrs.field(default=3600.0, validator=number_field(above=0.0))


@attrs.frozen
class SqliteJournal:
    """
    A journal in an SQLite file, which is created if it does not exist, readable by its user only.

    Any number of processes of one host may share the file, but not over a network, by any symbolic link, but not by
    hard links. A folder beside the file (``….owners``) tells which of them are alive.

    Args:
        path: The file; a name such as ``":memory:"``, ``"file:…"`` or ``"sqlite:///…"`` is refused.

        store_inputs: ``"full"``, or ``"hash"`` to keep prompts and image URLs out of the file. With ``"hash"``, a job
            that was not sent before its process ended cannot be sent by another process: it becomes CANCELLED.

    Raises:
        ConfigurationError: If a value is invalid.
    """

    path: Path = attrs.field(converter=_absolute_path)
    store_inputs: Literal["full", "hash"] = attrs.field(default="full", validator=_check_store_inputs)
