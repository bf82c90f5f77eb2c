"""Words of the service, names of files and keys cannot control the terminal, whichever command prints them."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest

from kie_async import Budget, Event, EventName, KieClient, KieError, Wan22TurboImageToVideo
from kie_async.cli.account import run_budgets, run_credits, run_upload
from kie_async.cli.batch.whole_run import run_batch
from kie_async.cli.demo import DemoOptions, run_demo
from kie_async.cli.generate import GenerateOptions, run_generate
from kie_async.cli.jobs import run_abandon, run_ls, run_resolve, run_resubmit
from kie_async.cli.listen import CallbackLog, CallbackLogEntry
from kie_async.cli.options import JournalFile
from kie_async.cli.output import Output, log_to
from kie_async.cli.recover import run_recover
from kie_async.cli.running import report_error
from kie_async.cli.session import Session
from kie_async.cli.tasks import run_status, run_wait
from kie_async.testing import FakeKie, Fault
from tests.cli.batch.helpers import make_options
from tests.cli.helpers import CAT, create_job, create_job_in_doubt, create_unsent_job
from tests.profile import scaled

#: Sequences that a terminal obeys, hide text or turn it around, around a word that a test can find.
HOSTILE = {
    "color": "\x1b[31mEVIL\x1b[0m",
    "title": "\x1b]0;EVIL\x07",
    "clipboard": "\x1b]52;c;RVZJTA==\x1b\\EVIL",
    "8-bit CSI": "\x9b2JEVIL",
    "line of another command": "EVIL\r\nerror: forged\n",
    "backspaces": "EVIL\x08\x08\x08\x08",
    "override": "\u202eEVIL\u202c",
    "isolate": "\u2067EVIL\u2069",
    "line separator": "EVIL\u2028EVIL\u2029",
    "invisible": "E\u200bVIL\ufeff\u2062\U000e0041EVIL",
    "markup": "[red]EVIL[/red][/] [link=https://evil.example]EVIL[/link] \\",
}
#: What no output may contain. Markup is no control character: it must be printed as it is.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2028\u2029\u2062\u2066-\u2069\ufeff\ud800-\udfff\U000e0041]"
)


@attrs.frozen
class Scene:
    """A fake that speaks hostile words, a journal, and a folder."""

    fake: FakeKie
    folder: Path
    word: str

    @property
    def journal(self) -> Path:
        """The journal of all programs."""
        return self.folder / "kie.db"

    @property
    def request(self) -> Wan22TurboImageToVideo:
        """A request with an image."""
        return Wan22TurboImageToVideo(image=str(CAT), prompt=self.word[:9] + "EVIL", resolution="480p")

    @property
    def file(self) -> Path:
        """A file of a hostile name."""
        return self.folder / (self.word.replace("/", "_") + "\udce9.jpg")


Command: TypeAlias = Callable[[Session, Scene], Awaitable[object]]


async def generate_failing(session: Session, scene: Scene) -> None:
    scene.fake.inject(Fault("poll", "alter", data={"state": scene.word}, nth=range(1, 3)))
    scene.fake.inject(Fault("poll", "alter", data={"state": "fail", "failCode": "422", "failMsg": scene.word}))
    await run_generate(session, GenerateOptions(request=scene.request, name=scene.word, target=scene.folder))


async def generate_refused(session: Session, scene: Scene) -> None:
    scene.fake.inject(Fault("create", "code", code=422, msg=scene.word))
    await run_generate(session, GenerateOptions(request=scene.request, name="cat"))


async def generate_saved(session: Session, scene: Scene) -> None:
    target = scene.file.with_suffix(".mp4")
    await run_generate(session, GenerateOptions(request=scene.request, name=scene.word, target=target))
    assert target.exists()


async def generate_no_wait(session: Session, scene: Scene) -> None:
    scene.fake.inject(Fault("create", "alter", after=True, data={"taskId": f"t{scene.word}"}))
    await run_generate(session, GenerateOptions(request=scene.request, name="cat", wait=False))


async def upload(session: Session, scene: Scene) -> None:
    shutil.copy(CAT, scene.file)
    scene.fake.inject(Fault("upload", "alter", after=True, data={"downloadUrl": f"https://a.example/{scene.word}"}))
    await run_upload(session, [scene.file])


async def upload_refused(session: Session, scene: Scene) -> None:
    shutil.copy(CAT, scene.file)
    scene.fake.inject(Fault("upload", "code", code=451, msg=scene.word))
    await run_upload(session, [scene.file, scene.folder / scene.word.replace("/", "_")])


async def status(session: Session, scene: Scene) -> None:
    _, task_id = await create_job(scene.fake, scene.journal)
    words = dict.fromkeys(("state", "failMsg", "failCode", "model"), scene.word)
    scene.fake.inject(Fault("poll", "alter", data={**words, "state": "fail"}))
    await run_status(session, task_id)


async def wait(session: Session, scene: Scene) -> None:
    _, task_id = await create_job(scene.fake, scene.journal)
    scene.fake.inject(Fault("poll", "alter", data={"state": scene.word}, nth=range(1, 4)))
    await run_wait(session, task_id, target=scene.file.with_suffix(".mp4"), timeout=None)


async def wait_for_hostile_id(session: Session, scene: Scene) -> None:
    await run_wait(session, scene.word, target=scene.folder, timeout=None)


async def recover(session: Session, scene: Scene) -> None:
    await create_job(scene.fake, scene.journal, key=scene.word)
    scene.fake.inject(Fault("poll", "alter", data={"state": "fail", "failCode": "500", "failMsg": scene.word}))
    await run_recover(session, out=scene.folder / "out")


async def list_jobs(session: Session, scene: Scene) -> None:
    await create_job(scene.fake, scene.journal, key=scene.word)
    await create_job_in_doubt(scene.fake, scene.journal)
    await run_ls(session, show_all=True)


async def settle(session: Session, scene: Scene) -> None:
    job_id = await create_job_in_doubt(scene.fake, scene.journal)
    with pytest.raises(KieError):
        await run_resolve(session, job_id, scene.word)
    await run_resubmit(session, job_id, allow_duplicate=True)
    await run_abandon(session, scene.word)


async def unsent(session: Session, scene: Scene) -> None:
    await create_unsent_job(scene.fake, scene.journal)
    scene.fake.inject(Fault("create", "code", code=422, msg=scene.word))
    await run_recover(session, wait=False)


async def budgets(session: Session, scene: Scene) -> None:
    budget = Budget(credits=1.0, price=1.0, name=scene.word)
    async with (
        KieClient("key-for-the-fake", base_url=scene.fake.url, journal=scene.journal) as kie,
        kie.map([scene.request], budget=budget) as run,
    ):
        assert 1 == len([outcome async for outcome in run])
    await run_budgets(session)


async def credits_refused(session: Session, scene: Scene) -> None:
    scene.fake.inject(Fault("credit", "code", code=505, msg=scene.word))
    await run_credits(session)


async def batch(session: Session, scene: Scene) -> None:
    shutil.copy(CAT, scene.folder / "cat.jpg")
    scene.fake.inject(Fault("poll", "alter", data={"state": "fail", "failCode": "422", "failMsg": scene.word}))
    table = scene.file.with_suffix(".csv")
    table.write_text("key,image,prompt\na,cat.jpg,Go\n")
    await run_batch(session, make_options(table, out=scene.folder / scene.word[:4]))


async def batch_with_flaws(session: Session, scene: Scene) -> None:
    table = scene.folder / "shots.jsonl"
    rows = ({scene.word: 1, "image": "x"}, {"image": scene.word, "prompt": "Go"}, {"key": scene.word, "image": "x"})
    table.write_text("\n".join(json.dumps(row) for row in rows))
    await run_batch(session, make_options(table, defaults={scene.word: "x"}))


async def listen(session: Session, scene: Scene) -> None:
    log = CallbackLog(session)
    log.write_entry(CallbackLogEntry(event="callback", job_id="kj_1", task_id=scene.word, attempt=1, state=scene.word))
    log.write_entry(CallbackLogEntry(event="refused", status=404, reason=scene.word))
    log.enqueue(Event(name=EventName.DUPLICATE, job_id=scene.word, detail={"duplicate_task_id": scene.word}))


async def demo(session: Session, scene: Scene) -> None:
    shutil.copy(CAT, scene.file)
    await run_demo(session, DemoOptions(images=[scene.file], out=scene.folder / scene.word[:9]), scene.fake)


async def ask_for_confirmation(session: Session, scene: Scene) -> None:
    shutil.copy(CAT, scene.folder / "cat.jpg")
    table = scene.file.with_suffix(".csv")
    table.write_text("image,prompt\ncat.jpg,Go\n")
    await run_batch(session, make_options(table, out=scene.folder / "out", ask=lambda: False))


COMMANDS: tuple[Command, ...] = (
    *(generate_failing, generate_refused, generate_saved, generate_no_wait, upload, upload_refused, status, wait),
    *(wait_for_hostile_id, recover, list_jobs, settle, unsent, budgets, credits_refused, batch, batch_with_flaws),
    *(listen, demo, ask_for_confirmation),
)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


async def printed(command: Command, word: str, folder: Path, *, terminal: bool, as_json: bool = False) -> str:
    """Run a command against a service that speaks a word, and return all that it prints."""
    out = Terminal() if terminal else io.StringIO()
    fake = FakeKie(duration=30.0)
    session = Session(output=Output(out=out, err=out, as_json=as_json), api_key="key-for-the-fake")
    session.journal = JournalFile(folder / "kie.db")
    scene = Scene(fake, folder, word)
    with log_to(session.output, verbose=True):
        try:
            if command is demo:
                await command(session, scene)
            else:
                async with fake:
                    session.url = fake.url
                    await command(session, scene)
        except Exception as error:  # noqa: BLE001 (as the runner of commands does)
            report_error(session, error)
    return out.getvalue()


#: One word with everything hostile; each by itself in the nightly run.
WORDS = (*scaled(quick=(), check=(), nightly=tuple(HOSTILE.values())), "".join(HOSTILE.values()))
#: Commands in which no word of the service is printed: an invalid one is refused without being shown.
SILENT = (generate_no_wait, wait_for_hostile_id, demo)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
async def test_no_command_prints_control_characters_into_a_pipe(command: Command, tmp_path: Path) -> None:
    for number, word in enumerate(WORDS):
        (tmp_path / str(number)).mkdir()
        text = await printed(command, word, tmp_path / str(number), terminal=False, as_json=number % 3 == 2)

        assert "EVIL" in text or command in SILENT
        assert [] == FORBIDDEN.findall(text)
        assert "\nerror: forged" not in text
        assert "This is a bug" not in text


@pytest.mark.parametrize("command", [generate_failing, recover, demo, batch_with_flaws])
async def test_no_command_lets_words_control_a_terminal(command: Command, tmp_path: Path) -> None:
    """Only the sequences of the display itself are there."""
    for number, word in enumerate(WORDS):
        (tmp_path / str(number)).mkdir()
        text = await printed(command, word, tmp_path / str(number), terminal=True)
        own = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)

        assert [] == FORBIDDEN.findall(own)
        assert not re.search(r"\x1b\[31mEVIL|\x1b\]|\x1b\[2J", text)


async def test_markup_is_printed_as_it_is(tmp_path: Path) -> None:
    text = await printed(generate_refused, HOSTILE["markup"], tmp_path, terminal=False)

    assert "[red]EVIL[/red][/] [link=https://evil.example]EVIL[/link]" in text


def test_only_one_module_writes_to_the_standard_streams() -> None:
    """Any other place would print unfiltered; the two exceptions print constants before a command runs."""
    ours = Path(__file__).parents[2] / "kie_async" / "cli"
    writes = re.compile(r"\bprint\(|sys\.std(?:out|err)|typer\.echo|Console\(|__std(?:out|err)__")
    found = {file.name for file in ours.rglob("*.py") if writes.search(file.read_text())}

    assert {"output.py", "__init__.py", "app.py"} == found
