"""The command ``batch``, in this process, on virtual time, against the fake."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Sized
from pathlib import Path

import anyio
import anyio.to_thread
import attrs
import pytest

from kie_async import AuthenticationError, ConfigurationError, InsufficientCreditsError, KieClient
from kie_async.cli.batch.command import run_batch
from kie_async.cli.batch.folder import JOURNAL, PAGE
from kie_async.cli.batch.folder import MANIFEST as NAME
from kie_async.cli.batch.manifest import Manifest
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie, Fault, Truth
from tests.cli.batch.bad_rows import BAD_ROWS, prepare
from tests.cli.helpers import CAT, Streams, invoke


@pytest.fixture
async def fake() -> AsyncIterator[FakeKie]:
    """A service that makes a clip in twenty seconds."""
    async with FakeKie(duration=20.0) as fake:
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures."""
    for name in ("cat.jpg", "city.jpg"):
        shutil.copy(CAT.with_name(name), tmp_path / name)
    return tmp_path


def table(folder: Path, count: int, **columns: str) -> Path:
    """A table of so many shots of two pictures; a column may name the number of the row."""
    path = folder / "shots.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "prompt", "resolution", *columns])
        writer.writeheader()
        for n in range(count):
            row = {"image": ("cat.jpg", "city.jpg")[n % 2], "prompt": f"Shot {n}", "resolution": "480p"}
            writer.writerow({**row, **{name: text.format(n=n) for name, text in columns.items()}})
    return path


def order(table: Path, **options: object) -> BatchOptions:
    """What is to be made of a table, in a folder beside it."""
    return BatchOptions(table=table, out=table.parent / "out", **options)  # type: ignore[arg-type]  # its fields, by name


async def run(fake: FakeKie, order: BatchOptions, *, as_json: bool = False) -> tuple[ExitCode, Streams]:
    """The command to its end."""
    streams = Streams(fake, as_json=as_json)
    return await run_batch(streams.session, order), streams


def manifest(order: BatchOptions) -> Sequence[Mapping[str, object]]:
    """The manifest of a folder."""
    return [json.loads(line) for line in (order.out / NAME).read_text().splitlines()]


def states(order: BatchOptions) -> Sequence[object]:
    """What became of each row."""
    return [line["state"] for line in manifest(order)]


async def test_a_table_becomes_files_a_manifest_and_a_page(fake: FakeKie, folder: Path) -> None:
    """All of the allowed rate; each file is what the manifest says; images are there once, and were uploaded once."""
    mine = order(table(folder, 50, key="shot {n}"))
    code, streams = await run(fake, mine)
    lines = manifest(mine)

    assert ExitCode.DONE == code
    assert [(f"shot {n}", n + 2, "done", 40.0, 20.0) for n in range(50)] == [
        (line["key"], line["line"], line["state"], line["credits"], line["seconds"]) for line in lines
    ]
    assert [line["sha256"] for line in lines] == [
        hashlib.sha256((mine.out / str(line["file"])).read_bytes()).hexdigest() for line in lines
    ]
    assert {line["task_id"] for line in lines} == set(fake.truth.tasks)
    assert (2, 2) == (len(list((mine.out / "inputs").iterdir())), len(fake.truth.uploads))
    assert "shot%202.mp4" in (mine.out / "index.html").read_text()
    assert f"{mine.out / 'index.html'}\n" == streams.out
    assert (20, 0) == (fake.truth.busiest_window(), len(fake.truth.rate_limited))


async def test_the_same_command_again_pays_nothing_and_changes_nothing(fake: FakeKie, folder: Path) -> None:
    mine = order(table(folder, 5))
    await run(fake, mine)
    before = (mine.out / NAME).read_bytes()
    code, streams = await run(fake, mine)

    assert (ExitCode.DONE, 5) == (code, len(fake.truth.tasks))
    assert before == (mine.out / NAME).read_bytes()
    assert "5 of them done already" in streams.err
    assert "5 replayed" in streams.err
    assert "5/5" not in streams.err, "what was told is not told again"


