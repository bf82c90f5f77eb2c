"""A real PostgreSQL server in a folder of its own, which tests stop, kill, fail over and whose clock they step."""

from __future__ import annotations

import atexit
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import psycopg
from psycopg import sql

__all__ = ["APP", "DATABASE", "PostgresServer", "free_port", "run_unprivileged", "shared_folder"]

#: The role and the database of the tests. The role may create schemas and databases, and is no superuser.
APP = "app"
DATABASE = "app"

_HOST = "127.0.0.1"
#: Below the range from which the kernel takes ports for outgoing connections: a stopped server keeps its port.
_PORTS = range(20_000, 30_000)
#: Seconds for a server to start or stop, also on a busy machine.
_TIMEOUT = 60.0
_FAKETIME = "faketime/libfaketimeMT.so.1"
_SETTINGS = {
    "listen_addresses": f"'{_HOST}'",
    "max_connections": "100",
    "shared_buffers": "'32MB'",
    "wal_keep_size": "'64MB'",
    # A crash and a promotion take tenths of a second instead of five seconds.
    "recovery_init_sync_method": "syncfs",
    "wal_retrieve_retry_interval": "'100ms'",
}
#: What each way to stop a server sends to it.
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


@cache
def _binaries() -> Path:
    """Return the folder of the newest PostgreSQL; Debian keeps its servers out of the path."""
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin/initdb") if path.parts[-3].isdigit()]
    if versions:
        return max(versions, key=lambda path: int(path.parts[-3])).parent
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    msg = "PostgreSQL is missing: run make system-tools."
    raise FileNotFoundError(msg)


def _unprivileged() -> pwd.struct_passwd | None:
    """Return the user that servers run as: ``postgres`` for root, whom they refuse; None for our own user."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def run_unprivileged(*command: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start *command*, not as root, in a session of its own: ^C is for the tests."""
    user = _unprivileged()
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        start_new_session=True,
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else [],
    )


def shared_folder() -> Path:
    """Make a folder that the servers' user can use; its name is short enough for a socket, and it goes at exit."""
    folder = Path(tempfile.mkdtemp(prefix="kie-pg-"))
    if (user := _unprivileged()) is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def free_port() -> int:
    """Return a port that nothing uses."""
    while True:
        # Tests seed the module's own generator, and processes with one seed would all choose one port.
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind((_HOST, port))
            return port


def _run(*command: str | Path) -> None:
    process = run_unprivileged(*command)
    if process.wait(_TIMEOUT) != 0:
        raise subprocess.CalledProcessError(process.returncode, command)


@cache
def _new_cluster() -> Path:
    """Return a data folder to copy from, made once in each process: initdb takes ten times as long as the copy."""
    data = shared_folder() / "data"
    options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
    _run(_binaries() / "initdb", "--pgdata", data, *options)
    return data


