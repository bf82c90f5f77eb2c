"""The output of a command."""

from __future__ import annotations

import io

import anyio
import pytest

from kie_async.cli.output import Output, show_progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


async def test_pipe_gets_one_line_a_change() -> None:
    err = io.StringIO()
    with show_progress(Output(out=io.StringIO(), err=err)) as show:
        show("cat", "waiting")
        await anyio.sleep(2.5)
        show("cat", "waiting")
        show("city", "waiting")
        show("cat", "success", done=True)

    assert [
        "   0.0 s  cat: waiting",
        "   2.5 s  city: waiting",
        "   2.5 s  cat: success",
    ] == err.getvalue().splitlines()


def test_terminal_redraws_one_row_a_job() -> None:
    err = Terminal()
    output = Output(out=io.StringIO(), err=err)
    with show_progress(output) as show:
        show("cat", "[waiting]")
        show("city", "generating")
        output.warn("It is late.")
        show("cat", "saved as cat.mp4", done=True)
    last = err.getvalue().rpartition("It is late.")[2]

    assert "[waiting]" in err.getvalue(), "texts of the service are not markup"
    assert "saved as cat.mp4" in last
    assert "✓" in last
    assert "\x1b[?25h" in last, "the cursor is visible again"


def test_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Output(out=io.StringIO(), err=Terminal()).interactive
    monkeypatch.setenv("TERM", "dumb")

    assert not Output(out=io.StringIO(), err=Terminal()).interactive
