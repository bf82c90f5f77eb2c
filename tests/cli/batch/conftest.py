"""Fixtures of the tests of ``batch``."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kie_async.testing import FakeKie
from tests.cli.helpers import CAT


@pytest.fixture
async def fake() -> AsyncIterator[FakeKie]:
    """Run a service whose tasks take twenty seconds."""
    async with FakeKie(duration=20.0) as fake:
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two images."""
    for name in ("cat.jpg", "city.jpg"):
        shutil.copy(CAT.with_name(name), tmp_path / name)
    return tmp_path
