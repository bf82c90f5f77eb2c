"""The command ``batch``, in this process, on virtual time, against the fake."""

from __future__ import annotations

import hashlib
import html
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import attrs
import pytest

from kie_async import AuthenticationError, ConfigurationError, InsufficientCreditsError, KieClient, Limits
from kie_async.cli.batch.folder import MANIFEST, PAGE
from kie_async.cli.batch.manifest import Manifest
from kie_async.cli.batch.whole_run import run_batch
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie, Fault
from tests.cli.batch.bad_rows import BAD_ROWS, prepare
from tests.cli.batch.helpers import make_options, read_manifest, row_states, run_to_end, run_with_signals, write_table
from tests.cli.helpers import CapturedSession, run_cli


async def test_run_writes_files_manifest_and_page(fake: FakeKie, folder: Path) -> None:
    """The rate limit is used up, files match the manifest, and each image is copied and uploaded once."""
    options = make_options(write_table(folder, 50, key="shot {n}"))
    code, streams = await run_to_end(fake, options)
    lines = read_manifest(options)

    assert ExitCode.DONE == code
    assert [(f"shot {n}", n + 2, "done", 40.0, 20.0) for n in range(50)] == [
        (line["key"], line["line"], line["state"], line["credits"], line["seconds"]) for line in lines
    ]
    assert [line["sha256"] for line in lines] == [
        hashlib.sha256((options.out / str(line["file"])).read_bytes()).hexdigest() for line in lines
    ]
    assert {line["task_id"] for line in lines} == set(fake.truth.tasks)
    assert (2, 2) == (len(list((options.out / "inputs").iterdir())), len(fake.truth.uploads))
    assert "shot%202.mp4" in (options.out / "index.html").read_text()
    assert f"{options.out / 'index.html'}\n" == streams.out
    assert (20, 0) == (fake.truth.busiest_window(), len(fake.truth.rate_limited))


async def test_repeated_command_pays_nothing(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 5))
    await run_to_end(fake, options)
    before = (options.out / MANIFEST).read_bytes()
    code, streams = await run_to_end(fake, options)

    assert (ExitCode.DONE, 5) == (code, len(fake.truth.tasks))
    assert before == (options.out / MANIFEST).read_bytes()
    assert "5 of them done already" in streams.err
    assert "5 replayed" in streams.err
    assert "5/5" not in streams.err, "replayed outcomes are not printed again"


async def test_rows_may_change_between_runs(fake: FakeKie, folder: Path) -> None:
    """Finished rows are not repeated when they move; the manifest keeps rows that were removed."""
    options = make_options(write_table(folder, 4))
    await run_to_end(fake, options)
    lines = options.table.read_text().splitlines()
    options.table.write_text("\n".join([lines[0], "cat.jpg,A new one,480p", lines[4], lines[1]]))
    code, streams = await run_to_end(fake, options)

    assert (ExitCode.DONE, 5) == (code, len(fake.truth.tasks))
    assert ["done"] * 5 == row_states(options)
    assert "3 shots, 2 of them done already." in streams.err
    assert "about 40 credits" in streams.err
    assert "3 shots and 2 that are no longer in the table" in (options.out / PAGE).read_text()


