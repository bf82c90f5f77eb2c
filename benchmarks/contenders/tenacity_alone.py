"""No limiter: send, and back off after a refusal."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from benchmarks.contenders import Create, Service
from benchmarks.contenders.plain import post, retried

NAME = "tenacity alone"


@asynccontextmanager
async def connect(service: Service) -> AsyncGenerator[Create]:
    """See ``Contender``."""
    async with post(service) as create:
        yield partial(retried, create)
