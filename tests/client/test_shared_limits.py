"""Clients that share a journal on disk learn about the account once, and not each for itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

from kie_async import InsufficientCreditsError, KieClient, RetryPolicy
from kie_async.testing import FakeKie
from tests import profile
from tests.helpers import KEY, make_request

CLIENTS = 8
HOUR = 3600.0
#: Nothing is given up while a test waits.
PATIENT = RetryPolicy(maintenance_timeout=2 * HOUR, max_age=2 * HOUR)


@asynccontextmanager
async def shared(path: Path, jobs: int, **service: Any) -> AsyncGenerator[FakeKie]:
    """Run clients with one journal, each of which submits *jobs* jobs at once, until the context ends."""
    async with FakeKie(**{"latency": (0.02, 0.2), "credits": 1e9, **service}) as fake, AsyncExitStack() as stack:

        async def submit(kie: KieClient, number: int) -> None:
            with suppress(InsufficientCreditsError):
                await kie.submit(make_request(number), key=f"job-{number}")

        clients = [
            await stack.enter_async_context(KieClient(KEY, base_url=fake.url, journal=path, retry=PATIENT))
            for _ in range(CLIENTS)
        ]
        async with anyio.create_task_group() as group:
            for number in range(jobs * CLIENTS):
                group.start_soon(submit, clients[number % CLIENTS], number)
            yield fake
            group.cancel_scope.cancel()


async def test_maintenance_for_an_hour_is_probed_once_a_minute(tmp_path: Path) -> None:
    """A client probes for all, and all go on when it is over."""
    hours = profile.scaled(quick=0.1, check=0.1, nightly=1.0)
    async with shared(tmp_path / "kie.db", jobs=5) as fake:
        await anyio.sleep(5.0)
        fake.maintenance = True
        await anyio.sleep(hours * HOUR)
        refused = [post for post in fake.truth.create_requests if post.code == 455]
        fake.maintenance = False
        await anyio.sleep(120.0)

        assert len(refused) <= 20 + 60 * hours, "what was on the wire, and a probe a minute"
        assert 40 == len(fake.truth.created)
        assert [] == fake.truth.rate_limited


async def test_lower_limit_is_learned_once_for_all_clients(tmp_path: Path) -> None:
    seconds = profile.scaled(quick=100, check=100, nightly=600)
    async with shared(tmp_path / "kie.db", jobs=seconds // 5, limit=12) as fake:
        await anyio.sleep(seconds)

        assert len(fake.truth.rate_limited) <= 25
        assert len(fake.truth.created) >= 0.96 * 1.2 * seconds


async def test_account_without_credits_refuses_only_what_was_on_the_wire(tmp_path: Path) -> None:
    async with shared(tmp_path / "kie.db", jobs=10) as fake:
        await anyio.sleep(5.0)
        fake.credits = 0.0
        await anyio.sleep(120.0)
        refused = [post for post in fake.truth.create_requests if post.code == 402]

        assert 20 == len(fake.truth.created)
        assert refused[0].answered_at is not None
        # One way takes 0.2 s at most: what was sent later than the first refusal came back would arrive after this.
        assert all(post.at <= refused[0].answered_at + 0.2 for post in refused)