async def test_truncated_manifest_is_repaired(fake: FakeKie, folder: Path) -> None:
    """The journal knows what was paid."""
    options = make_options(write_table(folder, 5))
    await run_to_end(fake, options)
    whole = (options.out / MANIFEST).read_bytes()
    (options.out / MANIFEST).write_bytes(whole[: len(whole) // 2])
    code, _ = await run_to_end(fake, options)

    assert (ExitCode.DONE, 5, whole) == (code, len(fake.truth.tasks), (options.out / MANIFEST).read_bytes())
    await anyio.to_thread.run_sync((options.out / MANIFEST).unlink)
    _, streams = await run_to_end(fake, options)
    assert "5 shots, 5 of them done already." in streams.err
    assert "No remaining shot costs anything." in streams.err
    assert whole == (options.out / MANIFEST).read_bytes()


async def test_reused_key_with_other_content_sends_nothing(fake: FakeKie, folder: Path) -> None:
    """The result stays in the manifest; a row that was never sent may be changed."""
    options = make_options(write_table(folder, 3, key="k{n}"), budget=90.0)
    await run_to_end(fake, options)
    before = (options.out / MANIFEST).read_bytes()
    text = options.table.read_text()
    options.table.write_text(text.replace("Shot 0", "Something else").replace("Shot 2", "A better one"))
    code, streams = await run_to_end(fake, options)

    assert (ExitCode.USAGE, 2, before) == (code, len(fake.truth.create_requests), (options.out / MANIFEST).read_bytes())
    assert f"error: {options.table}:2: key: got 'k0' with another content than before; allowed: what" in streams.err
    assert "1 problem in" in streams.err
    options.table.write_text(text.replace("Shot 2", "A better one"))
    code, _ = await run_to_end(fake, attrs.evolve(options, budget=None))
    assert (ExitCode.DONE, ["done"] * 3, 3) == (code, row_states(options), len(fake.truth.create_requests))


async def test_estimate_counts_only_unpaid_rows(fake: FakeKie, folder: Path) -> None:
    """Failed rows cost nothing unless they are retried; each source of prices is printed once."""
    rows = ["cheap,cat.jpg,Go,480p", "dear,cat.jpg,Go,720p", "dearer,city.jpg,Go,720p", "bad,city.jpg,Go,480p"]
    options = make_options(folder / "shots.csv", budget=2500.0)
    options.table.write_text("\n".join(["key,image,prompt,resolution", *rows[:3]]))
    await run_to_end(fake, options)
    fake.fail_rate = 1.0
    options.table.write_text("\n".join(["key,image,prompt,resolution", *rows]))
    await run_to_end(fake, options)
    fake.fail_rate = 0.0
    _, nothing = await run_to_end(fake, options)
    new = ["new,cat.jpg,Stop,720p", "newer,cat.jpg,Stop,480p", "newest,city.jpg,Stop,480p"]
    options.table.write_text("\n".join(["key,image,prompt,resolution", *rows, *new]))
    _, some = await run_to_end(fake, options)

    assert "4 shots, 3 of them done already." in nothing.err
    assert "No remaining shot costs anything." in nothing.err
    assert "7 shots, 3 of them done already." in some.err
    assert "about 160 credits (the highest price of such tasks in the journal); the service" in some.err
    assert "The budget is 2,500 credits" in some.err


async def test_invalid_row_sends_nothing(fake: FakeKie, folder: Path) -> None:
    """Every problem is printed, and the output folder is not created."""
    options = make_options(write_table(folder, 3, seed="x{n}"))
    code, streams = await run_to_end(fake, options)

    assert (ExitCode.USAGE, False) == (code, options.out.exists())
    assert [f"error: {options.table}:{n + 2}: seed: got 'x{n}'" in streams.err for n in range(3)] == [True] * 3
    assert "3 problems in" in streams.err
    assert ([], [], []) == (fake.truth.create_requests, fake.truth.uploads, fake.truth.queries)


async def test_every_bad_row_is_reported_in_one_pass(fake: FakeKie, folder: Path) -> None:
    """Bad rows do not affect their neighbors, and the valid row has no problem."""
    await anyio.to_thread.run_sync(prepare, folder)
    kinds = [bad for bad in BAD_ROWS if bad.file == "shots.csv"]
    path = folder / "shots.csv"
    header, good, _, _ = kinds[0].between_good_ones().split(b"\n", 3)
    path.write_bytes(b"\n".join([header, good, *(bad.raw.rstrip(b"\r\n") for bad in kinds)]))
    code, streams = await run_to_end(fake, make_options(path))
    printed = [line for line in streams.err.splitlines() if line.startswith("error: ")]

    assert (ExitCode.USAGE, len(kinds)) == (code, len(printed))
    assert 30 <= len(kinds)
    line = 3
    for bad, text in zip(kinds, printed, strict=True):
        assert text.startswith(f"error: {path}:{line}: {bad.column}: got ")
        assert bad.value in text.partition("; allowed: ")[0]
        assert bad.allowed in text.partition("; allowed: ")[2]
        line += 1 + bad.raw.rstrip(b"\r\n").count(b"\n")
    assert ([], [], []) == (fake.truth.create_requests, fake.truth.uploads, fake.truth.queries)


@pytest.mark.parametrize("agreed", [True, False])
async def test_run_asks_before_it_spends(fake: FakeKie, folder: Path, agreed: bool) -> None:  # noqa: FBT001
    """The question follows the number of shots, the estimate with its source, and the balance."""
    options = make_options(write_table(folder, 3), ask=lambda: agreed)
    code, streams = await run_to_end(fake, options)

    assert (ExitCode.DONE if agreed else ExitCode.INTERRUPTED, 3 * agreed) == (code, len(fake.truth.create_requests))
    assert "3 shots." in streams.err
    assert "about 120 credits (price list of kie.ai" in streams.err
    assert "the service alone sets prices" in streams.err
    assert "The account has 10,000 credits." in streams.err
    assert ("Nothing was sent." in streams.err) is not agreed


async def test_unknown_price_can_be_given_by_option(folder: Path) -> None:
    path = folder / "other.jsonl"
    path.write_text('{"prompt": "Go", "image_url": "https://example.com/cat.png"}\n')
    async with FakeKie(models=["other/model"], duration=20.0) as fake:
        options = make_options(path, model="other/model")
        _, unknown = await run_to_end(fake, options)
        _, known = await run_to_end(fake, make_options(path, out=folder / "another", model="other/model", price=7.0))

    assert "The price of a shot is unknown." in unknown.err
    assert "(--price)" in known.err
    assert ["https://example.com/cat.png"] == [line["source"] for line in read_manifest(options)]


async def test_failed_tasks_are_retried_on_request(fake: FakeKie, folder: Path) -> None:
    fake.fail_rate = 1.0
    options = make_options(write_table(folder, 2), budget=5000.0)
    code, streams = await run_to_end(fake, options)
    fake.fail_rate = 0.0
    again, _ = await run_to_end(fake, make_options(options.table, budget=5000.0, retry_failed=1))

    assert (ExitCode.FAILED, ExitCode.DONE) == (code, again)
    assert 2 == streams.err.count(": failed: ")
    assert ["done"] * 2 == row_states(options)
    assert 4 == len(fake.truth.tasks)


async def test_retryable_failure_names_the_command(folder: Path) -> None:
    async with FakeKie(
        duration=5.0, failures=[("500", "Internal Error, Please try again later")], fail_rate=1.0
    ) as fake:
        options = make_options(write_table(folder, 1))
        await run_to_end(fake, options)
    [line] = read_manifest(options)

    command = f"kie-async batch {options.table} --out {options.out} --retry-failed 1{options.journal.option}"
    assert command == line["command"]
    assert "Internal Error" in str(line["reason"])


async def test_in_doubt_row_is_not_resent_and_can_be_resolved(fake: FakeKie, folder: Path) -> None:
    fake.inject(Fault("create", "reset", after=True, nth=2))
    options = make_options(write_table(folder, 3))
    code, streams = await run_to_end(fake, options)
    again, _ = await run_to_end(fake, options)
    doubtful = [line for line in read_manifest(options) if line["state"] == "in_doubt"]

    assert (ExitCode.IN_DOUBT, ExitCode.IN_DOUBT) == (code, again)
    assert (3, 1) == (len(fake.truth.tasks), len(doubtful))
    assert doubtful[0]["created_at"] is None, "the time is our own clock's, not the service's"
    job_id = doubtful[0]["job_id"]
    assert f"kie-async resolve --journal {options.journal} {job_id} TASKID" == doubtful[0]["command"]
    assert str(doubtful[0]["command"]) in streams.err
    [task_id] = set(fake.truth.tasks) - {line["task_id"] for line in read_manifest(options)}
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=str(options.journal)) as kie:
        await kie.job(str(job_id)).resolve(task_id)
    settled, _ = await run_to_end(fake, options)
    assert (ExitCode.DONE, ["done"] * 3, 3) == (settled, row_states(options), len(fake.truth.tasks))


async def test_larger_budget_sends_skipped_rows(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 10), budget=130.0)
    code, _ = await run_to_end(fake, options)
    skipped = [line["command"] for line in read_manifest(options) if line["state"] == "skipped"]
    page = (options.out / "index.html").read_text()
    more, _ = await run_to_end(fake, make_options(options.table, budget=400.0))

    assert (ExitCode.FAILED, ExitCode.DONE) == (code, more), "repeating the command does not help"
    command = f"kie-async batch {options.table} --out {options.out} --budget CREDITS{options.journal.option}"
    assert [command] * 7 == skipped
    assert "--budget 130" not in page, "the same command would find no more room"
    assert ["done"] * 10 == row_states(options)


