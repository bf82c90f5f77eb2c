"""The distribution's Chromium; ``make chromium`` installs it."""

from __future__ import annotations

import shutil
from collections.abc import Generator

import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    """
    Run the browser headless and without a sandbox, which containers do not allow.

    Its driver runs an event loop in this thread: close it before other tests run.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()
