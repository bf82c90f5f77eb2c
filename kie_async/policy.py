"""Configuration values of a client: ``Limits``, ``RetryPolicy``, ``SqliteJournal`` and ``PostgresJournal``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal, NoReturn, Self

import attrs

from kie_async._display import sealed
from kie_async._dsn import DSN_FORMS, is_dsn, shown_dsn
from kie_async._numbers import integer_field, number_field, refuse
from kie_async.errors import ConfigurationError

__all__ = ["Limits", "PostgresJournal", "RetryPolicy", "SqliteJournal", "read_journal"]


#: SQLite's name for a database in memory, URIs of SQLite, URLs of other libraries, settings of libpq, and DSNs without
#: their slashes or their scheme, whose password an error would show: no names of files.
_NO_FILE = re.compile(
    r"\s*(:memory:|file:|[a-z][a-z0-9+.-]+:/|postgres(?:ql)?:|[^/:@]+:(?=[^/@]+@)"
    r"|(?:host|hostaddr|port|dbname|user|password|service)\s*=|$)",
    re.IGNORECASE,
)
_A_FILE = (
    f"the path of a file, or {DSN_FORMS} (settings as key=value: in PostgresJournal only); for a journal in memory,"
    " pass journal=None to KieClient, or --no-journal to a command; an absolute path may have any name"
)
#: A name that PostgreSQL takes without quotes, and that it does not keep for itself.
_SCHEMA = re.compile(r"(?!pg_|information_schema$)[a-z_][a-z0-9_]{0,62}", re.ASCII)


def _check_on_server_error(_instance: object, _attribute: object, value: object) -> None:
    if value not in ("retry", "in_doubt"):
        refuse("RetryPolicy", "on_server_error", value, "'retry' or 'in_doubt'")


def _absolute_path(path: object) -> Path:
    """Resolve *path* now: a relative path would be another file after a change of the working directory."""
    if not isinstance(path, (str, os.PathLike)):
        refuse("SqliteJournal", "path", path, "a string or a path")
    if (other := _no_file(path)) is not None:
        refuse("SqliteJournal", "path", other, _A_FILE)
    return Path(os.fsdecode(path)).absolute()


def _no_file(path: object) -> str | None:
    """Return the beginning of a path that shows that it is no path of a file, else None."""
    found = _NO_FILE.match(os.fsdecode(path)) if isinstance(path, (str, os.PathLike)) else None
    return None if found is None else found[1]


def _check_store_inputs(instance: object, _attribute: object, value: object) -> None:
    if value not in ("full", "hash"):
        refuse(type(instance).__name__, "store_inputs", value, "'full' or 'hash'")


def _check_dsn(_instance: object, _attribute: object, dsn: Callable[[], str]) -> None:
    """Check a DSN without showing it: what is wrong with it may be its password."""
    try:
        import_module("psycopg")  # its absence is better known now than when a job is submitted
    except ImportError as error:
        why = "" if isinstance(error, ModuleNotFoundError) else f", which cannot be imported ({error})"
        msg = f"A journal in PostgreSQL needs psycopg 3{why}. Install it with: pip install 'kie-async[postgres]'"
        raise ConfigurationError(msg) from None
    if not _is_valid(dsn()):
        msg = (
            f"Invalid PostgresJournal(dsn): expected {DSN_FORMS}, or settings of libpq such as 'host=db.internal"
            " dbname=app'. In a URL, percent-encode special characters of the user and the password: @ as %40, / as"
            " %2F, : as %3A, ? as %3F, % as %25. The DSN is not shown, because it may contain a password."
        )
        raise ConfigurationError(msg)


def _is_valid(dsn: object) -> bool:
    return isinstance(dsn, str) and bool(dsn.strip()) and shown_dsn(dsn) is not None


def _check_schema(_instance: object, _attribute: object, value: object) -> None:
    if not isinstance(value, str) or not _SCHEMA.fullmatch(value):
        expected = "a name of at most 63 of a-z, 0-9 and _, not beginning with a digit or pg_"
        refuse("PostgresJournal", "schema", value, expected)


@attrs.frozen(kw_only=True)
class Limits:
    """
    The account's limits. Clients that share a journal on disk share them: do not divide them among processes.

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
            counted from its first failure; also the time for which a wait for a job that was not sent outlasts the
            job's process while no client has called ``recover()``.

        maintenance_timeout: The time for which a job waits while the service is under maintenance.

        in_doubt_timeout: The time for which a create in doubt keeps its slot; without a callback URL, also the time
            after which the job becomes UNRESOLVED.

        max_age: The time for which a task is polled, counted from its acceptance, before the job is STALLED, unless
            one more poll then shows that the task has ended; also the time for which a create is retried while the
            rate limit refuses every request; with a callback URL, also the time after which a create in doubt becomes
            UNRESOLVED, counted from when it was sent.

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


@attrs.frozen(init=False, repr=False)
class PostgresJournal:
    """
    A journal in a schema of a PostgreSQL database, which any number of processes and machines may share.

    The schema and its tables are made if they do not exist; ``kie-async journal schema`` prints the statements, for a
    role that may not make them. It needs psycopg: ``pip install 'kie-async[postgres]'``.

    Args:
        dsn: The database: ``postgresql://user@host:5432/database``, or settings of libpq as key=value. Neither ``str``
            nor ``repr`` shows its password.

        schema: The schema; another account's jobs may have another one.

        store_inputs: ``"full"``, or ``"hash"`` to keep prompts and image URLs out of the database; as for
            ``SqliteJournal``.

    Attributes:
        dsn: Returns the DSN; a plain attribute would be shown by error trackers.

    Raises:
        ConfigurationError: If a value is invalid, or psycopg is not installed.
    """

    dsn: Callable[[], str] = attrs.field(validator=_check_dsn, eq=lambda dsn: dsn())
    schema: str = attrs.field(default="kie_async", validator=_check_schema)
    store_inputs: Literal["full", "hash"] = attrs.field(default="full", validator=_check_store_inputs)

    def __init__(self, dsn: str, schema: str = "kie_async", store_inputs: Literal["full", "hash"] = "full") -> None:
        given = sealed(dsn)
        del dsn  # error trackers show variables
        for name, value in (("dsn", given), ("schema", schema), ("store_inputs", store_inputs)):
            object.__setattr__(self, name, value)
        attrs.validate(self)

    def __str__(self) -> str:
        return str(shown_dsn(self.dsn()))

    def __repr__(self) -> str:
        return f"PostgresJournal({str(self)!r}, schema={self.schema!r}, store_inputs={self.store_inputs!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        msg = "A PostgresJournal cannot be pickled: it may hold a password. Make one from the DSN in each process."
        raise ConfigurationError(msg)


def read_journal(given: Callable[[], object]) -> SqliteJournal | PostgresJournal | None:
    """
    Return the configuration of the journal that a caller has given.

    Args:
        given: Returns a configuration, a path, a DSN, or None for a journal in memory; see ``sealed``.

    Raises:
        ConfigurationError: If it is none of these.
    """
    journal = given()
    if journal is None or isinstance(journal, (SqliteJournal, PostgresJournal)):
        return journal
    is_postgres, other = isinstance(journal, str) and is_dsn(journal), _no_file(journal)
    del journal  # error trackers show variables
    if is_postgres:
        return PostgresJournal(given())  # type: ignore[arg-type]  # a string
    if other is not None:
        refuse("KieClient", "journal", other, _A_FILE)
    return SqliteJournal(given())
