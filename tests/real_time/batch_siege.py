"""
The siege of ``batch``, a fault injection test: ``python -m tests.real_time.batch_siege 2000``.

The fake service is a hundred times as fast as the real one, limits included. Tasks fail, responses are lost, the
account runs empty halfway and is topped up, and maintenance interrupts the run. The command ``batch`` is killed three
times and started again. At the end, manifest and files are compared with the service's truth.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import anyio
import anyio.to_thread
import attrs
from anyio.streams.text import TextReceiveStream

from kie_async import Limits, RetryPolicy
from kie_async.cli.batch.folder import MANIFEST
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.batch.whole_run import run_batch
from kie_async.cli.options import JournalFile
from kie_async.cli.output import Output
from kie_async.cli.running import report_error
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, Fault

__all__ = ["SiegeResult", "siege"]

#: A hundredth of the real times, in seconds.
WINDOW, TASK, IN_DOUBT_TIMEOUT = 0.1, 0.6, 6.0
#: The shares of failing tasks and of creates without a response.
FAILING, LOST = 0.05, 0.02
KILLS = 3
#: The final states of a row.
ENDED = ("done", "failed", "in_doubt")
#: The codes with which creates are refused.
_EMPTY, _MAINTENANCE = 402, 455


@attrs.frozen(kw_only=True)
class SiegeResult:
    """
    The result of a siege, by the service's truth.

    Attributes:
        tasks: The number of tasks.

        paid_twice: The prompts for which there was more than one task.

        lost: The number of tasks that are neither in the manifest nor those of a row in doubt.

        without_task: The number of rows in doubt without a task: killed just before the create was sent, or refused
            by a response that was lost.

        wrong: The files that differ from the service's result for their row, or from the manifest.

        states: The number of rows in each state.

        rate_limited: The number of creates that exceeded the rate limit.

        busiest: The number of creates in the fullest window.

        unaffordable: The number of creates that an empty account refused (402).

        in_maintenance: The number of creates that maintenance refused (455).

        starts: The number of starts of the command.

        seconds: The duration.

        page_complete: True if the page shows every row.
    """

    tasks: int
    paid_twice: Sequence[str]
    lost: int
    without_task: int
    wrong: Sequence[str]
    states: Mapping[str, int]
    rate_limited: int
    busiest: int
    unaffordable: int
    in_maintenance: int
    starts: int
    seconds: float
    page_complete: bool


def write_table(folder: Path, rows: int) -> Path:
    """Write a table of the bundled images in which every prompt is different."""
    names = sorted(bundled.name for bundled in (files("kie_async.cli") / "data").iterdir())
    for name in names:
        (folder / name).write_bytes((files("kie_async.cli") / "data" / name).read_bytes())
    path = folder / "shots.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "prompt", "resolution"])
        writer.writerows((names[n % len(names)], f"Shot {n}", "480p") for n in range(rows))
    return path


async def attempt(table: Path, url: str, *, kill_after: int | None) -> int:
    """Start the command, kill it after *kill_after* printed outcomes, and return its exit code."""
    command = [sys.executable, "-m", "tests.real_time.batch_siege", "--child", str(table)]
    environment = {**os.environ, "KIE_BASE_URL": url, "KIE_API_KEY": "any-key"}
    async with await anyio.open_process(command, env=environment, stdout=None) as process:
        assert process.stderr is not None
        printed = 0
        async for text in TextReceiveStream(process.stderr):
            printed += text.count(": done") + text.count(": failed")
            if kill_after is not None and printed >= kill_after:
                process.kill()
                break
        return await process.wait()


async def siege(folder: Path, *, rows: int, maintenance: float = 0.0, seed: int = 0) -> SiegeResult:
    """
    Run the siege.

    Args:
        folder: An empty folder.

        rows: The number of shots.

        maintenance: The duration of the maintenance after a third of the tasks, in seconds.

        seed: Seeds the fake and the choice of the creates whose answers are lost.
    """
    table = await anyio.to_thread.run_sync(write_table, folder, rows)
    lost = random.Random(seed).sample(range(2, rows), round(rows * LOST))
    faults = [Fault("create", "reset", after=True, nth=nth) for nth in lost]
    fake = FakeKie(
        seed=seed,
        limit=20,
        window=WINDOW,
        duration=(TASK, 0.3),
        fail_rate=FAILING,
        faults=faults,
        queries_per_second=1000,
        credits=40.0 * rows / 2,  # enough for half of them
    )
    starts = 0
    async with fake:
        began_at = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(_disturb_service, fake, rows, maintenance)
            while starts <= KILLS or not await anyio.to_thread.run_sync(_all_ended, table, rows):
                starts += 1
                await attempt(table, fake.url, kill_after=max(3, rows // 8) if starts <= KILLS else None)
        # A last run, for anything that the previous one has left.
        await attempt(table, fake.url, kill_after=None)
        seconds = anyio.current_time() - began_at
        return await anyio.to_thread.run_sync(_result, fake, table.parent / "out", starts, seconds)


def _all_ended(table: Path, rows: int) -> bool:
    """Return True if the manifest has an outcome for every row."""
    lines = (table.parent / "out" / MANIFEST).read_text().splitlines()
    return sum(json.loads(line)["state"] in ENDED for line in lines) == rows


async def _disturb_service(fake: FakeKie, rows: int, maintenance: float) -> None:
    """Put the service under maintenance once, and add credits when the account is empty."""
    while len(fake.truth.tasks) < rows / 3:
        await anyio.sleep(WINDOW)
    if maintenance:
        fake.maintenance = True
        await anyio.sleep(maintenance)
        fake.maintenance = False
    while not any(post.code == _EMPTY for post in fake.truth.create_requests):
        await anyio.sleep(WINDOW)
    await anyio.sleep(10 * WINDOW)
    fake.credits += 40.0 * rows


def _result(fake: FakeKie, out: Path, starts: int, seconds: float) -> SiegeResult:
    lines = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]
    known = {line["task_id"] for line in lines} - {None}
    doubted = {line["input"]["prompt"] for line in lines if line["state"] == "in_doubt"}
    made = {
        post.task_id: str(post.body["input"]["prompt"])  # type: ignore[index,call-overload]  # JSON that was checked by the fake
        for post in fake.truth.create_requests
        if post.task_id is not None
    }
    wrong = []
    for line in lines:
        if line["state"] == "done":
            data = (out / line["file"]).read_bytes()
            # Each result of the fake contains the id of its task.
            if hashlib.sha256(data).hexdigest() != line["sha256"] or line["task_id"].encode() not in data:
                wrong.append(line["file"])
    page = (out / "index.html").read_text()
    return SiegeResult(
        tasks=len(fake.truth.tasks),
        paid_twice=[prompt for prompt, count in Counter(made.values()).items() if count > 1],
        lost=sum(task_id not in known and prompt not in doubted for task_id, prompt in made.items()),
        without_task=len(doubted - set(made.values())),
        wrong=wrong,
        states=Counter(line["state"] for line in lines),
        rate_limited=len(fake.truth.rate_limited),
        busiest=fake.truth.busiest_window(WINDOW),
        unaffordable=sum(post.code == _EMPTY for post in fake.truth.create_requests),
        in_maintenance=sum(post.code == _MAINTENANCE for post in fake.truth.create_requests),
        starts=starts,
        seconds=round(seconds, 1),
        page_complete=all(f">{line['key']}</h3>" in page for line in lines),
    )


async def _child(table: Path) -> int:
    """Run the command with a hundredth of the real limits and times."""
    session = Session(output=Output())
    options = BatchOptions(
        table=table,
        out=table.parent / "out",
        journal=JournalFile(table.parent / "kie.db"),
        limits=Limits(creates=20, window=WINDOW, polls_per_second=500.0),
        retry=RetryPolicy(in_doubt_timeout=IN_DOUBT_TIMEOUT),
    )
    try:
        return await run_batch(session, options)
    except Exception as error:  # noqa: BLE001 (as the command line does)
        return report_error(session, error)


def main() -> None:
    """Run the siege, or the process that it kills."""
    if sys.argv[1] == "--child":
        raise SystemExit(anyio.run(_child, Path(sys.argv[2])))
    folder = Path(tempfile.mkdtemp())
    try:
        result = anyio.run(lambda: siege(folder, rows=int(sys.argv[1]), maintenance=5.0))
    finally:
        shutil.rmtree(folder)
    for name, value in attrs.asdict(result).items():
        sys.stdout.write(f"{name:<14} {value}\n")


if __name__ == "__main__":
    main()
