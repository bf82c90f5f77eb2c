"""A caller is cancelled while the journal's thread writes: its row is cancelled and never sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import anyio

from kie_async import KieClient
from kie_async.testing import FakeKie, VirtualLoop
from tests.helpers import KEY, assert_settled, make_request

if TYPE_CHECKING:
    from pathlib import Path


async def test_job_cancelled_while_journaled_is_not_resumed(tmp_path: Path) -> None:
    """At each turn of the loop up to the first byte, neither this process nor the next one pays."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    found = Counter[str]()
    for turn in range(1, 1000):
        path = tmp_path / f"{turn}.db"
        async with FakeKie() as fake:
            async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
                caller = asyncio.create_task(kie.generate(make_request()))
                loop.at_turn(loop.turns + turn, caller.cancel)
                await asyncio.wait([caller])
                await anyio.sleep(10.0)
                if fake.truth.create_requests:
                    break
                await assert_settled(kie)
                rows = await kie.jobs()
                found.update(str(row.state) for row in rows)
                assert {"cancelled"} >= {row.state for row in rows}, turn
            async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
                assert [] == await kie.recover()
    assert 1 <= found["cancelled"]
