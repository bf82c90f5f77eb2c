"""The root task: it starts children, outlives their failures, and ends them all."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import ClientClosedError
from kie_async._io.root import Root

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Steps = list[str]


def a_root(steps: Steps, enter: Callable[[], Awaitable[None]] | None = None) -> Root:
    """A root that notes its steps."""

    async def entering() -> None:
        steps.append("enter")
        if enter is not None:
            await enter()

    async def leaving() -> None:
        await anyio.sleep(0.1)
        steps.append("leave")

    def ending() -> None:
        steps.append("ending")

    return Root(asyncio.get_running_loop(), enter=entering, ending=ending, leave=leaving)


async def test_children_run_until_the_end_which_ends_them() -> None:
    steps: Steps = []
    root = a_root(steps)
    await root.up()
    assert (True, 0) == (root.running, root.children)

    async def child(name: str, seconds: float) -> None:
        try:
            await anyio.sleep(seconds)
            steps.append(name)
        except asyncio.CancelledError:
            steps.append(f"{name} is ended")
            raise

    root.start(child, "short", 1.0)
    root.start(child, "long", 1e6)
    assert 2 == root.children
    await anyio.sleep(2.0)
    assert 1 == root.children
    await root.end()

    assert ["enter", "short", "ending", "long is ended", "leave"] == steps
    assert (False, 0, True) == (root.running, root.children, root.task.done())
    await root.end()
    with pytest.raises(ClientClosedError):
        root.start(child, "late", 1.0)


async def test_a_child_that_fails_is_logged_and_touches_no_other(caplog: pytest.LogCaptureFixture) -> None:
    steps: Steps = []
    root = a_root(steps)
    await root.up()

    async def fail() -> None:
        msg = "a bug"
        raise ValueError(msg)

    async def live() -> None:
        await anyio.sleep(5.0)
        steps.append("lived")

    root.start(live)
    root.start(fail)
    await anyio.sleep(10.0)

    assert ["enter", "lived"] == steps
    (record,) = [record for record in caplog.records if record.name == "kie_async"]
    assert "ERROR" == record.levelname
    assert record.exc_info is not None
    assert "a bug" in str(record.exc_info[1])
    await root.end()


async def test_what_enter_raises_is_told_to_everybody_who_waits() -> None:
    """And ``leave`` is called all the same, since half of it may have been built."""
    steps: Steps = []

    async def enter() -> None:
        await anyio.sleep(1.0)
        msg = "no proxy"
        raise OSError(msg)

    root = a_root(steps, enter)
    told: list[str] = []

    async def wait() -> None:
        try:
            await root.up()
        except OSError as error:
            told.append(str(error))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wait)
    await anyio.sleep(1.0)

    assert 3 * ["no proxy"] == told
    assert ["enter", "leave"] == steps
    assert root.task.done()


async def test_who_is_cancelled_while_it_comes_up_takes_nobody_along() -> None:
    steps: Steps = []

    async def enter() -> None:
        await anyio.sleep(5.0)

    root = a_root(steps, enter)
    with anyio.move_on_after(1.0) as scope:
        await root.up()
    assert scope.cancelled_caught
    await root.up()

    assert root.running
    await root.end()


async def test_a_root_that_was_never_entered_can_be_ended() -> None:
    steps: Steps = []
    root = a_root(steps)
    await root.end()

    assert root.task.done()
    assert steps in ([], ["enter", "ending", "leave"])


async def test_a_cancelled_root_leaves_in_order() -> None:
    """As when the loop ends: ``asyncio.run`` cancels all tasks."""
    steps: Steps = []
    root = a_root(steps)
    await root.up()
    root.start(anyio.sleep_forever)
    await anyio.sleep(1.0)
    root.task.cancel()
    await asyncio.wait([root.task])

    assert ["enter", "ending", "leave"] == steps
    assert (False, 0) == (root.running, root.children)


async def test_a_child_that_was_only_just_started_ends_like_all_others() -> None:
    """Its own ``finally`` is what gives back what it holds."""
    steps: Steps = []
    root = a_root(steps)
    await root.up()

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("given back")

    root.start(child)
    await root.end()

    assert ["enter", "ending", "given back", "leave"] == steps
    assert 0 == root.children


async def test_children_run_in_a_context_of_their_own() -> None:
    """Neither the caller's nor another child's."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")
    seen: list[str] = []
    root = a_root([])
    await root.up()

    async def child(name: str) -> None:
        seen.append(variable.get())
        variable.set(name)

    for name in ("a", "b"):
        root.start(child, name)
        await anyio.sleep(0.1)

    assert ["none", "none"] == seen
    assert "the caller's" == variable.get()
    await root.end()


async def test_a_timer_can_start_children_where_sniffio_is_installed() -> None:
    """Many SDKs bring it along; anyio asks it then, and it takes a timer's callback for no asyncio at all."""
    assert importlib.util.find_spec("sniffio") is not None
    steps: Steps = []
    root = a_root(steps)
    await root.up()

    async def child() -> None:
        steps.append("child")

    asyncio.get_running_loop().call_later(1.0, root.start, child)
    await anyio.sleep(2.0)
    await root.end()

    assert ["enter", "child", "ending", "leave"] == steps
