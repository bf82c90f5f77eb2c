"""The command ``generate``."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import anyio
import attrs
import pytest

from kie_async import (
    ConfigurationError,
    DownloadError,
    KeyConflictError,
    MarketRequest,
    SubmitInDoubtError,
    Wan22TurboImageToVideo,
)
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.generate import GenerateOptions, run_generate
from kie_async.cli.options import JournalFile
from kie_async.cli.running import report_error
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, Fault
from tests.catalogue.samples import MP4, WAV
from tests.cli.helpers import CAT, CapturedSession, CommandResult, run_cli, run_in_session, video_length_and_height
from tests.requests.samples import png


def make_options(target: Path | None = None) -> GenerateOptions:
    """Return the options for a video of a cat."""
    request = Wan22TurboImageToVideo(image=str(CAT), prompt="The cat turns its head", resolution="480p")
    return GenerateOptions(request=request, name="cat", target=target)


def run_generate_against(fake: FakeKie, options: GenerateOptions) -> CommandResult:
    """Run the command against a fake to its exit code."""

    async def command(session: Session) -> ExitCode:
        async with fake:
            session.api_key, session.url = "key-for-the-fake", fake.url
            return await run_generate(session, options)

    return run_in_session(command)


def test_generate_saves_the_video(tmp_path: Path) -> None:
    fake = FakeKie()
    result = run_generate_against(fake, make_options(tmp_path / "new" / "cat.mp4"))
    seconds, height = video_length_and_height(tmp_path / "new" / "cat.mp4")

    assert CommandResult(0, f"{tmp_path}/new/cat.mp4\n", result.err) == result
    assert (seconds >= 4.5, 480) == (True, height)
    assert [1, 1] == [len(fake.truth.create_requests), len(fake.truth.uploads)]


def test_progress_is_one_plain_line_a_change(tmp_path: Path) -> None:
    """A pipe gets no escape codes and no repeated lines; states are the service's own."""
    fake = FakeKie(seed=7)
    result = run_generate_against(fake, make_options(tmp_path / "cat.mp4"))
    [task_id] = fake.truth.tasks
    states = [line.partition("cat: ")[2] for line in result.err.splitlines() if "cat: " in line]

    assert "\x1b" not in result.out + result.err
    assert ["submitting", f"accepted as task {task_id}"] == states[:2]
    assert ["success", "saving", "saved"] == states[-3:]
    assert len(set(states)) == len(states)
    assert {"queuing", "generating"} <= set(states)


async def test_generate_json_is_one_object(fake_kie: FakeKie, tmp_path: Path) -> None:
    streams = CapturedSession(fake_kie, as_json=True)
    await run_generate(streams.session, make_options(tmp_path))
    [task_id] = fake_kie.truth.tasks
    shown = json.loads(streams.out)

    assert {"job_id", "task_id", "state", "credits", "seconds", "urls", "files"} == set(shown)
    assert [task_id, "success", 40.0] == [shown["task_id"], shown["state"], shown["credits"]]
    assert [str(tmp_path / f"{task_id}-1.mp4")] == shown["files"]
    assert 1 == streams.out.count("\n")


async def test_no_wait_prints_the_task_id(fake_kie: FakeKie) -> None:
    streams = CapturedSession(fake_kie)
    code = await run_generate(streams.session, attrs.evolve(make_options(), wait=False))

    assert [f"{task_id}\n" for task_id in fake_kie.truth.tasks] == [streams.out]
    assert (ExitCode.DONE, True) == (code, f"kie-async wait {streams.out.strip()}" in streams.err)


async def test_text_result_is_printed(fake_kie: FakeKie) -> None:
    fake_kie.inject(
        Fault("poll", "alter", data={"state": "success", "resultJson": '{"resultObject": {"text": "A cat"}}'})
    )
    streams = CapturedSession(fake_kie)
    await run_generate(
        streams.session,
        GenerateOptions(
            request=MarketRequest(model="grok-imagine/text-to-video", input={"prompt": "A cat"}), name="text"
        ),
    )

    assert {"resultObject": {"text": "A cat"}} == json.loads(streams.out)


