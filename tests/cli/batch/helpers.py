"""Helpers of the tests of ``batch``: tables, runs against the fake, and output folders made without a service."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path

import anyio

from kie_async.cli.batch.folder import MANIFEST
from kie_async.cli.batch.manifest import EntryState, Manifest, ManifestEntry
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.batch.page import PageHeader, write_page
from kie_async.cli.batch.whole_run import run_batch
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JournalFile
from kie_async.testing import FakeKie, Truth
from kie_async.testing.media import bundled_clip
from tests.cli.helpers import CAT, CapturedSession

__all__ = [
    "MARKUP",
    "make_entry",
    "make_folder",
    "make_options",
    "read_manifest",
    "row_states",
    "run_to_end",
    "run_with_signals",
    "write_table",
]

#: A prompt that runs a script, loads an image or breaks the page if it is not escaped.
MARKUP = """</p></script><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)> & "'{{ 7 * 7 }}"""

_MODEL = "wan/2-2-a14b-image-to-video-turbo"
_STARTED_AT = 1_790_000_000.0
_COMMAND = "kie-async resolve --journal out/journal.db kj_{line} TASKID"


def make_entry(
    line: int, state: EntryState = EntryState.DONE, *, prompt: str = "The cat turns its head", **other: object
) -> ManifestEntry:
    """Return a typical entry for a state; ``other`` overrides its fields."""
    key = f"cat-{hashlib.sha256(str(line).encode()).hexdigest()[:12]}"
    known: dict[str, object] = {
        "key": key,
        "line": line,
        "state": state,
        "model": _MODEL,
        "input": {"prompt": prompt, "seed": line * 7, "resolution": "480p"},
        "source": "cat.jpg",
        "image": "inputs/cat.jpg",
    }
    if state in (EntryState.DONE, EntryState.FAILED):
        known |= {"task_id": f"task{line}", "created_at": _STARTED_AT + line / 2, "seconds": 20.0 + line * 37 % 41}
    if state == EntryState.DONE:
        known |= {"file": f"{key}.mp4", "credits": 40.0, "sha256": "ab" * 32}
    else:
        known |= {"reason": f"It is {state}, for a reason.", "command": _COMMAND.format(line=line)}
    return ManifestEntry(**{**known, **other})  # type: ignore[arg-type]  # its fields, by name


def make_folder(
    folder: Path, entries: Sequence[ManifestEntry], *, total: int | None = None, title: str = "shots.csv"
) -> Path:
    """Write a folder with these entries, and return the path of its page."""
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    (inputs / "cat.jpg").write_bytes(CAT.read_bytes())
    (inputs / "clip.mp4").write_bytes(bundled_clip())
    for entry in entries:
        if entry.file is not None:
            os.link(inputs / "clip.mp4", folder / entry.file)
    with Manifest(folder) as manifest:
        for entry in entries:
            manifest.record(entry)
        manifest.compact()
        facts = PageHeader(
            title=title,
            total=len(entries) if total is None else total,
            written_at="25 November 2026, 09:41 UTC",
            resume_command="kie-async batch shots.csv --out out",
        )
        write_page(folder, manifest.entries(), facts)
    return folder / "index.html"


def write_table(folder: Path, count: int, **columns: str) -> Path:
    """Write a table of *count* shots of two images; column values may contain ``{n}``, the row's number."""
    path = folder / "shots.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "prompt", "resolution", *columns])
        writer.writeheader()
        for n in range(count):
            row = {"image": ("cat.jpg", "city.jpg")[n % 2], "prompt": f"Shot {n}", "resolution": "480p"}
            writer.writerow({**row, **{name: text.format(n=n) for name, text in columns.items()}})
    return path


def make_options(table: Path, **options: object) -> BatchOptions:
    """Return options for a table, with an output folder and a journal beside it."""
    file = table.parent / "kie.db"
    known = {"out": table.parent / "out", "journal": JournalFile(file, option=f" --journal {file}"), **options}
    return BatchOptions(table=table, **known)  # type: ignore[arg-type]  # its fields, by name


async def run_to_end(
    fake: FakeKie, options: BatchOptions, *, as_json: bool = False
) -> tuple[ExitCode, CapturedSession]:
    """Run the command, and return its exit code and its output."""
    streams = CapturedSession(fake, as_json=as_json)
    return await run_batch(streams.session, options), streams


def read_manifest(options: BatchOptions) -> Sequence[Mapping[str, object]]:
    """Return the lines of the manifest."""
    return [json.loads(line) for line in (options.out / MANIFEST).read_text().splitlines()]


def row_states(options: BatchOptions) -> Sequence[object]:
    """Return the state of each row."""
    return [line["state"] for line in read_manifest(options)]


async def run_with_signals(
    fake: FakeKie,
    options: BatchOptions,
    *,
    after: Callable[[Truth], Sized],
    count: int = 1,
    times: int = 1,
    number: signal.Signals = signal.SIGINT,
) -> tuple[ExitCode, CapturedSession, float]:
    """Interrupt the command once *after* has *count* items; return also its time to exit after the last signal."""
    streams = CapturedSession(fake)
    codes: list[ExitCode] = []
    stopped_at = ended_at = 0.0

    async def work() -> None:
        nonlocal ended_at
        codes.append(await run_batch(streams.session, options))
        ended_at = anyio.current_time()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        while len(after(fake.truth)) < count:
            await anyio.sleep(0.1)
        for _ in range(times):
            await anyio.sleep(0.5)
            stopped_at = anyio.current_time()
            signal.raise_signal(number)
    return codes[0], streams, ended_at - stopped_at