class PostgresServer:
    """
    A server with ``fsync=on`` and the usual defaults, on a free port of this machine and a socket in its folder.

    Use it in a ``with`` statement, which starts it, and ends it at the end. All methods block.

    Args:
        settable_clock: True for a server whose clock can be stepped; it asks for the time through libfaketime.

        settings: More of ``postgresql.conf``, values as they are written there.

        data: The data folder of a standby; None for a new cluster with the database ``app``.
    """

    def __init__(
        self, *, settable_clock: bool = False, settings: Mapping[str, str] | None = None, data: Path | None = None
    ) -> None:
        self.folder = shared_folder() if data is None else data.parent
        self.port = free_port()
        self._data = self.folder / "data" if data is None else data
        self._is_new = data is None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._clock = self.folder / "clock" if settable_clock else None
        self._standbys: list[PostgresServer] = []
        if self._is_new:
            _run("cp", "--archive", _new_cluster(), self._data)
        self.configure(**{**_SETTINGS, "port": str(self.port), **(settings or {})})
        self.configure(unix_socket_directories=f"'{self.folder}'")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its standbys, and remove their folders."""
        for standby in self._standbys:
            standby.close()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """True until the server has ended."""
        return self._process is not None and self._process.poll() is None

    def dsn(self, database: str = DATABASE, *, user: str = APP, password: str = "", by_socket: bool = False) -> str:
        """Return the DSN of a database. Any password is right: the server trusts this machine."""
        credentials = f"{user}:{password}" if password else user
        if by_socket:
            return f"postgresql://{credentials}@/{database}?host={self.folder}&port={self.port}"
        return f"postgresql://{credentials}@{_HOST}:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as superuser by the server's socket, which no other server has; with autocommit."""
        return psycopg.connect(self.dsn(database, user="postgres", by_socket=True), autocommit=True)

    def execute(self, query: str, *parameters: object, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """Execute a statement as superuser, and return its rows."""
        with self.connect(database) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def configure(self, **settings: str) -> None:
        """Add to ``postgresql.conf``, values as they are written there; a restart or ``reload()`` applies them."""
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def reload(self) -> None:
        """Let the server read its configuration again, and wait until new connections have it."""
        ((loaded_at,),) = self.execute("SELECT pg_conf_load_time()", database="postgres")
        self.execute("SELECT pg_reload_conf()", database="postgres")
        self.wait_for_rows(f"SELECT 1 WHERE pg_conf_load_time() > '{loaded_at.isoformat()}'")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        environment = {}
        if self._clock is not None:
            library = next(Path("/usr/lib").glob(f"*/{_FAKETIME}"), None)
            assert library is not None, "libfaketime is missing: run make system-tools."
            if not self._clock.exists():
                self._clock.write_text("+0\n")
            environment = {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
        self._process = run_unprivileged(
            _binaries() / "postgres",
            *("-D", self._data, "-c", "logging_collector=on", "-c", f"log_directory={self.folder}"),
            environment=environment,
        )
        self._guard = _end_with_us(self._process.pid)
        self._wait_until_ready()
        if self._is_new:
            self._is_new = False
            with self.connect() as connection:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(sql.Identifier(APP)))
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(APP))
                )

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server, and wait until it has ended; ``"immediate"`` is a crash that needs recovery."""
        self._end(_SIGNALS[mode])

    def kill(self) -> None:
        """Kill the server with SIGKILL, its backends too."""
        if self.is_running:
            assert self._process is not None
            for pid in _children(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._end(signal.SIGKILL)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start the server."""
        self.stop(mode)
        self.start()

    def set_read_only(self, *, read_only: bool = True) -> None:
        """Restart the server so that transactions may not write, as at an old primary, or may write again."""
        self.configure(default_transaction_read_only="on" if read_only else "off")
        self.restart()

    def step_clock(self, seconds: float) -> None:
        """Set the server's clock to *seconds* after the machine's, at once and also for open connections."""
        assert self._clock is not None, "This server's clock cannot be stepped: pass settable_clock=True."
        other = self._clock.with_suffix(".next")
        other.write_text(f"{seconds:+.6f}\n")
        other.chmod(0o644)
        other.replace(self._clock)

    def reset(self) -> None:
        """Leave the tests' database empty and open: end the connections to it, and drop its schemas and its limit."""
        with self.connect(DATABASE) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(sql.Identifier(DATABASE)))
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                (DATABASE,),
            )
            schemas = connection.execute(
                r"SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'"
            )
            for (name,) in schemas.fetchall():
                connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
            connection.execute(sql.SQL("CREATE SCHEMA public AUTHORIZATION {}").format(sql.Identifier(APP)))

    def start_standby(self, *, synchronous: bool = False) -> PostgresServer:
        """
        Start a streaming standby, and wait until it has caught up. It ends with this server.

        Args:
            synchronous: True if commits wait for the standby from now on.
        """
        data = shared_folder() / "data"
        source = f"host={_HOST} port={self.port} user=postgres application_name=standby"
        options = ("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
        _run(_binaries() / "pg_basebackup", "--pgdata", data, "--dbname", source, *options)
        standby = PostgresServer(data=data)
        self._standbys.append(standby)
        standby.start()
        self.wait_for_rows("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'")
        if synchronous:
            self.configure(synchronous_standby_names="'*'")
            self.reload()
            self.wait_for_rows("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
        return standby

    def fall_behind(self) -> None:
        """
        Stop receiving from the primary: what it commits from now on is lost when this standby is promoted.

        Paused replay or ``recovery_min_apply_delay`` would not do: a promotion first replays all that was received.
        """
        self.execute("ALTER SYSTEM SET primary_conninfo = ''", database="postgres")
        self.reload()
        self.wait_for_rows("SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    def promote(self) -> None:
        """Make a primary of this standby, and wait until it accepts writes."""
        self.execute("SELECT pg_promote()", database="postgres")

    def wait_for_rows(self, query: str) -> None:
        """Wait until a query of the superuser has a row."""
        deadline = time.monotonic() + _TIMEOUT
        while not self.execute(query, database="postgres"):
            assert time.monotonic() < deadline, f"No rows after {_TIMEOUT} s: {query}"
            time.sleep(0.02)

    def wait_for_standbys(self) -> None:
        """Wait until the standbys have replayed all that was committed so far."""
        (position,) = self.execute("SELECT pg_current_wal_lsn()::text", database="postgres")[0]
        behind = f"SELECT FROM pg_stat_replication WHERE replay_lsn < '{position}' OR replay_lsn IS NULL"
        self.wait_for_rows(f"SELECT 1 WHERE NOT EXISTS ({behind})")

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            self._process.wait(_TIMEOUT)
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or not self.is_running:
                    raise
                time.sleep(0.02)
            else:
                return


def _end_with_us(pid: int) -> subprocess.Popen[bytes]:
    """Start a guard that ends the server *pid* if this process is killed: its standard input then ends."""
    return subprocess.Popen(
        ["sh", "-c", f"cat; kill -QUIT {pid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _children(pid: int) -> list[int]:
    """Return the processes that *pid* has started."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
