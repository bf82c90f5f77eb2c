"""The command ``workers``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.workers import run_workers
from kie_async.testing import FakeKie
from tests.cli.helpers import CapturedSession

#: A worker in another process, until its standard input ends.
WORKER = """
import asyncio, sys
from kie_async import KieClient, MarketRequest

async def main():
    async with KieClient("key", base_url=sys.argv[1], journal=sys.argv[2]) as kie:
        await kie.recover()
        await kie.workers()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def start_worker(fake: FakeKie, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, fake.url, str(path)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


@pytest.mark.parametrize("as_json", [False, True])
async def test_workers_are_shown_once_in_a_pipe(fake_kie: FakeKie, tmp_path: Path, *, as_json: bool) -> None:
    """Without the command itself."""
    path = tmp_path / "kie.db"
    streams = CapturedSession(fake_kie, as_json=as_json, journal=path)
    with start_worker(fake_kie, path) as worker:
        assert ExitCode.DONE == await run_workers(streams.session)
        worker.communicate("")

    if as_json:
        shown = json.loads(streams.out)
        account = {"account", "creates", "window", "tokens", "tokens_in_use", "gate", "opens_in"}
        assert {"workers", "in_flight", "wanting"} | account == shown.keys()
        assert ("default", 20, 10.0, 20, 0, "open", 0.0) == tuple(
            shown[name] for name in ("account", "creates", "window", "tokens", "tokens_in_use", "gate", "opens_in")
        )
        (entry,) = shown["workers"]
        assert [worker.pid, 500, {}, True] == [entry[name] for name in ("pid", "slots", "jobs", "recovers")]
    else:
        assert str(worker.pid) in streams.out
        assert "workers: 1, slots taken: 0, 0 of 20 creates in 10 s used, gate: open" in " ".join(streams.out.split())
        assert "0 of 500" in streams.out