async def test_budget_includes_what_only_the_journal_knows(fake: FakeKie, folder: Path) -> None:
    """The first run was killed before it could write the manifest."""
    rows = write_table(folder, 10, key="shot {n}").read_text().splitlines(keepends=True)
    (folder / "shots.csv").write_text("".join([rows[0], *rows[6:]]))
    options = make_options(folder / "shots.csv", budget=130.0)
    await run_to_end(fake, options)
    (options.out / MANIFEST).unlink()
    (folder / "shots.csv").write_text("".join(rows))
    code, _ = await run_to_end(fake, options)

    assert ExitCode.FAILED == code
    assert 3 == len(fake.truth.created)
    assert {"done": 3, "skipped": 7} == Counter(row_states(options))


async def test_stop_after_ends_submission(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 45), stop_after=15.0)
    code, _ = await run_to_end(fake, options)

    assert (ExitCode.RETRY_LATER, 40) == (code, len(fake.truth.create_requests))
    assert (40, 5) == (row_states(options).count("done"), row_states(options).count("skipped"))


async def test_empty_account_ends_the_run_resumably(fake: FakeKie, folder: Path) -> None:
    """Running tasks have ended and are recorded; the error says what to do."""
    fake.inject(Fault("create", "code", code=402, nth=4))
    options = make_options(write_table(folder, 10))
    with pytest.raises(InsufficientCreditsError):
        await run_to_end(fake, options)
    before = row_states(options)
    page = (options.out / "index.html").read_text()
    code, _ = await run_to_end(fake, options)

    assert (ExitCode.DONE, ["done"] * 10, 10) == (code, row_states(options), len(fake.truth.tasks))
    assert {"done"} == set(before)
    assert "Resume with this command" in page


