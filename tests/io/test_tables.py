"""Concurrent creation of a journal's file."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from kie_async._io.journals.tables import APPLICATION_ID, VERSION, prepare_file

OPENERS = 6


def test_concurrent_creation_gives_one_journal(tmp_path: Path) -> None:
    """A process that reads the marks of the file while another one writes them sees all of them, or none."""
    wrong: list[Exception] = []

    def open_it(path: Path, together: threading.Barrier) -> None:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        together.wait()
        try:
            prepare_file(connection, path)
        except Exception as error:  # noqa: BLE001 (it is what is asked for)
            wrong.append(error)
        finally:
            connection.close()

    for number in range(40):
        path, together = tmp_path / f"{number}.db", threading.Barrier(OPENERS)
        threads = [threading.Thread(target=open_it, args=(path, together)) for _ in range(OPENERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [] == wrong
    connection = sqlite3.connect(tmp_path / "0.db")
    try:
        assert (VERSION,) == connection.execute("PRAGMA user_version").fetchone()
        assert (APPLICATION_ID,) == connection.execute("PRAGMA application_id").fetchone()
    finally:
        connection.close()
