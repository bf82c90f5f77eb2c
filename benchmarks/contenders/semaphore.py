"""A semaphore with one slot for each create of the limit, held until a window after the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from benchmarks.contenders import Create, Service
from benchmarks.contenders.plain import post, retried

NAME = "semaphore, held a window"


@asynccontextmanager
async def connect(service: Service) -> AsyncGenerator[Create]:
    """See ``Contender``."""
    slots = asyncio.Semaphore(service.limit)

    async def admitted(number: int) -> None:
        async with slots:
            await create(number)
            await asyncio.sleep(service.window)

    async with post(service) as create:
        yield partial(retried, admitted)
