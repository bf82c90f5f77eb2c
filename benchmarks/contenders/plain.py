"""The common code of the baselines: one POST, and a retry by tenacity after a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from benchmarks.contenders import Service

__all__ = ["RefusedError", "post", "retried"]


class RefusedError(Exception):
    """The service's answer 429."""


@asynccontextmanager
async def post(service: Service) -> AsyncGenerator[Callable[[int], Awaitable[None]]]:
    """Yield a function that makes one POST and raises ``RefusedError`` for 429; a lost answer counts as accepted."""

    async def create(number: int) -> None:
        body = {
            "model": "wan/2-2-a14b-image-to-video-turbo",
            "input": {"image_url": "https://example.com/cat.png", "prompt": f"Take {number}"},
        }
        try:
            async with session.post(f"{service.url}/api/v1/jobs/createTask", json=body) as response:
                code = (await response.json())["code"]
        except (aiohttp.ClientError, TimeoutError):
            return
        if code == 429:
            raise RefusedError

    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {service.key}"}
    timeout = aiohttp.ClientTimeout(total=60.0)
    async with service.session(headers=headers, connector=connector, timeout=timeout) as session:
        yield create


async def retried(create: Callable[[int], Awaitable[None]], number: int) -> None:
    """Make a create; after a refusal, wait with tenacity's full jitter and retry."""
    waits = wait_random_exponential(multiplier=1, max=60)
    await AsyncRetrying(wait=waits, retry=retry_if_exception_type(RefusedError), sleep=asyncio.sleep)(create, number)
