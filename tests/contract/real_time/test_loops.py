"""The fake on loops with a real clock: asyncio's own, and uvloop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import aiohttp
import pytest

from kie_async.testing import Fault

if TYPE_CHECKING:
    from tests.contract.conftest import Serve


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


async def test_task_on_real_loops(serve: Serve) -> None:
    async with serve(duration=float("inf"), latency=(0.001, 0.01)) as api:
        task_id = await api.task("z-image")
        record = await api.record(task_id)
        assert ("waiting", "") == (record["state"], record["resultJson"])
        assert abs(time.time() * 1000 - record["createTime"]) < 60_000
        api.fake.finish(task_id)

        assert 200 == (await api.request("GET", await api.result_url(task_id))).status


@pytest.mark.parametrize("kind", ["reset", "close", "half_status_line", "garbage", "half_body"])
async def test_connection_faults_on_real_loops(serve: Serve, kind: str) -> None:
    async with serve(faults=[Fault("create", kind, after=True, nth=1)]) as api:  # type: ignore[arg-type]  # a parameter
        with pytest.raises(aiohttp.ClientError):
            await api.create()
        assert 1 == len(api.fake.truth.created)

        assert 200 == (await api.create()).json["code"]


async def test_refused_connections_on_real_loops(serve: Serve) -> None:
    async with serve(faults=[Fault("connect", "reset", nth=1), Fault("connect", "silence", nth=2)]) as api:
        with pytest.raises(aiohttp.ClientError):
            await api.create()
        with pytest.raises(TimeoutError):
            await api.request("GET", "/", timeout=aiohttp.ClientTimeout(total=0.05))

        assert 200 == (await api.create()).json["code"]