@pytest.mark.parametrize(
    ("code", "fake", "said"),
    [
        (1, FakeKie(credits=1.0), "Top up"),
        (1, FakeKie(api_keys=["another"]), "KIE_API_KEY"),
        (1, FakeKie(fail_rate=1.0), "failed"),
        (3, FakeKie(faults=[Fault("create", "reset", after=True)]), "may have been paid"),
        (3, FakeKie(faults=[Fault("create", "code", code=500, msg="Server exception")]), "may have been paid"),
        (4, FakeKie(duration=float("inf")), "kie-async wait"),
        (4, FakeKie(faults=[Fault("download", "html")]), "kie-async wait"),
        (5, FakeKie(faults=[Fault("upload", "reset")]), "upload"),
    ],
    ids=["no credits", "wrong key", "task fails", "answer lost", "unclear 500", "hangs", "no download", "no upload"],
)
def test_generate_errors_and_exit_codes(code: int, fake: FakeKie, said: str, tmp_path: Path) -> None:
    """The output is one error line without a traceback, and what to do next."""
    result = run_generate_against(fake, make_options(tmp_path / "cat.mp4"))

    assert (code, "") == (result.code, result.out)
    assert said in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "cat.mp4").exists()


@pytest.mark.parametrize("status", [401, 402, 403, 407, 200])
def test_page_of_a_gateway_does_not_end_the_command(status: int, tmp_path: Path) -> None:
    fake = FakeKie(faults=[Fault("poll", "html", status=status, times=3)])

    assert 0 == run_generate_against(fake, make_options(tmp_path / "cat.mp4")).code


def test_refused_key_leaves_the_paid_task_and_says_how_to_resume() -> None:
    fake = FakeKie(faults=[Fault("poll", "code", code=401)])
    result = run_generate_against(fake, make_options())
    (task_id,) = fake.truth.tasks

    assert 4 == result.code
    assert f"kie-async wait {task_id}" in result.err


def test_ambiguous_error_prints_a_warning() -> None:
    fault = Fault("create", "code", code=500, msg="Server exception", times=1)
    result = run_generate_against(FakeKie(faults=[fault]), attrs.evolve(make_options(), wait=False))

    assert 0 == result.code
    assert (
        "warning: The service has answered the create request with an ambiguous error; it may have been paid."
        in result.err
    )


@pytest.mark.parametrize(
    ("code", "fake", "said"),
    [
        (4, FakeKie(duration=1000.0), "continues at the service. To resume: kie-async wait"),
        (5, FakeKie(latency=(40.0, 40.0)), "Nothing was sent, and nothing was paid."),
        (3, FakeKie(create_seconds=1000.0), "it may have been paid"),
    ],
    ids=["task goes on", "not uploaded", "create unanswered"],
)
def test_timeout_says_whether_anything_was_sent(code: int, fake: FakeKie, said: str) -> None:
    result = run_generate_against(fake, attrs.evolve(make_options(), timeout=20.0))

    assert (code, True) == (result.code, said in result.err)
    assert "error: No result after 20 s." in result.err


def test_timeout_limits_a_submission_without_wait() -> None:
    result = run_generate_against(
        FakeKie(create_seconds=1000.0), attrs.evolve(make_options(), timeout=20.0, wait=False)
    )

    assert (3, "") == (result.code, result.out)


async def test_interrupted_create_may_have_been_paid() -> None:
    """The hint shows the job's id."""
    async with FakeKie(create_seconds=30.0) as fake, anyio.create_task_group() as group:
        streams = CapturedSession(fake)
        group.start_soon(run_generate, streams.session, make_options())
        while not fake.truth.create_requests:
            await anyio.sleep(0.1)
        group.cancel_scope.cancel()

    assert re.match(r"The create request of kj_\w+ was sent", streams.session.resume_hint())


