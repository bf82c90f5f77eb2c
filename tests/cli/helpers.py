"""Helpers for tests of the command line: output streams, commands run to their exit code, jobs, videos."""

from __future__ import annotations

import io
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import av
import pytest
import typer
from typer.testing import CliRunner

from kie_async import InsufficientCreditsError, KieClient, SubmitInDoubtError, Wan22TurboImageToVideo
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.cli import exit_before_start
from kie_async.cli.app import app
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import CommandJournal, JournalFile
from kie_async.cli.output import Output
from kie_async.cli.running import GlobalOptions, run_command
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, Fault, VirtualLoop

__all__ = [
    "CAT",
    "UNUSABLE_FOLDER",
    "CapturedSession",
    "CommandResult",
    "broken_stream",
    "create_job",
    "create_job_in_doubt",
    "create_unsent_job",
    "record_duplicate",
    "run_cli",
    "run_in_session",
    "video_length_and_height",
]

#: A state directory that cannot be created: tests with a journal choose another.
UNUSABLE_FOLDER = "/dev/null/state"

#: A real photograph-sized JPEG.
CAT = Path(__file__).parents[2] / "kie_async" / "cli" / "data" / "cat.jpg"


def broken_stream(number: int) -> io.StringIO:
    """Return a stream whose every write fails with an error of the system."""

    class Broken(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(number, os.strerror(number), text[:0])

    return Broken()


@attrs.frozen
class CommandResult:
    """The end of a command: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


class CapturedSession:
    """A session that uses *fake* and *journal*, and its output."""

    def __init__(
        self, fake: FakeKie | None = None, *, as_json: bool = False, journal: CommandJournal | Path | None = None
    ) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        self.session = Session(
            output=Output(as_json=as_json, out=self._out, err=self._err),
            api_key="key-for-the-fake",
            url=None if fake is None else fake.url,
            journal=JournalFile(journal) if isinstance(journal, Path) else journal,
        )

    @property
    def out(self) -> str:
        """The text on standard output."""
        return self._out.getvalue()

    @property
    def err(self) -> str:
        """The text on standard error."""
        return self._err.getvalue()


def run_cli(*arguments: str, **environment: str) -> CommandResult:
    """
    Run ``kie-async`` in this process, on virtual time.

    Args:
        *arguments: Its arguments.

        **environment: Its environment, as far as it concerns the service.
    """
    unset: dict[str, str | None] = dict.fromkeys(("KIE_API_KEY", "KIE_BASE_URL", "KIE_UPLOAD_URL", "KIE_JOURNAL"))
    result = CliRunner().invoke(
        app,
        list(arguments),
        obj=GlobalOptions(loop_factory=VirtualLoop),
        env={**unset, "XDG_STATE_HOME": UNUSABLE_FOLDER, "COLUMNS": "200", **environment},
        prog_name="kie-async",
    )
    return CommandResult(result.exit_code, result.stdout, result.stderr)


def run_in_session(command: Callable[[Session], Awaitable[ExitCode]], *, verbose: bool = False) -> CommandResult:
    """
    Run the coroutine of a command to its exit code, on virtual time.

    Args:
        command: The coroutine function.

        verbose: Whether ``--verbose`` was given.
    """
    program = typer.Typer(add_completion=False)

    @program.command()
    def only(context: typer.Context) -> None:
        run_command(context, command)

    options = GlobalOptions(verbose=verbose, loop_factory=VirtualLoop, early_handler=exit_before_start)
    result = CliRunner().invoke(program, [], obj=options)
    return CommandResult(result.exit_code, result.stdout, result.stderr)


def _request(prompt: str = "Go") -> Wan22TurboImageToVideo:
    """Return a request whose image is uploaded."""
    return Wan22TurboImageToVideo(image=str(CAT), prompt=prompt, resolution="480p")


async def create_job(fake: FakeKie, journal: Path, *, key: str | None = None, prompt: str = "Go") -> tuple[str, str]:
    """Create a job in another program, and return its job id and task id."""
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=journal) as kie:
        job = await kie.submit(_request(prompt), key=key)
        return job.id, str(job.task_id)


async def create_job_in_doubt(fake: FakeKie, journal: Path, *, key: str | None = None) -> str:
    """Create a job in doubt in another program, and return its id; the fake has its task."""
    fake.inject(Fault("create", "reset", after=True, nth=len(fake.truth.create_requests) + 1))
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=journal) as kie:
        with pytest.raises(SubmitInDoubtError) as caught:
            await kie.submit(_request(), key=key)
        return caught.value.job.id


async def record_duplicate(journal: Path, job_id: str, task_id: str) -> None:
    """Record a duplicate task of a job in the journal."""
    rows = SqliteStore(journal)
    await rows.open()
    await rows.update_fields(job_id, at=0.0, duplicate_task_ids=(task_id,))
    await rows.close()


async def create_unsent_job(fake: FakeKie, journal: Path, *, key: str = "unsent") -> str:
    """Create a job that another program could not pay, and return its id."""
    fake.inject(Fault("create", "code", code=402, nth=len(fake.truth.create_requests) + 1))
    async with KieClient("key-for-the-fake", base_url=fake.url, journal=journal) as kie:
        with pytest.raises(InsufficientCreditsError):
            await kie.submit(_request(), key=key)
        [job] = [job for job in await kie.jobs() if job.key == key]
        return job.job_id


def video_length_and_height(file: Path) -> tuple[float, int]:
    """Return a video's length in seconds, counted frame by frame, and its height in pixels."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        assert stream.average_rate is not None
        return frames / float(stream.average_rate), stream.height
