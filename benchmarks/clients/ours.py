"""This package, with its defaults; if an interval is given, with that interval and without effective limits."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.clients import PROMPT, Generate
from benchmarks.fixed_interval import FixedInterval
from kie_async import KieClient, Limits, Wan22TurboImageToVideo

#: Limits that never delay a request.
LIMITS = Limits(creates=100_000, in_flight=100_000, polls_per_second=100_000)


@asynccontextmanager
async def connect(url: str, interval: float | None) -> AsyncIterator[Generate]:
    """Open one client with its journal in memory."""
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    kie = KieClient("a-key-for-the-stub", base_url=url, limits=None if interval is None else LIMITS)
    if interval is not None:
        kie._binding.polling = FixedInterval(interval)  # noqa: SLF001  # for benchmarks
    async with kie:

        async def generate(number: int) -> str:
            request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=PROMPT.format(number))
            return (await kie.generate(request)).url

        yield generate