SILENCES = {
    "upload": (Fault("upload", "silence"), "there is no connection or no answer yet"),
    "connection": (Fault("connect", "silence"), "there is no connection or no answer yet"),
    "create": (Fault("create", "silence"), "the create request is not answered yet"),
    "rate limit": (Fault("create", "code", code=429), "the rate limit allows no create request yet"),
}


@pytest.mark.parametrize("place", SILENCES)
async def test_silence_is_explained_after_some_seconds(tmp_path: Path, place: str) -> None:
    """Once, with the service's URL; not for a task that was accepted in time and runs for long."""
    fault, reason = SILENCES[place]
    async with FakeKie(duration=60.0, faults=[fault]) as dead, FakeKie(duration=60.0) as alive:
        silent, usual = CapturedSession(dead), CapturedSession(alive)
        with anyio.move_on_after(30.0):
            await run_generate(silent.session, make_options(tmp_path / "a.mp4"))
        await run_generate(usual.session, make_options(tmp_path / "b.mp4"))

    assert 1 == silent.err.count(f"Waiting for {dead.url}: {reason}")
    assert "Waiting for" not in usual.err


@pytest.mark.parametrize(
    ("fault", "again"),
    [
        (Fault("poll", "alter", data={"resultJson": '{"resultUrls": ["http://10.0.0.1/a.mp4"]}'}), False),
        (Fault("poll", "alter", data={"resultJson": '{"resultUrls": ["https://localhost/a.mp4"]}'}), False),
        (Fault("download", "code", code=404, status=404), False),
        (Fault("download", "status", status=500), True),
        (Fault("download", "reset"), True),
    ],
    ids=["private address", "private name", "gone", "HTTP 500", "reset"],
)
async def test_wait_is_offered_only_if_it_may_succeed(tmp_path: Path, fault: Fault, *, again: bool) -> None:
    """A result that would be refused again is a failure; ``status`` prints its URL."""
    async with FakeKie(duration=5.0, faults=[fault]) as fake:
        streams = CapturedSession(fake)
        with pytest.raises(DownloadError) as caught:
            await run_generate(streams.session, make_options(tmp_path / "cat.mp4"))
        code = report_error(streams.session, caught.value)
        [task_id] = fake.truth.tasks

    assert (ExitCode.UNFINISHED if again else ExitCode.FAILED) is code
    assert again is (f"kie-async wait {task_id}" in streams.err)
    assert again is not (f"kie-async status {task_id}" in streams.err)


async def test_allowed_network_is_fetched_from_and_named_in_the_hint(tmp_path: Path) -> None:
    """The port speaks no TLS, so that the attempt to fetch fails."""
    async with FakeKie(duration=5.0) as fake:
        result = json.dumps({"resultUrls": [fake.url.replace("http", "https", 1) + "/a.mp4"]})
        fake.inject(Fault("poll", "alter", data={"resultJson": result}))
        streams = CapturedSession(fake)
        streams.session.allow_networks = ("127.0.0.0/8", "198.18.0.0/15")
        with pytest.raises(DownloadError, match="interrupted") as caught:
            await run_generate(streams.session, make_options(tmp_path / "cat.mp4"))
        code = report_error(streams.session, caught.value)
        [task_id] = fake.truth.tasks

    assert ExitCode.UNFINISHED is code
    assert f"kie-async wait --allow-networks 127.0.0.0/8,198.18.0.0/15 {task_id}" in streams.err


async def test_interrupted_before_sending_costs_nothing() -> None:
    async with FakeKie(faults=[Fault("upload", "silence")]) as fake, anyio.create_task_group() as group:
        streams = CapturedSession(fake)
        group.start_soon(run_generate, streams.session, make_options())
        await anyio.sleep(3.0)
        group.cancel_scope.cancel()

    assert "Nothing was sent, and nothing was paid." == streams.session.resume_hint()
    assert [] == fake.truth.create_requests


