"""pyrate-limiter as documented: a log of the instants of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from functools import partial

from pyrate_limiter import InMemoryBucket, Limiter, Rate, SingleBucketFactory

from benchmarks.contenders import Create, Service
from benchmarks.contenders.plain import post, retried

NAME = "pyrate-limiter"


class LoopBucket(InMemoryBucket):
    """Its bucket with the event loop's virtual clock."""

    def __init__(self, rates: list[Rate]) -> None:
        super().__init__(rates)
        self._loop = asyncio.get_running_loop()

    def now(self) -> int:
        """Return the time in milliseconds."""
        return int(self._loop.time() * 1000)


@asynccontextmanager
async def connect(service: Service) -> AsyncGenerator[Create]:
    """See ``Contender``."""
    bucket = LoopBucket([Rate(service.limit, int(service.window * 1000))])

    async def admitted(number: int) -> None:
        await limiter.try_acquire_async("creates")
        await create(number)

    with closing(SingleBucketFactory(bucket)) as factory:
        limiter = Limiter(factory)
        async with post(service) as create:
            yield partial(retried, admitted)
