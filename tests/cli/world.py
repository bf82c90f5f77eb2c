"""What the tests of the command line stand on: its streams as text, commands run to their exit code, videos read."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import av
import typer
from typer.testing import CliRunner

from kie_async.cli.app import app
from kie_async.cli.exits import Exit
from kie_async.cli.output import Output
from kie_async.cli.running import Invocation, run
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, VirtualLoop

__all__ = ["CAT", "Ended", "Streams", "clip", "invoke", "run_command"]

#: A real photograph-sized JPEG.
CAT = Path(__file__).parents[2] / "kie_async" / "cli" / "data" / "cat.jpg"


@attrs.frozen
class Ended:
    """How a command has ended: its exit code, its standard output, its standard error."""

    code: int
    out: str
    err: str


class Streams:
    """A session of a command that speaks to *fake*, and what it writes."""

    def __init__(self, fake: FakeKie | None = None, *, as_json: bool = False) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        self.session = Session(
            output=Output(as_json=as_json, out=self._out, err=self._err),
            api_key="key-for-the-fake",
            url=None if fake is None else fake.url,
        )

    @property
    def out(self) -> str:
        """What went to standard output."""
        return self._out.getvalue()

    @property
    def err(self) -> str:
        """What went to standard error."""
        return self._err.getvalue()


def invoke(*arguments: str, **environment: str) -> Ended:
    """
    Run ``kie-async`` in this process, on virtual time.

    Args:
        *arguments: Its arguments.

        **environment: Its environment, as far as it concerns the service.
    """
    nobody: dict[str, str | None] = dict.fromkeys(("KIE_API_KEY", "KIE_BASE_URL", "KIE_UPLOAD_URL"))
    result = CliRunner().invoke(
        app,
        list(arguments),
        obj=Invocation(loop_factory=VirtualLoop),
        env={**nobody, "COLUMNS": "200", **environment},
        prog_name="kie-async",
    )
    return Ended(result.exit_code, result.stdout, result.stderr)


def run_command(command: Callable[[Session], Awaitable[Exit]], *, verbose: bool = False) -> Ended:
    """
    Run the coroutine of a command to its exit code, on virtual time.

    Args:
        command: The coroutine function.

        verbose: Whether ``--verbose`` was given.
    """
    program = typer.Typer(add_completion=False)

    @program.command()
    def only(context: typer.Context) -> None:
        run(context, command)

    result = CliRunner().invoke(program, [], obj=Invocation(verbose=verbose, loop_factory=VirtualLoop))
    return Ended(result.exit_code, result.stdout, result.stderr)


def clip(file: Path) -> tuple[float, int]:
    """The length of a video in seconds, counted frame by frame, and its height in pixels."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        assert stream.average_rate is not None
        return frames / float(stream.average_rate), stream.height
