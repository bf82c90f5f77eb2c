"""How the suite runs: on virtual time, watched for blocking calls and for what tests leave behind, without skips."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from kie_async.testing._leftovers import pending_tasks
from kie_async.testing.clock import GRACE_TURNS, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("suite")

#: Tests below these folders run on the platform's own loop and clock.
REAL_TIME_FOLDERS = frozenset({"real_time", "system_tools"})


def runs_in_real_time(request: pytest.FixtureRequest) -> bool:
    """Tell whether the requesting test runs on the platform's own loop and clock."""
    return not REAL_TIME_FOLDERS.isdisjoint(request.path.parts)


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """What async tests run on: virtual time, except in ``tests/real_time`` and ``tests/system_tools``."""
    return "asyncio", {} if runs_in_real_time(request) else {"loop_factory": VirtualLoop}


@pytest.fixture(autouse=True)
def watched(request: pytest.FixtureRequest) -> None:
    """Every async test must clean up after itself, and on virtual time it must not block the loop."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("nothing_left_behind")
        if not runs_in_real_time(request):
            request.getfixturevalue("nothing_blocks")


@pytest.fixture
async def nothing_left_behind() -> AsyncIterator[None]:
    """The test, and the fixtures that it uses, leave no task pending and no async generator open."""
    yield
    for _ in range(GRACE_TURNS):
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    left = loop.leftovers() if isinstance(loop, VirtualLoop) else pending_tasks(loop)
    # Neither this very fixture is a leftover, nor the task that carries it to anyio's test runner.
    own = ("async generator nothing_left_behind", "TestRunner._call_in_runner_task")

    assert [] == [text for text in left if not any(name in text for name in own)]


@pytest.fixture
def nothing_blocks() -> Iterator[None]:
    """A call that blocks the loop, made by the package, raises ``BlockingError``."""
    with blockbuster_ctx("kie_async", excluded_modules=["kie_async.testing.clock"]) as detector:
        # It asks the kernel for a text and waits for nothing: a journal's path is made absolute when a client is made.
        detector.functions["os.getcwd"].deactivate()
        yield


class SkipsFail:
    """A session in which a test was skipped, or expected to fail, has failed: what cannot run proves nothing."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skipped.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid in self.skipped:
            terminalreporter.write_line(f"skipped, which counts as failed: {nodeid}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Register what watches over the whole session."""
    config.pluginmanager.register(SkipsFail())