async def test_invalid_api_key_raises_before_the_question(folder: Path) -> None:
    options = make_options(write_table(folder, 1), ask=lambda: pytest.fail("asked"))
    async with FakeKie(api_keys=["another"]) as fake:
        ended = CapturedSession(fake)
        with pytest.raises(AuthenticationError):
            await run_batch(ended.session, options)

    assert [] == fake.truth.create_requests


async def test_page_is_rewritten_during_the_run(folder: Path) -> None:
    """
    The page shows finished rows and the resume command during a run, and so after ``kill -9``.

    The run takes far longer than any interval between two pages, which depends on the CPU time of a page.
    """
    options = make_options(write_table(folder, 20), limits=Limits(creates=1, window=10.0))
    pages: dict[int, str] = {}

    async def poll() -> None:
        while True:
            await anyio.sleep(5.0)
            page = await anyio.Path(options.out / PAGE).read_text()
            pages.setdefault(page.count('<li class="card s-done"'), page)

    async with FakeKie(duration=3.0) as fake, anyio.create_task_group() as group:
        group.start_soon(poll)
        await run_to_end(fake, options)
        group.cancel_scope.cancel()
    running = [pages[done] for done in pages if 0 < done < 20]

    assert len(running) >= 3
    assert sorted(pages) == list(pages)
    assert ["Pending" in page for page in running] == [True] * len(running)
    assert [html.escape(options.resume_command()) in page for page in running] == [True] * len(running)
    last = (options.out / PAGE).read_text()
    assert (20, False) == (last.count('<li class="card s-done"'), "had not ended" in last)


async def test_unwritable_page_sends_nothing(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 1))
    (options.out / PAGE).mkdir(parents=True)
    (options.out / MANIFEST).touch()
    with pytest.raises(ConfigurationError, match="not a regular file"):
        await run_to_end(fake, options)

    assert [] == fake.truth.create_requests


