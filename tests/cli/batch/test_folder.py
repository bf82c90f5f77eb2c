"""The identity of a folder: it leads to the jobs of its table, wherever the folder is, and nothing is paid twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import attrs
import pytest

from kie_async import ConfigurationError, KieClient
from kie_async.cli.batch.folder import IDENTITY, MANIFEST, PAGE, FolderIdentity
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JournalFile
from kie_async.testing import FakeKie
from tests.cli.batch.helpers import make_options, read_manifest, row_states, run_to_end, run_with_signals, write_table
from tests.cli.helpers import run_cli


def _renamed(out: Path) -> Path:
    return out.rename(out.with_name("renamed"))


def _moved(out: Path) -> Path:
    (out.parent / "deep" / "er").mkdir(parents=True)
    return Path(shutil.move(out, out.parent / "deep" / "er" / "out"))


def _copied(out: Path) -> Path:
    return Path(shutil.copytree(out, out.with_name("copy")))


def _copied_visible_files(out: Path) -> Path:
    copy = out.with_name("copy")
    copy.mkdir()
    for path in out.glob("[!.]*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copy / path.name)
    return copy


def _linked(out: Path) -> Path:
    link = out.with_name("link")
    link.symlink_to(out)
    return link


def _moved_and_linked(out: Path) -> Path:
    out.symlink_to(_moved(out))
    return out


def _relative(out: Path) -> Path:
    return Path(os.path.relpath(out))


def _with_dots(out: Path) -> Path:
    (out.parent / "other").mkdir()
    return out.parent / "other" / ".." / "out" / "." / ".." / "out"


PLACES = [_renamed, _moved, _copied, _copied_visible_files, _linked, _moved_and_linked, _relative, _with_dots]


async def first_run(fake: FakeKie, options: BatchOptions, left: str, *, count: int) -> None:
    """Run a table of *count* rows and leave "running tasks", "no manifest", or all that a run leaves."""
    if left == "running tasks":
        await run_with_signals(fake, options, after=lambda truth: truth.tasks, count=count)
    else:
        await run_to_end(fake, options)
    if left == "no manifest":
        (options.out / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("place", "left"),
    [*((place, "nothing") for place in PLACES), (_moved, "running tasks"), (_copied, "no manifest")],
)
async def test_folder_may_go_anywhere(fake: FakeKie, folder: Path, place: Callable[[Path], Path], left: str) -> None:
    """Moved, copied, renamed or named otherwise between two runs, no row is paid twice."""
    options = make_options(write_table(folder, 4))
    await first_run(fake, options, left, count=4)
    there = attrs.evolve(options, out=await anyio.to_thread.run_sync(place, options.out))
    code, _ = await run_to_end(fake, there)

    assert (ExitCode.DONE, 4, ["done"] * 4) == (code, len(fake.truth.tasks), row_states(there))
    files = [there.out / str(line["file"]) for line in read_manifest(there)]
    assert [True] * 4 == [file.stat().st_size > 0 for file in files]


async def test_both_copies_may_be_used(fake: FakeKie, folder: Path) -> None:
    """A row that was added in one is replayed in the other, also while both run."""
    options = make_options(write_table(folder, 2))
    await run_to_end(fake, options)
    other = attrs.evolve(options, out=_copied(options.out))
    write_table(folder, 4)
    codes: list[ExitCode] = []

    async def run(run_options: BatchOptions) -> None:
        code, _ = await run_to_end(fake, run_options)
        codes.append(code)

    async with anyio.create_task_group() as group:
        for run_options in (options, other):
            group.start_soon(run, run_options)

    assert ([ExitCode.DONE] * 2, 4) == (codes, len(fake.truth.tasks))
    assert {line["task_id"] for line in read_manifest(options)} == {line["task_id"] for line in read_manifest(other)}


async def test_same_table_in_two_folders_is_two_orders(fake: FakeKie, folder: Path) -> None:
    """They share a journal, and neither keys nor files."""
    one = make_options(write_table(folder, 3, key="shot {n}"))
    two = attrs.evolve(one, out=folder / "two")
    await run_to_end(fake, one)
    await run_to_end(fake, two)
    again, streams = await run_to_end(fake, one)

    assert (ExitCode.DONE, 6) == (again, len(fake.truth.tasks))
    assert "3 of them done already" in streams.err
    assert ["shot%200.mp4", "shot%201.mp4", "shot%202.mp4"] == sorted(path.name for path in one.out.glob("*.mp4"))
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=str(one.journal)) as kie:
        assert 6 == len(await kie.jobs())


async def test_identity_has_no_content(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 1))
    await run_to_end(fake, options)
    identity = json.loads((options.out / IDENTITY).read_text())

    assert {"journal", "origin", "table"} == identity.keys()
    assert fake.url == identity.pop("origin")
    assert [16, 16] == [len(value) for value in identity.values()]
    assert [] == [path for path in options.out.rglob("*") if ".db" in path.name]


def _other_journal(options: BatchOptions) -> BatchOptions:
    return attrs.evolve(options, journal=JournalFile(options.out.parent / "other.db"))


def _deleted_journal(options: BatchOptions) -> BatchOptions:
    for path in options.out.parent.glob("kie.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return options


def _other_machine(options: BatchOptions) -> BatchOptions:
    """Move the folder to where there is no journal yet."""
    there = options.out.parent / "machine"
    there.mkdir()
    moved = Path(shutil.move(options.out, there / "out"))
    return attrs.evolve(options, out=moved, journal=JournalFile(there / "state" / "journal.db", is_default=True))


@pytest.mark.parametrize(
    ("lose", "left"),
    [
        (_other_journal, "results"),
        (_deleted_journal, "running tasks"),
        (_other_machine, "no manifest"),
        (_other_journal, "another table"),
    ],
)
async def test_lost_journal_is_refused(
    fake: FakeKie, folder: Path, lose: Callable[[BatchOptions], BatchOptions], left: str
) -> None:
    """Nothing is sent, and no journal is made; with --start-over, all is paid again."""
    options = make_options(write_table(folder, 2))
    await first_run(fake, options, left, count=2)
    lost = await anyio.to_thread.run_sync(lose, options)
    if left == "another table":  # the journal exists, and is that of another table
        await run_to_end(fake, attrs.evolve(lost, out=folder / "elsewhere", budget=0.0))
    existed = await anyio.Path(str(lost.journal)).exists()
    with pytest.raises(ConfigurationError) as raised:
        await run_to_end(fake, lost)

    assert 2 == len(fake.truth.create_requests)
    assert [True] * 4 == [
        word in str(raised.value) for word in (str(lost.journal), "--journal", "--start-over", "Nothing was sent")
    ]
    assert existed is await anyio.Path(str(lost.journal)).exists()
    code, _ = await run_to_end(fake, attrs.evolve(lost, start_over=True))
    again, _ = await run_to_end(fake, lost)
    assert (ExitCode.DONE, ExitCode.DONE, 4) == (code, again, len(fake.truth.tasks))
    assert ["done"] * 2 == row_states(lost)


async def test_declined_new_start_changes_nothing(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 2))
    await run_to_end(fake, options)
    before = {path.name: path.read_bytes() for path in options.out.iterdir() if path.is_file()}
    code, streams = await run_to_end(fake, attrs.evolve(options, start_over=True, ask=lambda: False))

    assert ExitCode.INTERRUPTED == code
    assert "about 80 credits" in streams.err
    assert before == {path.name: path.read_bytes() for path in options.out.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "no object", "another", "deep", "old version", "page and files"]
)
async def test_folder_without_identity_is_refused(fake: FakeKie, folder: Path, damage: str) -> None:
    """With results, and without what leads to their jobs, they might be paid twice."""
    options = make_options(write_table(folder, 2))
    await run_to_end(fake, options)
    path = options.out / IDENTITY
    texts = {"empty": "", "no object": "[]", "another": '{"table": "x"}', "deep": "[" * 100_000}
    if damage in texts:
        path.write_text(texts[damage])
    else:
        path.unlink()
    if damage == "old version":
        (options.out / MANIFEST).unlink()
        (options.out / "journal.db").write_bytes(b"SQLite")
    if damage == "page and files":
        (options.out / MANIFEST).write_text("")
    with pytest.raises(ConfigurationError, match="--start-over"):
        await run_to_end(fake, options)

    assert 2 == len(fake.truth.create_requests)
    await run_to_end(fake, attrs.evolve(options, start_over=True))
    assert 4 == len(fake.truth.tasks)


async def test_forgotten_rows_are_not_paid_again(fake: FakeKie, folder: Path) -> None:
    """The manifest keeps them; a new row is sent."""
    options = make_options(write_table(folder, 3, key="k{n}"))
    await run_to_end(fake, options)
    before = read_manifest(options)
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=str(options.journal)) as kie:
        assert 3 == await kie.forget(before=1e12)
    write_table(folder, 4, key="k{n}")
    code, streams = await run_to_end(fake, options)

    assert (ExitCode.DONE, 4) == (code, len(fake.truth.tasks))
    assert "The journal has forgotten 3 shots: nothing is sent for them" in streams.err
    assert list(before) == list(read_manifest(options))[:3]


async def test_folder_taken_in_the_meantime_is_refused(fake: FakeKie, folder: Path) -> None:
    """Two first runs in one new folder would be two orders; the second one begins while the first one asks."""
    options = make_options(write_table(folder, 1))

    class TakenPath(type(options.out)):  # type: ignore[misc]  # the class of the platform's paths
        """A folder in which another run begins as soon as this one makes it."""

        def mkdir(self, *arguments: object, **options: object) -> None:
            Path(self).mkdir(*arguments, **options)  # type: ignore[arg-type]
            FolderIdentity(journal="", origin=fake.url).write(Path(self))

    with pytest.raises(ConfigurationError, match="Another run has used"):
        await run_to_end(fake, attrs.evolve(options, out=TakenPath(options.out)))

    assert [] == fake.truth.create_requests


def test_default_journal_is_that_of_the_command_line(folder: Path) -> None:
    """One for each service; --journal and KIE_JOURNAL select another one."""
    table = write_table(folder, 1)
    state = folder / "state"
    common = {"KIE_API_KEY": "k", "KIE_BASE_URL": "http://127.0.0.1:9", "XDG_STATE_HOME": str(state)}
    command = ("batch", str(table), "--yes", "--stop-after", "0", "--out")
    run_cli(*command, str(folder / "a"), **common)
    run_cli(*command, str(folder / "b"), "--journal", str(folder / "b.db"), **common)
    run_cli(*command, str(folder / "c"), KIE_JOURNAL=str(folder / "c.db"), **common)

    assert (state / "kie-async" / "journal-127.0.0.1_9.db").is_file()
    assert [True, True] == [(folder / name).is_file() for name in ("b.db", "c.db")]
    assert f"--journal {folder / 'b.db'}" in (folder / "b" / PAGE).read_text()
    assert ["--journal" in (folder / name / PAGE).read_text() for name in ("a", "c")] == [False, False]
