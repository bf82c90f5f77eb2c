"""
Fixtures for tests of programs that use this package; pytest finds them by itself once the package is installed.

They are coroutines: anyio's pytest plugin runs them (it comes with anyio), and so does pytest-asyncio in its auto mode.
A project whose tests should run on virtual time says so in its ``conftest.py``::

    @pytest.fixture(scope="module")
    def anyio_backend():
        return "asyncio", {"loop_factory": VirtualLoop}

Nothing of the package is imported until a fixture is used, so that the plugin costs nothing elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kie_async import KieClient
    from kie_async.testing import FakeKie

__all__ = ["fake_kie", "kie_client"]


@pytest.fixture
async def fake_kie() -> AsyncIterator[FakeKie]:
    """A running ``FakeKie``: its ``url`` is where to send requests, its ``truth`` what it has seen and done."""
    from kie_async.testing import FakeKie

    async with FakeKie() as fake:
        yield fake


@pytest.fixture
async def kie_client(fake_kie: FakeKie) -> AsyncIterator[KieClient]:
    """An open ``KieClient`` that speaks to the ``fake_kie`` of the same test."""
    from kie_async import KieClient

    async with KieClient("test-key", base_url=fake_kie.url) as kie:
        yield kie
