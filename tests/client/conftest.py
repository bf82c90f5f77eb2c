"""A check around every test of the client: no log record shows the key or a prompt."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.helpers import KEY, PROMPT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if a log record of any logger holds the key or a prompt, in its text or its traceback."""
    caplog.set_level(logging.DEBUG)
    formatter = logging.Formatter("%(message)s %(args)s")
    yield
    shown = [formatter.format(record) for when in ("setup", "call") for record in caplog.get_records(when)]
    assert [] == [text for text in shown if KEY in text or PROMPT in text]
