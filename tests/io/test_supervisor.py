"""Test the supervisor: it starts children, survives their failures, and ends them all."""

from __future__ import annotations

import asyncio
import contextvars
from importlib.util import find_spec
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import ClientClosedError
from kie_async._io.runtime import Supervisor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Steps = list[str]


def make_supervisor(steps: Steps, enter: Callable[[], Awaitable[None]] | None = None) -> Supervisor:
    """Return a supervisor that records its steps."""

    async def entering() -> None:
        steps.append("enter")
        if enter is not None:
            await enter()

    async def leaving() -> None:
        await anyio.sleep(0.1)
        steps.append("leave")

    def ending() -> None:
        steps.append("ending")

    def abandoning() -> None:
        steps.append("abandon")

    return Supervisor(asyncio.get_running_loop(), enter=entering, ending=ending, leave=leaving, abandon=abandoning)


async def test_end_cancels_running_children() -> None:
    steps: Steps = []
    supervisor = make_supervisor(steps)
    await supervisor.wait_ready()
    assert (True, 0) == (supervisor.running, supervisor.children)

    async def child(name: str, seconds: float) -> None:
        try:
            await anyio.sleep(seconds)
            steps.append(name)
        except asyncio.CancelledError:
            steps.append(f"{name} is ended")
            raise

    supervisor.start(child, "short", 1.0)
    supervisor.start(child, "long", 1e6)
    assert 2 == supervisor.children
    await anyio.sleep(2.0)
    assert 1 == supervisor.children
    await supervisor.end_all()

    assert ["enter", "short", "ending", "long is ended", "leave"] == steps
    assert (False, 0, True) == (supervisor.running, supervisor.children, supervisor.task.done())
    await supervisor.end_all()
    with pytest.raises(ClientClosedError):
        supervisor.start(child, "late", 1.0)


async def test_timer_starts_children_with_sniffio_installed() -> None:
    """With sniffio, which Litestar installs, anyio does not detect asyncio outside of a task."""
    assert find_spec("sniffio") is not None
    steps: Steps = []
    supervisor = make_supervisor(steps)
    await supervisor.wait_ready()

    async def child() -> None:
        steps.append("child")

    asyncio.get_running_loop().call_later(1.0, supervisor.start, child, context=contextvars.Context())
    await anyio.sleep(2.0)
    await supervisor.end_all()

    assert ["enter", "child", "ending", "leave"] == steps


async def test_failed_child_is_logged_and_affects_no_other(caplog: pytest.LogCaptureFixture) -> None:
    steps: Steps = []
    supervisor = make_supervisor(steps)
    await supervisor.wait_ready()

    async def fail() -> None:
        msg = "a bug"
        raise ValueError(msg)

    async def live() -> None:
        await anyio.sleep(5.0)
        steps.append("lived")

    supervisor.start(live)
    supervisor.start(fail)
    await anyio.sleep(10.0)

    assert ["enter", "lived"] == steps
    (record,) = [record for record in caplog.records if record.name == "kie_async"]
    assert "ERROR" == record.levelname
    assert record.exc_info is not None
    assert "a bug" in str(record.exc_info[1])
    await supervisor.end_all()


async def test_error_of_enter_reaches_every_waiter() -> None:
    """``leave`` is called too, since ``enter`` may have opened something."""
    steps: Steps = []

    async def enter() -> None:
        await anyio.sleep(1.0)
        msg = "no proxy"
        raise OSError(msg)

    supervisor = make_supervisor(steps, enter)
    raised: list[str] = []

    async def wait() -> None:
        try:
            await supervisor.wait_ready()
        except OSError as error:
            raised.append(str(error))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wait)
    await anyio.sleep(1.0)

    assert 3 * ["no proxy"] == raised
    assert ["enter", "ending", "leave"] == steps
    assert supervisor.task.done()


async def test_cancelled_wait_does_not_stop_the_start() -> None:
    steps: Steps = []

    async def enter() -> None:
        await anyio.sleep(5.0)

    supervisor = make_supervisor(steps, enter)
    with anyio.move_on_after(1.0) as scope:
        await supervisor.wait_ready()
    assert scope.cancelled_caught
    await supervisor.wait_ready()

    assert supervisor.running
    await supervisor.end_all()


async def test_supervisor_can_end_before_it_is_ready() -> None:
    steps: Steps = []
    supervisor = make_supervisor(steps)
    await supervisor.end_all()

    assert supervisor.task.done()
    assert steps in ([], ["enter", "ending", "leave"])


async def test_cancelled_supervisor_ends_in_order() -> None:
    """``asyncio.run`` cancels all tasks when the loop ends."""
    steps: Steps = []
    supervisor = make_supervisor(steps)
    await supervisor.wait_ready()
    supervisor.start(anyio.sleep_forever)
    await anyio.sleep(1.0)
    supervisor.task.cancel()
    await asyncio.wait([supervisor.task])

    assert ["enter", "ending", "leave"] == steps
    assert (False, 0) == (supervisor.running, supervisor.children)


async def test_child_started_just_before_the_end_is_ended() -> None:
    """Its own ``finally`` releases what it holds."""
    steps: Steps = []
    supervisor = make_supervisor(steps)
    await supervisor.wait_ready()

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("released")

    supervisor.start(child)
    await supervisor.end_all()

    assert ["enter", "ending", "released", "leave"] == steps
    assert 0 == supervisor.children


async def test_children_run_in_their_own_context() -> None:
    """It is neither the caller's nor another child's."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")
    seen: list[str] = []
    supervisor = make_supervisor([])
    await supervisor.wait_ready()

    async def child(name: str) -> None:
        seen.append(variable.get())
        variable.set(name)

    for name in ("a", "b"):
        supervisor.start(child, name)
        await anyio.sleep(0.1)

    assert ["none", "none"] == seen
    assert "the caller's" == variable.get()
    await supervisor.end_all()
