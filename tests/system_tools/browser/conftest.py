"""A real Chromium, from the distribution: ``make chromium`` installs it where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Generator

import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    """
    The browser, without a window and without a sandbox of its own, which containers have no room for.

    Its driver runs an event loop in this thread for as long as it lives, which no other test can do with.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()
