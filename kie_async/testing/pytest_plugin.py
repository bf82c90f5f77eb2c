"""
Fixtures for tests of programs that use this package; pytest finds them once the package is installed.

They are coroutines. anyio's pytest plugin, which comes with anyio, runs them; so does pytest-asyncio in its auto mode.
A project selects virtual time in its ``conftest.py``::

    @pytest.fixture(scope="module")
    def anyio_backend():
        return "asyncio", {"loop_factory": VirtualLoop}

The package is imported when a fixture is first used, so that the plugin costs nothing elsewhere.
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
    """Provide a running ``FakeKie``: its ``url`` is the service, its ``truth`` the log of its actions."""
    from kie_async.testing import FakeKie

    async with FakeKie() as fake:
        yield fake


@pytest.fixture
async def kie_client(fake_kie: FakeKie) -> AsyncIterator[KieClient]:
    """Provide an open ``KieClient`` for the ``fake_kie`` of the same test."""
    from kie_async import KieClient

    async with KieClient("test-key", base_url=fake_kie.url) as kie:
        yield kie