async def test_rows_may_come_and_go_between_runs(fake: FakeKie, folder: Path) -> None:
    """What was made stays made, wherever its row stands now; what is gone from the table is still in the manifest."""
    mine = order(table(folder, 4))
    await run(fake, mine)
    lines = mine.table.read_text().splitlines()
    mine.table.write_text("\n".join([lines[0], "cat.jpg,A new one,480p", lines[4], lines[1]]))
    code, streams = await run(fake, mine)

    assert (ExitCode.DONE, 5) == (code, len(fake.truth.tasks))
    assert ["done"] * 5 == states(mine)
    assert "3 shots, 2 of them done already." in streams.err
    assert "about 40 credits" in streams.err
    assert "3 shots and 2 that are no longer in the table" in (mine.out / PAGE).read_text()


async def test_a_manifest_that_was_cut_is_whole_again_after_the_next_start(fake: FakeKie, folder: Path) -> None:
    """By a power cut, or by somebody; the journal knows what was paid."""
    mine = order(table(folder, 5))
    await run(fake, mine)
    whole = (mine.out / NAME).read_bytes()
    (mine.out / NAME).write_bytes(whole[: len(whole) // 2])
    code, _ = await run(fake, mine)

    assert (ExitCode.DONE, 5, whole) == (code, len(fake.truth.tasks), (mine.out / NAME).read_bytes())
    await anyio.to_thread.run_sync((mine.out / NAME).unlink)
    _, streams = await run(fake, mine)
    assert "5 shots, 5 of them done already." in streams.err
    assert "No remaining shot costs anything." in streams.err
    assert whole == (mine.out / NAME).read_bytes()


async def test_a_key_with_another_content_than_before_is_told_before_anything_is_sent(
    fake: FakeKie, folder: Path
) -> None:
    """Its result stays in the manifest; a row that was never sent may be changed."""
    mine = order(table(folder, 3, key="k{n}"), budget=90.0)
    await run(fake, mine)
    before = (mine.out / NAME).read_bytes()
    text = mine.table.read_text()
    mine.table.write_text(text.replace("Shot 0", "Something else").replace("Shot 2", "A better one"))
    code, streams = await run(fake, mine)

    assert (ExitCode.USAGE, 2, before) == (code, len(fake.truth.create_requests), (mine.out / NAME).read_bytes())
    assert f"error: {mine.table}:2: key: got 'k0' with another content than before; allowed: what" in streams.err
    assert "1 problem in" in streams.err
    mine.table.write_text(text.replace("Shot 2", "A better one"))
    code, _ = await run(fake, attrs.evolve(mine, budget=None))
    assert (ExitCode.DONE, ["done"] * 3, 3) == (code, states(mine), len(fake.truth.create_requests))


async def test_what_is_left_to_pay_is_the_sum_of_the_rows_that_are_left(fake: FakeKie, folder: Path) -> None:
    """A row that has failed costs nothing, unless it is to be made again; where prices come from is said once."""
    rows = ["cheap,cat.jpg,Go,480p", "dear,cat.jpg,Go,720p", "dearer,city.jpg,Go,720p", "bad,city.jpg,Go,480p"]
    mine = order(folder / "shots.csv", budget=2500.0)
    mine.table.write_text("\n".join(["key,image,prompt,resolution", *rows[:3]]))
    await run(fake, mine)
    fake.fail_rate = 1.0
    mine.table.write_text("\n".join(["key,image,prompt,resolution", *rows]))
    await run(fake, mine)
    fake.fail_rate = 0.0
    _, nothing = await run(fake, mine)
    new = ["new,cat.jpg,Stop,720p", "newer,cat.jpg,Stop,480p", "newest,city.jpg,Stop,480p"]
    mine.table.write_text("\n".join(["key,image,prompt,resolution", *rows, *new]))
    _, some = await run(fake, mine)

    assert "4 shots, 3 of them done already." in nothing.err
    assert "No remaining shot costs anything." in nothing.err
    assert "7 shots, 3 of them done already." in some.err
    assert "about 160 credits (the highest of the last such tasks in the journal); the service" in some.err
    assert "The budget is 2,500 credits" in some.err


async def test_nothing_is_sent_where_a_row_is_wrong(fake: FakeKie, folder: Path) -> None:
    """All of it is told, and not even a folder is made."""
    mine = order(table(folder, 3, seed="x{n}"))
    code, streams = await run(fake, mine)

    assert (ExitCode.USAGE, False) == (code, mine.out.exists())
    assert [f"error: {mine.table}:{n + 2}: seed: got 'x{n}'" in streams.err for n in range(3)] == [True] * 3
    assert "3 problems in" in streams.err
    assert ([], [], []) == (fake.truth.create_requests, fake.truth.uploads, fake.truth.queries)


async def test_a_table_with_thirty_kinds_of_bad_rows_names_every_one_and_sends_nothing(
    fake: FakeKie, folder: Path
) -> None:
    """In one pass, whatever stands before and after a bad row; of the good row among them nothing is said."""
    await anyio.to_thread.run_sync(prepare, folder)
    kinds = [bad for bad in BAD_ROWS if bad.file == "shots.csv"]
    path = folder / "shots.csv"
    header, good, _, _ = kinds[0].between_good_ones().split(b"\n", 3)
    path.write_bytes(b"\n".join([header, good, *(bad.raw.rstrip(b"\r\n") for bad in kinds)]))
    code, streams = await run(fake, order(path))
    told = [line for line in streams.err.splitlines() if line.startswith("error: ")]

    assert (ExitCode.USAGE, len(kinds)) == (code, len(told))
    assert 30 <= len(kinds)
    line = 3
    for bad, text in zip(kinds, told, strict=True):
        assert text.startswith(f"error: {path}:{line}: {bad.column}: got ")
        assert bad.value in text.partition("; allowed: ")[0]
        assert bad.allowed in text.partition("; allowed: ")[2]
        line += 1 + bad.raw.rstrip(b"\r\n").count(b"\n")
    assert ([], [], []) == (fake.truth.create_requests, fake.truth.uploads, fake.truth.queries)


@pytest.mark.parametrize("agreed", [True, False])
async def test_it_asks_before_anything_is_spent(fake: FakeKie, folder: Path, agreed: bool) -> None:  # noqa: FBT001
    """It says how many, what they will probably cost, by whose word, and what there is."""
    mine = order(table(folder, 3), ask=lambda: agreed)
    code, streams = await run(fake, mine)

    assert (ExitCode.DONE if agreed else ExitCode.INTERRUPTED, 3 * agreed) == (code, len(fake.truth.create_requests))
    assert "3 shots." in streams.err
    assert "about 120 credits (price list of kie.ai" in streams.err
    assert "the service alone sets prices" in streams.err
    assert "The account has 10,000 credits." in streams.err
    assert ("Nothing was sent." in streams.err) is not agreed


async def test_a_model_without_a_price_says_so_and_yours_counts(folder: Path) -> None:
    path = folder / "other.jsonl"
    path.write_text('{"prompt": "Go", "image_url": "https://example.com/cat.png"}\n')
    async with FakeKie(models=["other/model"], duration=20.0) as fake:
        mine = order(path, model="other/model")
        _, unknown = await run(fake, mine)
        _, known = await run(fake, BatchOptions(table=path, out=folder / "another", model="other/model", price=7.0))

    assert "The price of a shot is unknown." in unknown.err
    assert "(--price)" in known.err
    assert ["https://example.com/cat.png"] == [line["source"] for line in manifest(mine)]


async def test_a_task_that_fails_is_told_with_the_command_that_makes_it_again(fake: FakeKie, folder: Path) -> None:
    fake.fail_rate = 1.0
    mine = order(table(folder, 2), budget=5000.0)
    code, streams = await run(fake, mine)
    fake.fail_rate = 0.0
    again, _ = await run(fake, order(mine.table, budget=5000.0, retry_failed=1))

    assert (ExitCode.FAILED, ExitCode.DONE) == (code, again)
    assert 2 == streams.err.count(": failed: ")
    assert ["done"] * 2 == states(mine)
    assert 4 == len(fake.truth.tasks)


async def test_a_failure_that_is_worth_it_names_the_command(folder: Path) -> None:
    async with FakeKie(
        duration=5.0, failures=[("500", "Internal Error, Please try again later")], fail_rate=1.0
    ) as fake:
        mine = order(table(folder, 1))
        await run(fake, mine)
    [line] = manifest(mine)

    assert f"kie-async batch {mine.table} --out {mine.out} --retry-failed 1" == line["command"]
    assert "Internal Error" in str(line["reason"])


async def test_what_is_in_doubt_is_never_sent_again_and_comes_home_when_it_is_settled(
    fake: FakeKie, folder: Path
) -> None:
    fake.inject(Fault("create", "reset", after=True, nth=2))
    mine = order(table(folder, 3))
    code, streams = await run(fake, mine)
    again, _ = await run(fake, mine)
    doubtful = [line for line in manifest(mine) if line["state"] == "in_doubt"]

    assert (ExitCode.IN_DOUBT, ExitCode.IN_DOUBT) == (code, again)
    assert (3, 1) == (len(fake.truth.tasks), len(doubtful))
    assert doubtful[0]["created_at"] is None, "our own clock's time is no create of the service's"
    job_id = doubtful[0]["job_id"]
    assert f"kie-async resolve --journal {mine.out / JOURNAL} {job_id} TASKID" == doubtful[0]["command"]
    assert str(doubtful[0]["command"]) in streams.err
    [task_id] = set(fake.truth.tasks) - {line["task_id"] for line in manifest(mine)}
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=mine.out / JOURNAL) as kie:
        await kie.job(str(job_id)).resolve(task_id)
    settled, _ = await run(fake, mine)
    assert (ExitCode.DONE, ["done"] * 3, 3) == (settled, states(mine), len(fake.truth.tasks))


async def test_the_budget_is_kept_and_a_larger_one_goes_on(fake: FakeKie, folder: Path) -> None:
    mine = order(table(folder, 10), budget=130.0)
    code, _ = await run(fake, mine)
    skipped = [line["command"] for line in manifest(mine) if line["state"] == "skipped"]
    page = (mine.out / "index.html").read_text()
    more, _ = await run(fake, order(mine.table, budget=400.0))

    assert (ExitCode.FAILED, ExitCode.DONE) == (code, more), "repeating it would help nothing"
    assert [f"kie-async batch {mine.table} --out {mine.out} --budget CREDITS"] * 7 == skipped
    assert "--budget 130" not in page, "the same command would find no more room"
    assert ["done"] * 10 == states(mine)


async def test_rows_above_those_that_were_paid_get_no_budget_of_their_own(fake: FakeKie, folder: Path) -> None:
    """The journal alone knows what the first run has paid: it was killed before it could write the manifest."""
    rows = table(folder, 10, key="shot {n}").read_text().splitlines(keepends=True)
    (folder / "shots.csv").write_text("".join([rows[0], *rows[6:]]))
    mine = order(folder / "shots.csv", budget=130.0)
    await run(fake, mine)
    (mine.out / NAME).unlink()
    (folder / "shots.csv").write_text("".join(rows))
    code, _ = await run(fake, mine)

    assert ExitCode.FAILED == code
    assert 3 == len(fake.truth.created)
    assert {"done": 3, "skipped": 7} == Counter(states(mine))


async def test_after_the_deadline_nothing_more_is_sent(fake: FakeKie, folder: Path) -> None:
    mine = order(table(folder, 45), stop_after=15.0)
    code, _ = await run(fake, mine)

    assert (ExitCode.RETRY_LATER, 40) == (code, len(fake.truth.create_requests))
    assert (40, 5) == (states(mine).count("done"), states(mine).count("skipped"))


async def test_an_empty_account_ends_it_and_the_same_command_goes_on(fake: FakeKie, folder: Path) -> None:
    """What ran has ended and is written down; the error says what to do."""
    fake.inject(Fault("create", "code", code=402, nth=4))
    mine = order(table(folder, 10))
    with pytest.raises(InsufficientCreditsError):
        await run(fake, mine)
    before = states(mine)
    page = (mine.out / "index.html").read_text()
    code, _ = await run(fake, mine)

    assert (ExitCode.DONE, ["done"] * 10, 10) == (code, states(mine), len(fake.truth.tasks))
    assert {"done"} == set(before)
    assert "Resume with this command" in page


async def test_a_key_that_is_no_good_is_told_before_anything_is_asked(folder: Path) -> None:
    mine = order(table(folder, 1), ask=lambda: pytest.fail("asked"))
    async with FakeKie(api_keys=["another"]) as fake:
        ended = Streams(fake)
        with pytest.raises(AuthenticationError):
            await run_batch(ended.session, mine)

    assert [] == fake.truth.create_requests


async def test_the_first_signal_leaves_what_runs_to_the_service(fake: FakeKie, folder: Path) -> None:
    """Nothing is on the wire, so it is left at once; manifest and page have all that was sent."""
    mine = order(table(folder, 30))
    code, streams, took = await interrupted(fake, mine, after=lambda truth: truth.tasks, count=20)

    assert (ExitCode.INTERRUPTED, 20, ["running"] * 20) == (code, len(fake.truth.tasks), states(mine))
    assert [None] * 20 == [line["created_at"] for line in manifest(mine)], "the service has not said"
    assert took <= 0.2
    assert "The run was stopped." in (mine.out / PAGE).read_text()
    assert 1 == streams.err.count(f"To resume: {mine.resume_commands().same}")
    code, _ = await run(fake, mine)
    assert (ExitCode.DONE, 30, ["done"] * 30) == (code, len(fake.truth.tasks), states(mine))


async def test_the_first_signal_waits_for_a_create_on_the_wire(fake: FakeKie, folder: Path) -> None:
    """So that its task is known."""
    fake.inject(Fault("create", "slow", after=True, seconds=4.0, nth=20))
    mine = order(table(folder, 30))
    _, _, took = await interrupted(fake, mine, after=lambda truth: truth.tasks, count=20)

    assert 3.0 < took < 4.0, "as long as it takes, and no longer"
    assert {str(line["task_id"]) for line in manifest(mine)} == set(fake.truth.tasks)


async def test_a_create_without_an_answer_holds_nobody_longer_than_the_drain(fake: FakeKie, folder: Path) -> None:
    """It is in doubt then, and told so."""
    fake.inject(Fault("create", "silence", after=True, nth=20))
    mine = order(table(folder, 30))
    code, _, took = await interrupted(fake, mine, after=lambda truth: truth.tasks, count=20)

    assert ExitCode.INTERRUPTED == code
    assert 4.9 < took < 5.5
    assert (19, 1) == (states(mine).count("running"), states(mine).count("in_doubt"))


async def test_the_first_signal_waits_for_what_is_being_saved_but_not_for_ever(fake: FakeKie, folder: Path) -> None:
    fake.inject(
        Fault("download", "slow", after=True, seconds=3.0, nth=1),
        Fault("download", "slow", after=True, seconds=60.0, nth=2),
    )
    mine = order(table(folder, 2))
    _, _, took = await interrupted(fake, mine, after=lambda truth: truth.downloads, count=2)

    assert 4.9 < took < 5.5
    assert ["done", "running"] == sorted(map(str, states(mine)))
    assert ["not fetched yet" in str(line["reason"]) for line in manifest(mine) if line["state"] == "running"] == [True]
    code, _ = await run(fake, mine)
    assert (ExitCode.DONE, ["done"] * 2, 2) == (code, states(mine), len(fake.truth.tasks))


async def test_the_second_signal_leaves_at_once(fake: FakeKie, folder: Path) -> None:
    """The journal has what the manifest has no time for; the same command goes on with it."""
    fake.inject(Fault("download", "slow", after=True, seconds=60.0, nth=range(1, 21)))
    mine = order(table(folder, 20))
    code, streams, took = await interrupted(fake, mine, after=lambda truth: truth.downloads, count=8, times=2)

    assert (ExitCode.INTERRUPTED, []) == (code, states(mine))
    assert took <= 0.2
    assert "The run had not ended when this page was written" in (mine.out / PAGE).read_text()
    assert 1 == streams.err.count(f"To resume: {mine.resume_commands().same}")
    code, _ = await run(fake, mine)
    assert (ExitCode.DONE, 20, ["done"] * 20) == (code, len(fake.truth.tasks), states(mine))


async def interrupted(
    fake: FakeKie, order: BatchOptions, *, after: Callable[[Truth], Sized], count: int = 1, times: int = 1
) -> tuple[ExitCode, Streams, float]:
    """The command, stopped once there are so many of something; and how long it took to end after the last signal."""
    streams = Streams(fake)
    codes: list[ExitCode] = []
    stopped_at = ended_at = 0.0

    async def work() -> None:
        nonlocal ended_at
        codes.append(await run_batch(streams.session, order))
        ended_at = anyio.current_time()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        while len(after(fake.truth)) < count:
            await anyio.sleep(0.1)
        for _ in range(times):
            await anyio.sleep(0.5)
            stopped_at = anyio.current_time()
            signal.raise_signal(signal.SIGINT)
    return codes[0], streams, ended_at - stopped_at


async def test_the_page_is_there_from_the_beginning_and_keeps_up(folder: Path) -> None:
    """Whoever looks while it works, or after kill -9, sees what has ended, and what goes on with it."""
    mine = order(table(folder, 100))
    pages: list[str] = []

    async def poll() -> None:
        for _ in range(3):
            await anyio.sleep(12.0)
            pages.append(await anyio.Path(mine.out / PAGE).read_text())

    async with anyio.create_task_group() as group:
        group.start_soon(poll)
        async with FakeKie(duration=3.0) as fake:
            await run(fake, mine)
    shown = [page.count('<li class="card s-done"') for page in pages]

    assert 0 < shown[0] < shown[1] < shown[2] < 100
    assert ["Pending" in page for page in pages] == [True] * 3
    assert [html.escape(mine.resume_commands().same) in page for page in pages] == [True] * 3
    last = (mine.out / PAGE).read_text()
    assert (100, False) == (last.count('<li class="card s-done"'), "had not ended" in last)


async def test_a_page_that_cannot_be_written_is_told_before_anything_is_sent(fake: FakeKie, folder: Path) -> None:
    mine = order(table(folder, 1))
    (mine.out / PAGE).mkdir(parents=True)
    (mine.out / NAME).touch()
    with pytest.raises(OSError, match="directory"):
        await run(fake, mine)

    assert [] == fake.truth.create_requests


async def test_lines_in_a_pipe_are_one_a_row(fake: FakeKie, folder: Path) -> None:
    """Plain, and one a change of state at most."""
    _, streams = await run(fake, order(table(folder, 30, key="k{n}")))
    told = [line for line in streams.err.splitlines() if ": done" in line]

    assert sorted(f"k{n}" for n in range(30)) == sorted(line.split()[3].rstrip(":") for line in told)
    assert "\x1b" not in streams.err
    assert len(streams.err.splitlines()) <= 30 + 5


async def test_json_is_the_lines_of_the_manifest(fake: FakeKie, folder: Path) -> None:
    mine = order(table(folder, 3))
    _, streams = await run(fake, mine, as_json=True)
    told = sorted((json.loads(line) for line in streams.out.splitlines()), key=lambda line: int(line["line"]))

    assert told == list(manifest(mine))


async def test_what_is_paid_and_runs_is_no_part_of_what_is_left_to_pay(fake: FakeKie, folder: Path) -> None:
    """Whether the manifest has it, or the journal alone, as after kill -9; rows that the table lost are told of."""
    mine = order(table(folder, 30, key="k{n}"))
    await interrupted(fake, mine, after=lambda truth: truth.tasks, count=20)
    _, told = await run(fake, attrs.evolve(mine, ask=lambda: False))
    await anyio.to_thread.run_sync((mine.out / NAME).unlink)
    _, still = await run(fake, attrs.evolve(mine, ask=lambda: False))
    lines = mine.table.read_text().splitlines()
    mine.table.write_text("\n".join([lines[0], *lines[3:]]))
    _, fewer = await run(fake, attrs.evolve(mine, ask=lambda: False))

    for streams in (told, still):
        assert "30 shots, 20 of them running at the service." in streams.err
        assert "about 400 credits" in streams.err
    assert "28 shots, 18 of them running" in fewer.err
    assert f"2 jobs of rows that are no longer in the table: kie-async recover --journal {mine.out}" in fewer.err


@pytest.mark.parametrize("name", ["index.html", "k0.mp4"])
async def test_a_folder_of_somebody_elses_is_left_as_it_is(fake: FakeKie, folder: Path, name: str) -> None:
    mine = order(table(folder, 1, key="k{n}"))
    mine.out.mkdir()
    (mine.out / name).write_text("somebody's own")
    with pytest.raises(ConfigurationError, match="batch has not made it"):
        await run(fake, mine)

    assert [(name, "somebody's own")] == [(path.name, path.read_text()) for path in mine.out.iterdir()]
    assert [] == fake.truth.create_requests


@pytest.mark.parametrize(("out", "said"), [("shots.csv", "is a file"), ("shots.csv/out", "is not usable")])
async def test_a_folder_that_cannot_be_is_told_before_anything_is_sent(
    fake: FakeKie, folder: Path, out: str, said: str
) -> None:
    mine = attrs.evolve(order(table(folder, 1)), out=folder / out)
    with pytest.raises(ConfigurationError, match=said):
        await run(fake, mine)

    assert [] == fake.truth.create_requests


async def test_a_refusal_is_told_once_however_often_it_comes(fake: FakeKie, folder: Path) -> None:
    fake.inject(Fault("create", "code", code=429, nth=1), Fault("create", "code", code=429, nth=3))
    code, streams = await run(fake, order(table(folder, 5)))

    assert (ExitCode.DONE, 1) == (code, streams.err.count("(429)"))


async def test_two_of_them_do_not_work_in_one_folder(fake: FakeKie, folder: Path) -> None:
    mine = order(table(folder, 1))
    mine.out.mkdir()
    other = await anyio.to_thread.run_sync(Manifest, mine.out)
    with other, pytest.raises(ConfigurationError, match="Another kie-async batch"):
        await run(fake, mine)

    assert [] == fake.truth.create_requests


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "resolution"], "--set: got 'resolution'; allowed: COLUMN=VALUE"),
        (["--set", "=480p"], "--set: got ''"),
        (["--set", "key=a"], "--set: got 'key'; allowed: another column"),
        (["--rate", "fast"], "--rate: got 'fast'; allowed: N/SECONDS, such as 20/10"),
        (["--rate", "0/10"], "Invalid Limits(creates=0): expected an integer >= 1"),
        (["--budget", "-1"], "budget"),
        ([], "Standard input is not a terminal"),
    ],
)
def test_options_that_make_no_sense_are_told_before_it_begins(options: Sequence[str], said: str, folder: Path) -> None:
    path = table(folder, 1)
    ended = invoke(
        "batch", str(path), "--out", str(folder / "out"), *options, KIE_API_KEY="k", KIE_BASE_URL="http://127.0.0.1:9"
    )

    assert (2, 1) == (ended.code, ended.err.count(said))


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    ended = invoke("batch", "no.csv", "--out", str(tmp_path / "out"), "--yes", KIE_API_KEY="k")

    assert 2 == ended.code
    assert "error: The table no.csv cannot be read: there is no such file or folder. Nothing was sent" in ended.err