async def test_pipe_gets_one_line_per_row(fake: FakeKie, folder: Path) -> None:
    """Lines are plain text."""
    _, streams = await run_to_end(fake, make_options(write_table(folder, 30, key="k{n}")))
    printed = [line for line in streams.err.splitlines() if ": done" in line]

    assert sorted(f"k{n}" for n in range(30)) == sorted(line.split()[3].rstrip(":") for line in printed)
    assert "\x1b" not in streams.err
    assert len(streams.err.splitlines()) <= 30 + 5


async def test_json_output_equals_manifest_lines(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 3))
    _, streams = await run_to_end(fake, options, as_json=True)
    printed = sorted((json.loads(line) for line in streams.out.splitlines()), key=lambda line: int(line["line"]))

    assert printed == list(read_manifest(options))


async def test_running_tasks_are_not_estimated_again(fake: FakeKie, folder: Path) -> None:
    """The manifest has them, or, after ``kill -9``, the journal alone; jobs of removed rows are reported."""
    options = make_options(write_table(folder, 30, key="k{n}"))
    await run_with_signals(fake, options, after=lambda truth: truth.tasks, count=20)
    _, printed = await run_to_end(fake, attrs.evolve(options, ask=lambda: False))
    await anyio.to_thread.run_sync((options.out / MANIFEST).unlink)
    _, still = await run_to_end(fake, attrs.evolve(options, ask=lambda: False))
    lines = options.table.read_text().splitlines()
    options.table.write_text("\n".join([lines[0], *lines[3:]]))
    _, fewer = await run_to_end(fake, attrs.evolve(options, ask=lambda: False))

    for streams in (printed, still):
        assert "30 shots, 20 of them running at the service." in streams.err
        assert "about 400 credits" in streams.err
    assert "28 shots, 18 of them running" in fewer.err
    assert f"2 jobs of rows that are no longer in the table: kie-async recover --journal {options.journal}" in fewer.err


@pytest.mark.parametrize("name", ["index.html", "k0.mp4"])
async def test_foreign_folder_is_left_unchanged(fake: FakeKie, folder: Path, name: str) -> None:
    options = make_options(write_table(folder, 1, key="k{n}"))
    options.out.mkdir()
    (options.out / name).write_text("foreign content")
    with pytest.raises(ConfigurationError, match="batch has not made it"):
        await run_to_end(fake, options)

    assert [(name, "foreign content")] == [(path.name, path.read_text()) for path in options.out.iterdir()]
    assert [] == fake.truth.create_requests


@pytest.mark.parametrize(("out", "said"), [("shots.csv", "is a file"), ("shots.csv/out", "is not usable")])
async def test_unusable_folder_sends_nothing(fake: FakeKie, folder: Path, out: str, said: str) -> None:
    options = attrs.evolve(make_options(write_table(folder, 1)), out=folder / out)
    with pytest.raises(ConfigurationError, match=said):
        await run_to_end(fake, options)

    assert [] == fake.truth.create_requests


async def test_rate_limit_message_is_printed_once(fake: FakeKie, folder: Path) -> None:
    fake.inject(Fault("create", "code", code=429, nth=1), Fault("create", "code", code=429, nth=3))
    code, streams = await run_to_end(fake, make_options(write_table(folder, 5)))

    assert (ExitCode.DONE, 1) == (code, streams.err.count("(429)"))


async def test_folder_is_locked_during_a_run(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 1))
    options.out.mkdir()
    other = await anyio.to_thread.run_sync(Manifest, options.out)
    with other, pytest.raises(ConfigurationError, match="Another kie-async batch"):
        await run_to_end(fake, options)

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
def test_invalid_options_are_reported(options: Sequence[str], said: str, folder: Path) -> None:
    path = write_table(folder, 1)
    ended = run_cli(
        "batch",
        str(path),
        "--out",
        str(folder / "out"),
        *options,
        KIE_API_KEY="k",
        KIE_BASE_URL="http://127.0.0.1:9",
        KIE_JOURNAL=str(folder / "kie.db"),
    )

    assert (2, 1) == (ended.code, ended.err.count(said))


def test_missing_table_is_reported(tmp_path: Path) -> None:
    ended = run_cli("batch", "no.csv", "--out", str(tmp_path / "out"), "--yes", KIE_API_KEY="k")

    assert 2 == ended.code
    assert "error: The table no.csv cannot be read: there is no such file or folder. Nothing was sent" in ended.err


