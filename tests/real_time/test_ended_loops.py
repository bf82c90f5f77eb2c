"""Event loops that are closed or abandoned under a client: other loops and processes can resume its jobs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import profile
from tests.real_time.ended_loops import CALLS, LEAVE, MAKE_LOOP, USES

#: What the package, or the garbage collector for it, says when a loop's end was not handled.
_COMPLAINTS = ("This is a bug", "kie_async supervisor", "Supervisor", "cancel scope", "GeneratorExit")


def run_program(*arguments: str) -> None:
    """Run a program of ``ended_loops``: it finds nothing wrong, and nothing of the client complains."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.real_time.ended_loops", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert (0, []) == (ran.returncode, json.loads(ran.stdout or "null")), ran.stderr
    assert [] == [line for line in ran.stderr.splitlines() if any(text in line for text in _COMPLAINTS)]


@pytest.mark.parametrize(
    ("kind", "way"), profile.sample([(kind, way) for kind in MAKE_LOOP for way in LEAVE], check=0.34)
)
def test_jobs_of_an_ended_loop_can_be_resumed(kind: str, way: str) -> None:
    """By the next use, after ``aclose()`` elsewhere, and after the client is garbage; no descriptor stays open."""
    run_program("leave_loops", kind, way, *profile.sample(list(USES), check=0.34))


@pytest.mark.parametrize("call", profile.sample(list(CALLS), check=0.4))
def test_loop_can_be_closed_in_each_turn(call: str) -> None:
    """Nothing is paid twice, and each task is known or in doubt."""
    run_program("close_in_each_turn", call)


@pytest.mark.parametrize("kind", profile.sample(list(MAKE_LOOP), check=0.5))
def test_many_closed_loops_leave_nothing_behind(kind: str) -> None:
    run_program("use_many_loops", kind, str(profile.scaled(quick=20, check=60, nightly=1000)))


@pytest.mark.parametrize(
    "program", profile.sample(["use_loops_in_turn", "use_one_loop_again", "work_in_forks"], check=0.34)
)
def test_client_works_with_loops_that_stop(program: str) -> None:
    run_program(program, "asyncio")
