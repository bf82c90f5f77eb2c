"""Test the order of downloads: the result that expires soonest is first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kie_async._io.files.downloads import FILE_LIFETIME, URL_LIFETIME, expires_at

DAY = 86_400.0
instants = st.floats(0.0, 2e9)


@given(instants, instants)
def test_older_results_are_downloaded_first(now: float, age: float) -> None:
    age %= URL_LIFETIME - 1.0

    assert expires_at(now - age - 0.5, now) <= expires_at(now - age, now)


@given(instants, st.floats(0.0, 2.0))
def test_results_with_expired_urls_come_last(now: float, days: float) -> None:
    assert expires_at(now - (1.1 + days) * DAY, now) > expires_at(now - 0.5 * DAY, now)


def test_files_near_deletion_come_before_new_ones() -> None:
    now = 100 * DAY
    assert expires_at(now - FILE_LIFETIME + 3600.0, now) < expires_at(now, now)


@given(instants, instants)
def test_results_of_unknown_age_come_first(now: float, age: float) -> None:
    assert expires_at(None, now) <= expires_at(now - age % URL_LIFETIME, now)
