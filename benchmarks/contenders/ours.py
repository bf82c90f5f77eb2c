"""This package with its defaults, and a journal on disk if the process is restarted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from benchmarks.contenders import Create, Service
from kie_async import KieClient, Limits, SubmitInDoubtError, Wan22TurboImageToVideo

NAME = "kie_async"


@asynccontextmanager
async def connect(service: Service) -> AsyncGenerator[Create]:
    """See ``Contender``."""

    async def create(number: int) -> None:
        request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=f"Take {number}")
        with suppress(SubmitInDoubtError):
            await kie.submit(request)

    limits = Limits(creates=service.limit, window=service.window)
    async with KieClient(
        service.key,
        base_url=service.url,
        limits=limits,
        journal=None if service.directory is None else service.directory / "kie.db",
        session_factory=service.session,
    ) as kie:
        yield create
