"""fal-client as documented: ``subscribe`` submits, polls and fetches the result."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import fal_client
import fal_client.client

from benchmarks.clients import PROMPT, Generate


@asynccontextmanager
async def connect(url: str, interval: float | None) -> AsyncIterator[Generate]:
    """Open one client, directed to the stub by its module's constant, since it accepts only hosts with https."""
    fal_client.client.QUEUE_URL_FORMAT = f"{url}/"
    fal = fal_client.AsyncClient(key="a-key:for-the-stub")
    pause = fal_client.client.DEFAULT_QUEUE_POLL_INTERVAL if interval is None else interval

    async def generate(number: int) -> str:
        arguments = {"image_url": "https://example.com/cat.png", "prompt": PROMPT.format(number)}
        answer = await fal.subscribe("fal-ai/wan-turbo", arguments, interval=pause)
        result: str = answer["video"]["url"]
        return result

    yield generate
