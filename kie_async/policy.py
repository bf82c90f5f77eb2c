"""Configuration values of a client: ``Limits``, ``RetryPolicy`` and ``SqliteJournal``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeGuard

import attrs

from kie_async.errors import ConfigurationError

__all__ = ["Limits", "RetryPolicy", "SqliteJournal"]


def _number(
    *, above: float | None = None, at_least: float | None = None
) -> Callable[[object, attrs.Attribute[float], float], None]:
    bound = above if above is not None else at_least

    def check(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
        if _is_number(value) and bound is not None and (value > bound if above is not None else value >= bound):
            return
        msg = (
            f"{type(instance).__name__}({attribute.name}={value!r}) is not possible: it must be a number"
            f" {'greater than' if above is not None else 'of at least'} {bound:g}. Give another value."
        )
        raise ConfigurationError(msg)

    return check


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(*, at_least: int) -> Callable[[object, attrs.Attribute[int], int], None]:
    def check(instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        if isinstance(value, int) and not isinstance(value, bool) and value >= at_least:
            return
        msg = (
            f"{type(instance).__name__}({attribute.name}={value!r}) is not possible: it must be a whole number of at"
            f" least {at_least}. Give another value."
        )
        raise ConfigurationError(msg)

    return check


def _check_on_server_error(_instance: object, _attribute: object, value: object) -> None:
    if value not in ("retry", "in_doubt"):
        msg = f"RetryPolicy(on_server_error={value!r}) is not possible: it must be 'retry' or 'in_doubt'."
        raise ConfigurationError(msg)


def _absolute_path(path: object) -> Path:
    """Resolve *path* now: a relative path would be another file after a change of the working directory."""
    if not isinstance(path, (str, os.PathLike)):
        msg = f"Invalid SqliteJournal(path={path!r}): expected a string or a path."
        raise ConfigurationError(msg)
    return Path(path).absolute()


def _check_store_inputs(_instance: object, _attribute: object, value: object) -> None:
    if value not in ("full", "hash"):
        msg = f"Invalid SqliteJournal(store_inputs={value!r}): expected 'full' or 'hash'."
        raise ConfigurationError(msg)


@attrs.frozen(kw_only=True)
class Limits:
    """
    How much a client asks of the account. Each process has its own limits: give every worker its share.

    Args:
        creates: Tasks that may be created in any *window*. The service documents 20 in 10 s for an account, and
            refuses the rest.

        window: The length of that window, in seconds.

        in_flight: Tasks that may be running at the service at once. The service documents no cap ("100+").

        polls_per_second: Looks at running tasks. An older page of the service allows 10 a second for a key; the default
            leaves half of it to others.

    Raises:
        ConfigurationError: If a value makes no sense.
    """

    creates: int = attrs.field(default=20, validator=_whole(at_least=1))
    window: float = attrs.field(default=10.0, validator=_number(above=0.0))
    in_flight: int = attrs.field(default=500, validator=_whole(at_least=1))
    polls_per_second: float = attrs.field(default=5.0, validator=_number(above=0.0))


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """
    How often and for how long a client tries. All times are in seconds; attempts are totals.

    Args:
        server_error_attempts: How often a create is sent in all when the service answers with an unclear 500. Each
            resend may have been paid before: it is logged, and detected where a callback URL is set.

        on_server_error: ``"retry"``, or ``"in_doubt"``: never send again, and raise ``SubmitInDoubtError`` instead.

        unsent_timeout: For how long a create that could not be sent (no name, no connection) is tried again, from its
            first failure.

        maintenance_timeout: For how long a job waits behind the service's maintenance.

        in_doubt_timeout: For how long a create in doubt keeps its slot; without a callback URL, also when it becomes
            UNRESOLVED.

        max_age: For how long a task is waited for, from its acceptance; for how long a create is tried again while the
            rate limit refuses every one; with a callback URL, also when a create in
            doubt becomes UNRESOLVED, from when it was sent.

    Raises:
        ConfigurationError: If a value makes no sense.
    """

    server_error_attempts: int = attrs.field(default=3, validator=_whole(at_least=1))
    on_server_error: Literal["retry", "in_doubt"] = attrs.field(default="retry", validator=_check_on_server_error)
    unsent_timeout: float = attrs.field(default=120.0, validator=_number(at_least=0.0))
    maintenance_timeout: float = attrs.field(default=900.0, validator=_number(at_least=0.0))
    in_doubt_timeout: float = attrs.field(default=600.0, validator=_number(above=0.0))
    max_age: float = attrs.field(default=3600.0, validator=_number(above=0.0))


@attrs.frozen
class SqliteJournal:
    """
    A journal in an SQLite file, which is created if it does not exist, readable by its user only.

    Any number of processes of one host may share the file, but not over a network. A folder beside it (``….owners``)
    tells which of them are alive.

    Args:
        path: The file.

        store_inputs: ``"full"``, or ``"hash"`` to keep prompts and image URLs out of the file. With ``"hash"``, a job
            that was not sent before its process ended cannot be sent by another process: it becomes CANCELLED.

    Raises:
        ConfigurationError: If a value is invalid.
    """

    path: Path = attrs.field(converter=_absolute_path)
    store_inputs: Literal["full", "hash"] = attrs.field(default="full", validator=_check_store_inputs)
