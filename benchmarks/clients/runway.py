"""runwayml with its aiohttp transport: ``create`` and ``wait_for_task_output``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runwayml import AsyncRunwayML, DefaultAioHttpClient
from runwayml.lib import polling

from benchmarks.clients import PROMPT, Generate


@asynccontextmanager
async def connect(url: str, interval: float | None) -> AsyncIterator[Generate]:
    """Open one client; its interval is a constant of its module, 6 s with a jitter of ±1.5 s."""
    if interval is not None:
        polling.POLL_TIME, polling.POLL_JITTER = interval, 0  # type: ignore[assignment]  # seconds need not be whole
    async with AsyncRunwayML(api_key="a-key-for-the-stub", base_url=url, http_client=DefaultAioHttpClient()) as runway:

        async def generate(number: int) -> str:
            task = await runway.image_to_video.create(
                model="gen4_turbo",
                prompt_image="https://example.com/cat.png",
                prompt_text=PROMPT.format(number),
                ratio="1280:720",
            )
            done = await task.wait_for_task_output()
            if done.status != "SUCCEEDED":
                raise AssertionError(done.status)
            return done.output[0]

        yield generate
