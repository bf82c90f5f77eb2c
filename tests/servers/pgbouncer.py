"""pgbouncer in front of a PostgreSQL server, pooling by transaction: what LISTEN and session state do not survive."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

import psycopg

from tests.servers.postgres import APP, DATABASE, PostgresServer, free_port, run_unprivileged, shared_folder

__all__ = ["PgBouncer"]

_CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
logfile = {folder}/log
"""
_TIMEOUT = 30.0


class PgBouncer:
    """
    A pooler in transaction mode for *server*; use it in a ``with`` statement.

    Args:
        server: The server behind it.

        pool_size: The number of connections to the server that all clients share.
    """

    def __init__(self, server: PostgresServer, *, pool_size: int = 4) -> None:
        self._folder = shared_folder()
        self._port = free_port()
        (self._folder / "users").write_text(f'"{APP}" ""\n"postgres" ""\n')
        (self._folder / "pgbouncer.ini").write_text(
            _CONFIGURATION.format(server_port=server.port, port=self._port, folder=self._folder, pool_size=pool_size)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def dsn(self, database: str = DATABASE, *, user: str = APP) -> str:
        """Return the DSN of a database behind the pooler."""
        return f"postgresql://{user}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start the pooler, and wait until it answers."""
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        self._process = run_unprivileged(Path(program), self._folder / "pgbouncer.ini")
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                psycopg.connect(self.dsn()).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Kill the pooler: its clients' connections end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_TIMEOUT)
