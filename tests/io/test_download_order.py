"""Whose turn it is: the result that is harder to get soonest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kie_async._io.files.downloads import FILE_LIFETIME, URL_LIFETIME, expires_at

DAY = 86_400.0
instants = st.floats(0.0, 2e9)


@given(instants, instants)
def test_of_two_results_with_good_urls_the_older_goes_first(now: float, age: float) -> None:
    age %= URL_LIFETIME - 1.0

    assert expires_at(now - age - 0.5, now) <= expires_at(now - age, now)


@given(instants, st.floats(0.0, 2.0))
def test_a_result_whose_url_has_expired_lets_those_go_first_whose_url_is_good(now: float, days: float) -> None:
    assert expires_at(now - (1.1 + days) * DAY, now) > expires_at(now - 0.5 * DAY, now)


def test_a_file_that_is_about_to_be_deleted_goes_before_a_new_one() -> None:
    now = 100 * DAY
    assert expires_at(now - FILE_LIFETIME + 3600.0, now) < expires_at(now, now)


@given(instants, instants)
def test_a_result_of_unknown_age_goes_before_all_that_have_time(now: float, age: float) -> None:
    assert expires_at(None, now) <= expires_at(now - age % URL_LIFETIME, now)