async def test_unwritable_output_is_found_before_payment(fake_kie: FakeKie, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    streams = CapturedSession(fake_kie)
    with pytest.raises(ConfigurationError, match="is a file") as caught:
        await run_generate(streams.session, make_options(tmp_path / "file" / "cat.mp4"))

    assert ExitCode.USAGE == report_error(streams.session, caught.value)
    assert [] == fake_kie.truth.create_requests


def test_fake_option_says_that_nothing_is_real(tmp_path: Path) -> None:
    result = run_cli("generate", "--fake", "--image", str(CAT), "--prompt", "Go", "-o", str(tmp_path / "cat.mp4"))

    assert 0 == result.code
    assert "nothing is real, and nothing is paid" in result.err
    assert 720 == video_length_and_height(tmp_path / "cat.mp4")[1]


def test_fake_option_ignores_the_environment(tmp_path: Path) -> None:
    """The user's key and service are not used."""
    elsewhere = {"KIE_API_KEY": "bad key", "KIE_BASE_URL": "http://192.0.2.1", "KIE_UPLOAD_URL": "http://192.0.2.1"}
    out = str(tmp_path / "cat.mp4")

    assert 0 == run_cli("generate", "--fake", "-i", str(CAT), "-p", "Go", "-o", out, **elsewhere).code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], ["--image: got nothing", "--prompt: got nothing"]),
        (["-i", "no.png", "-p", "x"], ["image: got 'no.png'"]),
        (["-i", str(CAT), "-p", ""], ["prompt: got an empty string"]),
        (["-i", str(CAT), "-p", "x" * 5001, "--seed", "-1"], ["prompt: got", "seed: got -1"]),
        (["-i", str(CAT), "-p", "x", "--resolution", "1080p"], ["resolution: got '1080p'"]),
        (["-i", "http://10.0.0.1/a.png", "-p", "x"], ["image: got"]),
        (["--model", "a/b"], ["--input: got nothing"]),
        (["--input", "{}"], ["--model: got nothing"]),
        (["--model", "a/b", "--input", "{"], ["--input: got an unreadable value"]),
        (["--model", "a/b", "--input", "@no.json"], ["--input: got an unreadable value"]),
        (["--model", "a/b", "--input", "[]"], ["--input: got a list"]),
        (["--model", "a b", "--input", "{}"], ["model: got 'a b'"]),
        (
            ["--model", "a/b", "--input", "{}", "-p", "x"],
            ["--prompt: got a value; allowed: nothing together with --model"],
        ),
        (["-i", str(CAT), "-p", "x", "--key", "k"], ["--key: got a value; allowed: nothing without a journal"]),
    ],
)
def test_invalid_input_prints_one_error_a_problem(options: list[str], said: list[str]) -> None:
    result = run_cli("generate", "--fake", *options)
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]

    assert (2, "", len(said)) == (result.code, result.out, len(errors))
    assert [True] * len(said) == [text in line for text, line in zip(said, errors, strict=True)]
    assert "Nothing was sent." in result.err


@pytest.mark.parametrize("options", [["--seed", "many"], ["--colour", "red"], ["--timeout", "-1"], ["cat.png"]])
def test_unknown_or_unparsable_options_are_refused(options: list[str]) -> None:
    result = run_cli("generate", "--fake", "-i", str(CAT), "-p", "x", *options)

    assert (2, "") == (result.code, result.out)
    assert "Traceback" not in result.err


def test_model_input_is_read_from_a_file(tmp_path: Path) -> None:
    given = tmp_path / "input.json"
    given.write_text(
        '{"prompt": "A dog", "image_url": "https://example.com/dog.png", "duration": "5", "resolution": "720p"}'
    )
    out = tmp_path / "dog.mp4"
    result = run_cli("generate", "--fake", "--model", "wan/2-5-image-to-video", "--input", f"@{given}", "-o", str(out))

    assert (0, f"{out}\n") == (result.code, result.out)


