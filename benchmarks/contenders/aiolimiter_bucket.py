"""aiolimiter as documented: a leaky bucket with a burst of the whole limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from aiolimiter import AsyncLimiter

from benchmarks.contenders import Create, Service
from benchmarks.contenders.plain import post, retried

NAME = "aiolimiter"


@asynccontextmanager
async def connect(service: Service) -> AsyncGenerator[Create]:
    """See ``Contender``."""
    limiter = AsyncLimiter(service.limit, service.window)

    async def admitted(number: int) -> None:
        async with limiter:
            await create(number)

    async with post(service) as create:
        yield partial(retried, admitted)
