"""
A whole table in a bad world, killed again and again: ``python -m tests.real_time.batch_siege 2000``.

A service a hundred times as fast as the real one, limits and all, in which tasks fail, answers are lost, the account
runs empty in the middle and is topped up, and maintenance holds everything up; and the command ``batch``, which is
killed three times and started again. In the end the service's truth is laid beside the manifest and the files.
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
from kie_async.cli.batch.command import run_batch
from kie_async.cli.batch.folder import MANIFEST as NAME
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.output import Output
from kie_async.cli.running import report_error
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, Fault

__all__ = ["Account", "siege"]

#: A hundredth of the real ones, in seconds.
WINDOW, TASK, HOLD = 0.1, 0.6, 6.0
#: Of all tasks, so many fail; of all creates, so many get no answer.
FAILING, LOST = 0.05, 0.02
KILLS = 3
#: What the manifest says of a row for which nothing more will happen by itself.
ENDED = ("done", "failed", "in_doubt")
#: What creates are answered with.
_EMPTY, _MAINTENANCE = 402, 455


@attrs.frozen(kw_only=True)
class Account:
    """
    What has come of it, by the service's truth.

    Attributes:
        tasks: How many tasks there were.

        paid_twice: Prompts for which there was more than one.

        lost: Tasks that neither the manifest knows, nor a row in doubt stands for.

        nothing: Rows in doubt without a task: killed just before they were sent, or refused by an answer that
            was lost.

        wrong: Files that are not what the service has made for their row, or not what the manifest says.

        states: What became of the rows.

        refused: Creates that came too fast.

        busiest: The fullest window.

        emptied: How many creates an empty account was answered with 402.

        maintained: How many maintenance was answered with 455.

        starts: How often the command was started.

        seconds: How long it took.

        page: Whether the page shows every row.
    """

    tasks: int
    paid_twice: Sequence[str]
    lost: int
    nothing: int
    wrong: Sequence[str]
    states: Mapping[str, int]
    refused: int
    busiest: int
    emptied: int
    maintained: int
    starts: int
    seconds: float
    page: bool


def write_table(folder: Path, rows: int) -> Path:
    """A table of the bundled images, in which every prompt is another one."""
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
    """Start the command, and kill it when so many rows have been told; its exit code."""
    command = [sys.executable, "-m", "tests.real_time.batch_siege", "--child", str(table)]
    environment = {**os.environ, "KIE_BASE_URL": url, "KIE_API_KEY": "any-key"}
    async with await anyio.open_process(command, env=environment, stdout=None) as process:
        assert process.stderr is not None
        told = 0
        async for text in TextReceiveStream(process.stderr):
            told += text.count(": done") + text.count(": failed")
            if kill_after is not None and told >= kill_after:
                process.kill()
                break
        return await process.wait()


async def siege(folder: Path, *, rows: int, maintenance: float = 0.0, seed: int = 0) -> Account:
    """
    The whole of it.

    Args:
        folder: An empty one.

        rows: How many shots.

        maintenance: For how long the service is under maintenance, from a third of them on, in seconds.

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
            group.start_soon(_trouble, fake, rows, maintenance)
            while starts <= KILLS or not await anyio.to_thread.run_sync(_all_ended, table, rows):
                starts += 1
                await attempt(table, fake.url, kill_after=max(3, rows // 8) if starts <= KILLS else None)
        # Once more, for whatever the last one has left: a run that has nothing to do.
        await attempt(table, fake.url, kill_after=None)
        seconds = anyio.current_time() - began_at
        return await anyio.to_thread.run_sync(_account, fake, table.parent / "out", starts, seconds)


def _all_ended(table: Path, rows: int) -> bool:
    """Whether the manifest has an outcome for every row."""
    lines = (table.parent / "out" / NAME).read_text().splitlines()
    return sum(json.loads(line)["state"] in ENDED for line in lines) == rows


async def _trouble(fake: FakeKie, rows: int, maintenance: float) -> None:
    """What happens to the service by itself: maintenance once, and more credits when there are none left."""
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


def _account(fake: FakeKie, out: Path, starts: int, seconds: float) -> Account:
    lines = [json.loads(line) for line in (out / NAME).read_text().splitlines()]
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
            # Each result of the fake has the id of its task within.
            if hashlib.sha256(data).hexdigest() != line["sha256"] or line["task_id"].encode() not in data:
                wrong.append(line["file"])
    page = (out / "index.html").read_text()
    return Account(
        tasks=len(fake.truth.tasks),
        paid_twice=[prompt for prompt, count in Counter(made.values()).items() if count > 1],
        lost=sum(task_id not in known and prompt not in doubted for task_id, prompt in made.items()),
        nothing=len(doubted - set(made.values())),
        wrong=wrong,
        states=Counter(line["state"] for line in lines),
        refused=len(fake.truth.rate_limited),
        busiest=fake.truth.busiest_window(WINDOW),
        emptied=sum(post.code == _EMPTY for post in fake.truth.create_requests),
        maintained=sum(post.code == _MAINTENANCE for post in fake.truth.create_requests),
        starts=starts,
        seconds=round(seconds, 1),
        page=all(f">{line['key']}</h3>" in page for line in lines),
    )


async def _child(table: Path) -> int:
    """The command as it is, but for limits and times, which are a hundredth."""
    session = Session(output=Output())
    options = BatchOptions(
        table=table,
        out=table.parent / "out",
        limits=Limits(creates=20, window=WINDOW, polls_per_second=500.0),
        retry=RetryPolicy(in_doubt_timeout=HOLD),
    )
    try:
        return await run_batch(session, options)
    except Exception as error:  # noqa: BLE001 (as the command line does)
        return report_error(session, error)


def main() -> None:
    """Run it, or be the program that is killed."""
    if sys.argv[1] == "--child":
        raise SystemExit(anyio.run(_child, Path(sys.argv[2])))
    folder = Path(tempfile.mkdtemp())
    try:
        account = anyio.run(lambda: siege(folder, rows=int(sys.argv[1]), maintenance=5.0))
    finally:
        shutil.rmtree(folder)
    for name, value in attrs.asdict(account).items():
        sys.stdout.write(f"{name:<11} {value}\n")


if __name__ == "__main__":
    main()
