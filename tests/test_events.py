"""Test the documentation of events; ``client_and_fake()`` checks the detail of every event that a test reports."""

from __future__ import annotations

import re

from kie_async import EventName
from tests.helpers import documented_keys


def test_every_event_has_a_row_in_the_table() -> None:
    assert list(EventName) == list(documented_keys())


def test_every_key_is_explained() -> None:
    explained = set(re.findall(r"^ *\* ``(\w+)``", EventName.__doc__ or "", re.MULTILINE))

    assert set[str]().union(*(keys for both in documented_keys().values() for keys in both)) == explained
