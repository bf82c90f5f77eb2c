"""The journal of the engines' tests: a file, and at the full size a database, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import profile


@pytest.fixture(params=profile.scaled(quick=["sqlite"], check=["sqlite"], nightly=["sqlite", "postgres"]))
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a journal in a file or in a database."""
    if request.param == "sqlite":
        return str(tmp_path / "kie.db")
    dsn: str = request.getfixturevalue("postgres_dsn")
    return dsn