async def test_folder_contains_no_secret(fake: FakeKie, folder: Path) -> None:
    """Neither the API key nor the signature of a URL is written."""
    path = folder / "shots.jsonl"
    signed = "https://bucket.example/cat.png?X-Signature=s3cret#s3cret"
    path.write_text(json.dumps({"image": signed, "prompt": "Go"}) + "\n")
    options = make_options(path)
    _, streams = await run_to_end(fake, options, as_json=True)
    printed = [streams.out, streams.err, *(file.read_text() for file in (options.out / MANIFEST, options.out / PAGE))]

    assert [] == [text for text in printed if "s3cret" in text]
    assert ["https://bucket.example/cat.png"] == [line["source"] for line in read_manifest(options)]
    assert [] == [file for file in options.out.iterdir() if file.is_file() and b"key-for-the-fake" in file.read_bytes()]


async def test_service_text_cannot_control_the_terminal(folder: Path) -> None:
    """Each row has one line, and control characters are escaped."""
    async with FakeKie(duration=5.0, failures=[("500", "\x1b[2J\nall is \u202enwod")], fail_rate=1.0) as fake:
        _, streams = await run_to_end(fake, make_options(write_table(folder, 2, key="k{n}")))
    printed = [line for line in streams.err.splitlines() if ": failed: " in line]

    assert 2 == len(printed)
    assert "\x1b" not in streams.err
    assert "\u202e" not in streams.err
    assert "\\x1b[2J all is \\u202enwod" in printed[0]


async def test_journal_serves_other_commands(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 1, key="mine"))
    await run_to_end(fake, options)
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=str(options.journal)) as kie:
        [job] = await kie.jobs()

    assert ("mine", "succeeded") == (str(job.key).partition(":")[2], job.state)


@pytest.mark.parametrize("lost", [None, MANIFEST])
async def test_folder_of_another_service_is_refused(fake: FakeKie, folder: Path, lost: str | None) -> None:
    """Its files would count as results, or be overwritten."""
    options = make_options(write_table(folder, 3))
    await run_to_end(fake, options)
    if lost is not None:
        (options.out / lost).unlink()
    before = {path.name: path.read_bytes() for path in options.out.iterdir() if path.suffix in (".jsonl", ".mp4")}
    async with FakeKie() as other:
        with pytest.raises(ConfigurationError, match="Nothing was sent") as raised:
            await run_to_end(other, options)
        assert [] == other.truth.create_requests
    assert fake.url in str(raised.value)
    assert other.url in str(raised.value)
    assert before == {name: (options.out / name).read_bytes() for name in before}
    code, _ = await run_to_end(fake, options)
    assert (ExitCode.DONE, 3) == (code, len(fake.truth.tasks))


@pytest.mark.parametrize("left", ["nothing", "running tasks", "deleted jobs", "a new row"])
async def test_run_asks_only_if_something_may_be_paid(fake: FakeKie, folder: Path, left: str) -> None:
    """Without a question nothing is sent, even where the manifest has a row that the journal has forgotten."""
    options = make_options(write_table(folder, 3, key="k{n}"))
    if left == "running tasks":
        await run_with_signals(fake, options, after=lambda truth: truth.tasks, count=3)
    else:
        await run_to_end(fake, options)
    if left == "deleted jobs":
        async with KieClient("key-for-the-fake", base_url=fake.url, journal=str(options.journal)) as kie:
            assert 3 == await kie.forget(before=1e12)
    elif left == "a new row":
        write_table(folder, 4, key="k{n}")
    questions: list[str] = []

    def ask() -> bool:
        questions.append("Continue?")
        return False

    code, _ = await run_to_end(fake, attrs.evolve(options, ask=ask))

    asked = left == "a new row"
    assert asked is bool(questions)
    assert 3 == len(fake.truth.tasks)
    assert (ExitCode.INTERRUPTED if asked else ExitCode.DONE) is code


async def test_summary_of_a_replayed_run_names_no_pace(fake: FakeKie, folder: Path) -> None:
    options = make_options(write_table(folder, 2))
    _, first = await run_to_end(fake, options)
    _, second = await run_to_end(fake, options)

    assert "2 created at " in first.err
    assert "2 replayed" in second.err
    assert "0 created." in second.err
