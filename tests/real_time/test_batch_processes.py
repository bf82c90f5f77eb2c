"""``kie-async batch`` as people run it, stop it and start it again: real processes, real signals, a real terminal."""

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

from kie_async.cli.batch.folder import MANIFEST as NAME
from tests.cli.helpers import CAT
from tests.real_time.test_cli_processes import Service, read_until, serving, started

#: More than a window takes.
SHOTS = 26


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of more shots than a window takes."""
    path = tmp_path / "shots.jsonl"
    shot = {"image": str(CAT), "resolution": "480p"}
    path.write_text("".join(json.dumps({**shot, "prompt": f"Shot {n}"}) + "\n" for n in range(SHOTS)))
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Generator[Service]:
    """A service whose tasks take as long as the real one's."""
    with serving(tmp_path / "state", "--speed", "1") as service:
        yield service


@pytest.fixture
def quick(tmp_path: Path) -> Generator[Service]:
    """A service in a hurry."""
    with serving(tmp_path / "state", "--speed", "200", "--window", "1") as service:
        yield service


def manifest(out: Path) -> Sequence[dict[str, object]]:
    """The manifest of a folder."""
    return [json.loads(line) for line in (out / NAME).read_text().splitlines()]


@contextmanager
def batch(table: Path, out: Path, service: Service, *options: str) -> Generator[subprocess.Popen[str]]:
    """The command at work."""
    with started("batch", str(table), "--out", str(out), "--yes", *options, environment=service.environment) as process:
        yield process


def test_once_drains_and_the_manifest_has_every_task(table: Path, slow: Service, tmp_path: Path) -> None:
    """Exit code 130 within the drain's bound; each task that was paid is there, with the command that waits for it."""
    out = tmp_path / "out"
    with batch(table, out, slow) as process:
        wait_for_creates(out, 20)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=5.0 + 2.0)
    lines = manifest(out)

    assert 130 == process.returncode
    assert "Interrupted: nothing more is sent." in messages
    assert 20 <= len(lines) < SHOTS
    assert {"running"} == {line["state"] for line in lines}
    assert [True] * len(lines) == [bool(line["task_id"]) for line in lines]
    assert f"To resume: kie-async batch {table} --out {out}" in messages
    assert f"kie-async batch {table} --out {out}" in (out / "index.html").read_text()


def wait_for_creates(out: Path, count: int) -> None:
    """Wait until so many tasks are in the journal; asked as anybody asks, by the command line."""
    ls = [
        sys.executable,
        "-m",
        "kie_async",
        "ls",
        "--state",
        "submitted",
        "--json",
        "--journal",
        str(out / "journal.db"),
    ]
    for _ in range(200):
        listed = subprocess.run(ls, capture_output=True, text=True, check=False)
        if len(listed.stdout.splitlines()) >= count:
            return
    pytest.fail(f"there never were {count} tasks")


def test_twice_leaves_at_once_and_nothing_is_lost(table: Path, slow: Service, tmp_path: Path) -> None:
    """Within two seconds; SIGTERM is as good as Ctrl-C; the journal has what the manifest has no time for."""
    out = tmp_path / "out"
    with batch(table, out, slow) as process:
        wait_for_creates(out, 20)
        process.send_signal(signal.SIGTERM)
        read_until(process, "Ctrl-C again leaves at once")
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=2.0)

    assert 130 == process.returncode
    assert "To resume: kie-async batch" in messages


def test_killed_and_started_again_it_pays_for_nothing_twice(table: Path, quick: Service, tmp_path: Path) -> None:
    """Kill -9 twice, and once more to the end: as many tasks as shots, and every file is there."""
    out = tmp_path / "out"
    for place in (3, 14):
        with batch(table, out, quick, "--rate", "20/1") as process:
            read_until(process, f"{place}/{SHOTS}")
            process.kill()
        manifest(out)  # whole lines, whenever
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


def test_a_terminal_is_asked_and_shows_what_moves(table: Path, quick: Service, tmp_path: Path) -> None:
    """The question, two lines that move, and the page at the end; no line for what is done."""
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
    """What a program shows, up to a text, or to its end."""
    shown = b""
    while until is None or until not in shown:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # so a terminal says that nobody is at its other end
            break
        if not part:
            break
        shown += part
    return shown
