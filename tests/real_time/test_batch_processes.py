"""``kie-async batch`` in real processes, with real signals and a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kie_async.cli.batch.folder import MANIFEST
from tests.cli.helpers import CAT
from tests.real_time.test_cli_processes import HANG, Service, read_until, run_fake_service, start_process

#: More creates than a window allows.
SHOTS = 26


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table with more shots than a window allows creates."""
    path = tmp_path / "shots.jsonl"
    shot = {"image": str(CAT), "resolution": "480p"}
    path.write_text("".join(json.dumps({**shot, "prompt": f"Shot {n}"}) + "\n" for n in range(SHOTS)))
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Generator[Service]:
    """Run a service whose tasks take as long as the real one's."""
    with run_fake_service(tmp_path / "state", "--speed", "1") as service:
        yield service


@pytest.fixture
def quick(tmp_path: Path) -> Generator[Service]:
    """Run a service 200 times as fast."""
    with run_fake_service(tmp_path / "state", "--speed", "200", "--window", "1") as service:
        yield service


def manifest(out: Path) -> Sequence[dict[str, object]]:
    """Return the lines of the manifest."""
    return [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]


@contextmanager
def batch(table: Path, out: Path, service: Service, *options: str) -> Generator[subprocess.Popen[str]]:
    """Start the command."""
    with start_process(
        "batch", str(table), "--out", str(out), "--yes", *options, environment=service.environment
    ) as process:
        yield process


def test_one_signal_drains_the_run(table: Path, slow: Service, tmp_path: Path) -> None:
    """It exits with 130; the manifest has each paid task and the resume command."""
    out = tmp_path / "out"
    with batch(table, out, slow) as process:
        wait_for_creates(slow, 20)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=HANG)
    lines = manifest(out)

    assert 130 == process.returncode
    assert "Interrupted: nothing more is sent." in messages
    assert 20 <= len(lines) < SHOTS
    assert {"running"} == {line["state"] for line in lines}
    assert [True] * len(lines) == [bool(line["task_id"]) for line in lines]
    assert f"To resume: kie-async batch {table} --out {out}" in messages
    assert f"kie-async batch {table} --out {out}" in (out / "index.html").read_text()


def wait_for_creates(service: Service, count: int) -> None:
    """Wait until the command ``ls`` shows *count* submitted tasks."""
    ls = [sys.executable, "-m", "kie_async", "ls", "--state", "submitted", "--json"]
    for _ in range(200):
        listed = subprocess.run(ls, env=service.environment, capture_output=True, text=True, check=False)
        if len(listed.stdout.splitlines()) >= count:
            return
    pytest.fail(f"there never were {count} tasks")


def test_two_signals_exit_at_once(table: Path, slow: Service, tmp_path: Path) -> None:
    """The running tasks take longer than the test waits for the end; SIGTERM counts as Ctrl-C."""
    out = tmp_path / "out"
    with batch(table, out, slow) as process:
        wait_for_creates(slow, 20)
        process.send_signal(signal.SIGTERM)
        read_until(process, "Ctrl-C again leaves at once")
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=HANG)

    assert 130 == process.returncode
    assert "To resume: kie-async batch" in messages


def test_killed_run_pays_nothing_twice(table: Path, quick: Service, tmp_path: Path) -> None:
    """After ``kill -9`` twice and a last run, there is one task and one file per shot."""
    out = tmp_path / "out"
    for place in (3, 14):
        with batch(table, out, quick, "--rate", "20/1") as process:
            read_until(process, f"{place}/{SHOTS}")
            process.kill()
        manifest(out)  # the lines are whole at any time
        assert "The run had not ended when this page was written" in (out / "index.html").read_text()
    with batch(table, out, quick, "--rate", "20/1") as process:
        _, messages = process.communicate()
    lines = manifest(out)

    assert 0 == process.returncode, messages
    assert (SHOTS, SHOTS) == (len(lines), len({line["task_id"] for line in lines}))
    assert [True] * SHOTS == [(out / str(line["file"])).stat().st_size == line["size"] for line in lines]
    credits = subprocess.run(
        [sys.executable, "-m", "kie_async", "credits"],
        env=quick.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 10_000 - 40 * SHOTS == float(credits.stdout)


def test_terminal_asks_and_shows_progress(table: Path, quick: Service, tmp_path: Path) -> None:
    """It shows the question, two live lines and the page's path, but no line per finished row."""
    out = tmp_path / "out"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    command = [sys.executable, "-m", "kie_async", "batch", str(table), "--out", str(out), "--rate", "20/1"]
    environment = {**quick.environment, "TERM": "xterm-256color"}
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = read_terminal(ours, until=b"Continue?")
        os.write(ours, b"y\n")
        shown += read_terminal(ours, until=None)
        assert 0 == process.wait()
    os.close(ours)
    text = shown.decode()

    assert f" of {SHOTS}" in text
    assert "of 20 in 1 s" in text
    assert "in flight" in text
    assert "left" in text
    assert ": done" not in text
    assert f"{out / 'index.html'}" in text.replace("\r\n", "")


def read_terminal(terminal: int, *, until: bytes | None) -> bytes:
    """Return the output of a program up to a text, or to its end."""
    shown = b""
    while until is None or until not in shown:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # the other end of the terminal is closed
            break
        if not part:
            break
        shown += part
    return shown
