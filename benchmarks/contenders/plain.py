"""What the baselines have in common: one POST, and tenacity's answer to a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from benchmarks.contenders import Service

__all__ = ["RefusedError", "post", "retried"]


class RefusedError(Exception):
    """The service has answered 429."""


@asynccontextmanager
async def post(service: Service) -> AsyncGenerator[Callable[[int], Awaitable[None]]]:
    """One POST, which raises ``RefusedError`` when the service says so; without an answer it may have been accepted."""

    async def create(number: int) -> None:
        wish = {
            "model": "wan/2-2-a14b-image-to-video-turbo",
            "input": {"image_url": "https://example.com/cat.png", "prompt": f"Take {number}"},
        }
        try:
            async with session.post(f"{service.url}/api/v1/jobs/createTask", json=wish) as response:
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
    """Create; a job that is refused waits for a while of its own, by tenacity's full jitter, and tries again."""
    waits = wait_random_exponential(multiplier=1, max=60)
    await AsyncRetrying(wait=waits, retry=retry_if_exception_type(RefusedError), sleep=asyncio.sleep)(create, number)
