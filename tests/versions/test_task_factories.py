"""A client with the task factories of each Python: ``make check-all`` runs this file on all that are installed."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from kie_async import KieClient, KieError
from kie_async.testing import FakeKie, VirtualLoop
from tests import profile
from tests.helpers import KEY, assert_settled, make_request
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def count_tasks(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task as usual; some tracing tools have such a factory."""
    return asyncio.Task(coroutine, loop=loop, **options)


#: Python 3.11 has no eager tasks.
FACTORIES: dict[str, Any] = {"none": None, "of a tool": count_tasks}
if sys.version_info >= (3, 12):
    FACTORIES["eager"] = asyncio.eager_task_factory


def run(factory: Callable[..., asyncio.Task[Any]] | None, main: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_task_factory(factory)
        return runner.run(main)


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("journal", ["memory", "disk"])
def test_client_works_with_each_task_factory(tmp_path: Path, factory: Any, journal: str) -> None:
    """Jobs, tables, images, callbacks that are awaited, a second opening, and jobs of another client."""
    path = tmp_path / "kie.db" if journal == "disk" else None

    async def main() -> Counter[str]:
        async with FakeKie() as fake:
            kie = KieClient(KEY, base_url=fake.url, journal=path)
            async with kie:
                await kie.generate(make_request(0, image=PNG), key="order-7")
                async with kie.map([make_request(number) for number in range(1, 25)]) as outcomes:
                    assert 24 == len([outcome.task_id async for outcome in outcomes])
                left = await kie.submit(make_request(25), wait=False)
            async with kie:
                await kie.recover()
                await asyncio.gather(left.wait(), kie.job(left.id).wait(), left.status())
                cancelled = asyncio.ensure_future(kie.generate(make_request(26)))
                await asyncio.sleep(0.001)
                cancelled.cancel()
                await asyncio.wait([cancelled])
                await asyncio.sleep(300.0)
                await assert_settled(kie)
                assert [] == fake.truth.rate_limited
                return Counter(str(job.state) for job in await kie.jobs())

    states = run(factory, main())
    assert 26 <= states["succeeded"] <= 27
    assert states.total() - states["succeeded"] == states["cancelled"]


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_client_can_be_closed_at_each_turn(factory: Any) -> None:
    """Also while it starts; each caller gets a result or an error."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        for turn in range(1, profile.scaled(quick=20, check=30, nightly=100)):
            async with FakeKie(duration=1.0) as fake:
                kie = KieClient(KEY, base_url=fake.url)
                call = asyncio.ensure_future(kie.generate(make_request(turn)))
                now = asyncio.Event()
                loop.at_turn(loop.turns + turn, now.set)
                await now.wait()
                await kie.aclose(drain=1.0)
                await asyncio.wait([call])
                assert call.exception() is None or isinstance(call.exception(), KieError), turn
                assert call.exception() is not None or [call.result().task_id] == list(fake.truth.tasks)

    run(factory, main())