def test_missing_api_key_names_the_variable() -> None:
    result = run_cli("generate", "--no-journal", "-i", str(CAT), "-p", "x")

    assert 2 == result.code
    assert "KIE_API_KEY" in result.err
    assert "--fake" in result.err


async def test_same_key_is_paid_once(fake_kie: FakeKie, tmp_path: Path) -> None:
    """The journal is on disk, so a second run of the command finds the job."""
    first, again = [CapturedSession(fake_kie, journal=tmp_path / "kie.db") for _ in range(2)]
    await run_generate(first.session, attrs.evolve(make_options(tmp_path / "one.mp4"), key="k"))
    await run_generate(again.session, attrs.evolve(make_options(tmp_path / "two.mp4"), key="k"))
    [task_id] = fake_kie.truth.tasks

    assert 1 == len(fake_kie.truth.create_requests)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert f"cat: is task {task_id} already: nothing is paid again" in again.err


async def test_key_of_another_request_is_refused(fake_kie: FakeKie, tmp_path: Path) -> None:
    other = Wan22TurboImageToVideo(image=str(CAT), prompt="Something else")
    await run_generate(
        CapturedSession(fake_kie, journal=tmp_path / "db").session, attrs.evolve(make_options(), key="k", wait=False)
    )
    streams = CapturedSession(fake_kie, journal=tmp_path / "db")
    with pytest.raises(KeyConflictError) as caught:
        await run_generate(streams.session, attrs.evolve(make_options(), key="k", request=other))

    assert (ExitCode.USAGE, 1) == (report_error(streams.session, caught.value), len(fake_kie.truth.create_requests))


@pytest.mark.parametrize("times", [1, 2], ids=["first time", "same key again"])
async def test_job_in_doubt_prints_the_commands_to_settle_it(times: int, tmp_path: Path) -> None:
    """The second run sends nothing, and the job is still in doubt."""
    journal = JournalFile(tmp_path / "a b.db", option=f" --journal '{tmp_path}/a b.db'")
    async with FakeKie(faults=[Fault("create", "reset", after=True)]) as fake:
        for _ in range(times):
            streams = CapturedSession(fake, journal=journal)
            with pytest.raises(SubmitInDoubtError) as caught:
                await run_generate(streams.session, attrs.evolve(make_options(), key="k"))

            assert ExitCode.IN_DOUBT == report_error(streams.session, caught.value)
            assert f"kie-async resolve --journal '{tmp_path}/a b.db' {caught.value.job_id} TASKID" in streams.err
            assert f"{caught.value.job_id} --allow-duplicate" in streams.err

    assert 1 == len(fake.truth.create_requests)


async def test_interrupted_unsent_job_with_key_stays_journaled(fake_kie: FakeKie, tmp_path: Path) -> None:
    fake_kie.inject(Fault("create", "code", code=455))
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    with anyio.move_on_after(5.0):
        await run_generate(streams.session, attrs.evolve(make_options(), key="k"))

    assert "If it was never sent, kie-async recover sends it." in streams.session.resume_hint()


def test_default_journal_is_private_to_the_user(tmp_path: Path) -> None:
    """It exists before anything is sent; here no service is reachable."""
    result = run_cli(
        "generate",
        *("-i", str(CAT), "-p", "x", "--timeout", "1"),
        KIE_API_KEY="good-enough",
        KIE_BASE_URL="http://127.0.0.1:9",
        XDG_STATE_HOME=str(tmp_path),
    )
    file = tmp_path / "kie-async" / "journal-127.0.0.1_9.db"

    assert 5 == result.code
    assert [0o600, 0o700] == [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)]


