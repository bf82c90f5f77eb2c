"""
Makes a journal with a job in each state, by a process that is killed: ``python -m tests.journals.make FOLDER``.

To be run once for each version of the schema, when it is released (into ``v1``, ``v2`` … beside this file). What it has
made is kept for ever, and opened by ``test_old_journals.py``.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import anyio

from kie_async import KieClient, KieError, Limits, MarketRequest, Request, Wan22TurboImageToVideo
from kie_async.testing import FakeKie, Fault, virtual_time
from kie_async.testing.faults import Call
from tests.real_time.crash.ledger import read_rows
from tests.requests.samples import png

__all__ = ["HANGS", "wish"]

#: A model whose tasks never end.
HANGS = "tests/hangs"
#: When client and service are made; in seconds since the epoch, 2026-10-01T00:00:00Z.
KEY = "any-key-is-good"
START = 1_790_812_800.0


def wish(name: str) -> Request:
    """The request of the job that has a name."""
    if name == "succeeded":
        return Wan22TurboImageToVideo(image=png(), prompt=f"to be {name}")
    model = HANGS if name in ("stalled", "submitted") else "tests/ends"
    return MarketRequest(model=model, input={"prompt": f"to be {name}"})


def _of(name: str) -> Callable[[Call], bool]:
    def names(call: Call) -> bool:
        return f"to be {name}".encode() in call.body

    return names


async def _live(folder: Path) -> None:
    """Bring a job into each state, and die."""
    faults = [
        *(Fault("create", "reset", after=True, when=_of(name)) for name in ("unknown", "abandoned", "in_doubt")),
        Fault("create", "code", code=422, when=_of("rejected")),
        Fault("create", "code", code=500, when=_of("suspect")),
        Fault("create", "silence", after=True, when=_of("sending")),
    ]
    durations = {HANGS: math.inf}
    async with FakeKie(
        models=(HANGS, "tests/ends"), duration=lambda model, _: durations.get(model, 60.0), faults=faults
    ) as fake:
        async with KieClient(
            KEY, base_url=fake.url, journal=folder / "kie.db", callback_url="https://app.example.com/kie"
        ) as kie:
            await _first_run(kie, fake)
        async with KieClient(KEY, base_url=fake.url, journal=folder / "kie.db", limits=Limits(in_flight=3)) as kie:
            # At once, so that few pages are written.
            async with anyio.create_task_group() as group:
                for name in ("submitted", "in_doubt", "sending"):
                    group.start_soon(partial(kie.submit, wish(name), key=name, wait=False))
            await asyncio.sleep(1.0)
            await kie.submit(wish("intent"), key="intent", wait=False)
            os.kill(os.getpid(), signal.SIGKILL)


async def _first_run(kie: KieClient, fake: FakeKie) -> None:
    """The jobs that are at their end, or past a deadline."""
    await fake.refuse_connections()
    await _submit(kie, "withdrawn")
    await fake.accept_connections()
    async with anyio.create_task_group() as group:
        for name in ("stalled", "unknown", "abandoned", "succeeded", "failed", "rejected", "suspect"):
            group.start_soon(_submit, kie, name)
    (failed,) = [task.task_id for task in fake.truth.created if task.input["prompt"] == "to be failed"]
    fake.fail(failed)
    (abandoned,) = [job.id for job in await kie.jobs() if job.key == "abandoned"]
    await kie.attach(abandoned).abandon()
    await asyncio.sleep(3700.0)


async def _submit(kie: KieClient, name: str) -> None:
    with suppress(KieError):
        await kie.submit(wish(name), key=name)


def main(target: Path) -> None:
    """Run a process that dies, and keep what it leaves: the files as they are, and the rows in them as text."""
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run([sys.executable, "-m", "tests.journals.make", "--die-in", folder], check=False)
        if ended.returncode != -signal.SIGKILL:
            sys.exit(f"the process was to be killed, and has ended with {ended.returncode}")
        target.mkdir(parents=True, exist_ok=True)
        with ZipFile(target / "journal.zip", "w", ZIP_DEFLATED) as kept:
            for name in ("kie.db", "kie.db-wal"):
                kept.write(Path(folder) / name, name)
        rows = list(read_rows(Path(folder) / "kie.db").values())
        (target / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--die-in":
        virtual_time(_live, Path(sys.argv[2]), start=START)
    else:
        main(Path(sys.argv[1]))
