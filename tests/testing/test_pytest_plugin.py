"""The pytest fixtures of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kie_async import MarketRequest

if TYPE_CHECKING:
    from kie_async import KieClient
    from kie_async.testing import FakeKie

REQUEST = MarketRequest(model="google/nano-banana", input={"prompt": "a cat"})


async def test_client_uses_the_fake_of_its_test(kie_client: KieClient, fake_kie: FakeKie) -> None:
    """The fake logs what the client does."""
    generation = await kie_client.generate(REQUEST)

    assert [generation.task_id] == list(fake_kie.truth.tasks)


async def test_each_test_has_its_own_service(fake_kie: FakeKie) -> None:
    """Each test starts with an empty log."""
    assert [] == fake_kie.truth.create_requests
