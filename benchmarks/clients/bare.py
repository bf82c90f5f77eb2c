"""Bare aiohttp: a hand-written coroutine that makes the same requests and checks nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from benchmarks.clients import PROMPT, Generate

DEFAULT_INTERVAL = 2.0


@asynccontextmanager
async def connect(url: str, interval: float | None) -> AsyncIterator[Generate]:
    """Open one session with aiohttp's default number of connections."""
    pause = DEFAULT_INTERVAL if interval is None else interval
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer a-key-for-the-stub"}) as session:

        async def generate(number: int) -> str:
            body = {
                "model": "wan/2-2-a14b-image-to-video-turbo",
                "input": {"image_url": "https://example.com/cat.png", "prompt": PROMPT.format(number)},
            }
            async with session.post(f"{url}/api/v1/jobs/createTask", json=body) as response:
                task_id = (await response.json())["data"]["taskId"]
            while True:
                await asyncio.sleep(pause)
                async with session.get(f"{url}/api/v1/jobs/recordInfo", params={"taskId": task_id}) as response:
                    record = (await response.json())["data"]
                if record["state"] == "success":
                    result: str = json.loads(record["resultJson"])["resultUrls"][0]
                    return result

        yield generate