def test_without_a_journal_folder_nothing_is_sent() -> None:
    result = run_cli(
        "generate", "-i", str(CAT), "-p", "x", KIE_API_KEY="good-enough", KIE_BASE_URL="http://127.0.0.1:9"
    )

    assert (2, "") == (result.code, result.out)
    assert "Choose another file with --journal or KIE_JOURNAL, or none with --no-journal" in result.err


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Return a folder with files of every kind."""
    for name, content in {"a.png": png(1), "b.png": png(2), "c.png": png(3), "clip.mp4": MP4, "voice.wav": WAV}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "options", "suffix"),
    [
        ("kling/v2-1-pro", "--image a.png --last-image b.png --duration 10 --cfg-scale 0.3", "mp4"),
        ("kling/v2-1-pro", "--image_url a.png --duration=5 --negative-prompt=--blur", "mp4"),
        ("google/nano-banana-edit", "--images a.png b.png c.png --output-format png", "png"),
        ("google/nano-banana-edit", "--images a.png --images b.png|c.png --images https://example.com/d.png", "png"),
        ("wan/2-2-animate-move", "--image a.png --video clip.mp4 --nsfw-checker", "mp4"),
        ("kling/ai-avatar-pro", "--image a.png --audio voice.wav", "mp4"),
        ("kling-2.6/text-to-video", "--no-generate-audio", "mp4"),
        ("kling-2.6/text-to-video", "--generate-audio false", "mp4"),
        ("bytedance/seedance-2", "--reference-images a.png b.png --reference-videos clip.mp4", "mp4"),
        ("wan/2-2-a14b-image-to-video-turbo", "--image a.png --seed 7", "mp4"),
    ],
)
def test_options_are_the_fields_of_the_model(media: Path, model: str, options: str, suffix: str) -> None:
    words = [str(media / word) if (media / word).exists() else word for word in options.split()]
    words = ["|".join(str(media / part) for part in word.split("|")) if "|" in word else word for word in words]
    prompt = [] if model == "wan/2-2-animate-move" else ["--prompt", "Go on"]
    result = run_cli("generate", "--fake", "--model", model, *words, *prompt, "-o", str(media))

    assert (0, f".{suffix}\n") == (result.code, result.out[-len(suffix) - 2 :]), result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--model kling/v2-1-prp", ["--model: got 'kling/v2-1-prp'", "(did you mean 'kling/v2-1-pro'?)"]),
        ("--model Kling21Pro", ["(did you mean 'kling/v2-1-pro'?)"]),
        ("--model kling/v2-1-pro --durtion 5", ["--durtion: got an option", "(did you mean '--duration'?)"]),
        ("--model kling/v2-1-pro --image a.png --prompt x --jornal f", ["(did you mean '--journal'?)"]),
        ("--model kling/v2-1-pro --image a.png --prompt x --seed 7", ["--seed: got an option"]),
        ("--model kling/v2-1-pro --image a.png", ["--prompt: got nothing; allowed: a string of 1 to 5000"]),
        ("--model kling/v2-1-pro --image a.png --prompt x --duration", ["--duration: got nothing"]),
        ("--model kling/v2-1-pro --image a.png --prompt x --duration 7", ["duration: got 7", "5 or 10"]),
        ("--model google/nano-banana-edit --images a.png --prompt x --output-format pn", ["(did you mean 'png'?)"]),
        ("--model google/nano-banana-edit --images [1 --prompt x", ["--images: got an unreadable value"]),
        ("--model kling/v2-1-pro --image a.png --prompt x --extra {", ["--extra: got an unreadable value"]),
        ("--model kling/v2-1-pro --input {} --durtion 5", ["--durtion: got an unknown option"]),
        ("word --model kling/v2-1-pro --image a.png --prompt x", ["argument: got 'word'"]),
    ],
)
def test_bad_option_of_a_field_names_what_is_allowed(media: Path, options: str, said: list[str]) -> None:
    words = [str(media / word) if word == "a.png" else word for word in options.split()]
    result = run_cli("generate", "--fake", *words)

    assert (2, "") == (result.code, result.out)
    assert [] == [text for text in said if text not in result.err], result.err
    assert "Nothing was sent." in result.err
    assert "Traceback" not in result.err
