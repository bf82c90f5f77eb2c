"""A file that several make at once is one journal, and nobody takes it for something else."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from kie_async._io.journals.tables import APPLICATION_ID, VERSION, prepare_file

OPENERS = 6


def test_a_file_may_be_made_by_many_at_once(tmp_path: Path) -> None:
    """Whoever reads the marks of the file while another one writes them sees all of them, or none."""
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