async def test_nothing_in_the_folder_tells_a_secret(fake: FakeKie, folder: Path) -> None:
    """Neither the key, nor what signs a URL; whoever is sent the folder sees where an image was, and no more."""
    path = folder / "shots.jsonl"
    signed = "https://bucket.example/cat.png?X-Signature=s3cret#s3cret"
    path.write_text(json.dumps({"image": signed, "prompt": "Go"}) + "\n")
    mine = order(path)
    _, streams = await run(fake, mine, as_json=True)
    told = [streams.out, streams.err, *(file.read_text() for file in (mine.out / NAME, mine.out / PAGE))]

    assert [] == [text for text in told if "s3cret" in text]
    assert ["https://bucket.example/cat.png"] == [line["source"] for line in manifest(mine)]
    assert [] == [file for file in mine.out.iterdir() if file.is_file() and b"key-for-the-fake" in file.read_bytes()]


async def test_what_the_service_says_is_shown_and_not_obeyed(folder: Path) -> None:
    """One line for a row, whatever is in it."""
    async with FakeKie(duration=5.0, failures=[("500", "\x1b[2J\nall is \u202enwod")], fail_rate=1.0) as fake:
        _, streams = await run(fake, order(table(folder, 2, key="k{n}")))
    told = [line for line in streams.err.splitlines() if ": failed: " in line]

    assert 2 == len(told)
    assert "\x1b" not in streams.err
    assert "\u202e" not in streams.err
    assert "\\x1b[2J all is \\u202enwod" in told[0]


async def test_the_journal_in_the_folder_is_what_other_commands_find(fake: FakeKie, folder: Path) -> None:
    mine = order(table(folder, 1, key="mine"))
    await run(fake, mine)
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=mine.out / JOURNAL) as kie:
        [job] = await kie.jobs()

    assert ("mine", "succeeded") == (job.key, job.state)
