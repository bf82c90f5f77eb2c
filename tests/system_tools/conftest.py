"""
Marks the tests of this folder: they need tools that the distribution installs (strace, openssl, Chromium).

``pytest -m "not system_tools"`` leaves them out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test of this folder; the hook is called with the tests of the whole session."""
    for item in items:
        if _FOLDER in item.path.parents:
            item.add_marker(pytest.mark.system_tools)
