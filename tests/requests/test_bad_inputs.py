"""Each invalid input gets one clear message; ``tests/client`` checks that none is sent."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import TYPE_CHECKING, Any, cast

import pytest

from kie_async import (
    ConfigurationError,
    InvalidRequestError,
    KieClient,
    Limits,
    MarketRequest,
    Problem,
    Wan22TurboImageToVideo,
)
from kie_async._keys import check_key
from kie_async._settings import check_id
from kie_async.requests.base import invalid_request
from tests.requests.bad_inputs import BAD_INPUTS, BadInput

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.name[:40])
def test_bad_input_gets_one_clear_message(bad: BadInput, tmp_path: Path) -> None:
    """It names the field, the fault and the allowed values, in a few lines without private content."""
    with pytest.raises((InvalidRequestError, TypeError)) as raised:
        bad.build(tmp_path).check()
    error = raised.value
    message = str(error)

    assert bad.field in message
    assert bad.says in message
    assert "\n" not in message
    assert len(message) < 600
    assert message.isprintable()
    assert "secret" not in message
    if isinstance(error, InvalidRequestError):
        assert [bad.field] == [problem.field for problem in error.problems][:1]
        assert f"{bad.field}: got {error.problems[0].value}; allowed: " in message
        assert message.endswith("Nothing was sent: correct it and submit it again.")


def test_bad_inputs_are_many_and_distinct() -> None:
    names = [bad.name for bad in BAD_INPUTS]

    assert len(names) >= 40
    assert sorted(set(names)) == sorted(names)


LONG: Any = "n" * 1_000_000
HUGE: Any = 10**5000


def _market(given: object, model: str = "z-image") -> Callable[[], object]:
    return MarketRequest(model=model, input=cast("Any", given)).check


def _wan(**options: Any) -> Callable[[], object]:
    given: dict[str, Any] = {"image": "https://a.example/b.png", "prompt": "Go", **options}
    return lambda: Wan22TurboImageToVideo(**given).check()


CITING: dict[str, Callable[[], object]] = {
    "a name of the input": _market({LONG: nan}),
    "names within names": _market({"a": {LONG: {LONG: {LONG: [nan, HUGE]}}}}),
    "a name that is no identifier": _market({LONG + "-": {"a": nan}}),
    "a name that is too large": _market({LONG: 1}),
    "a model": _market({}, model=LONG),
    "an unknown option": _wan(**{LONG: 1}),
    "a word": _wan(resolution=LONG),
    "a path": _wan(image=LONG),
    "a URL": _wan(image=f"https://{LONG}"),
    "a string for a number": lambda: Limits(creates=LONG),
    "a number": lambda: Limits(creates=-HUGE),
    "a key": lambda: check_key(LONG),
    "a number for a key": lambda: check_key(HUGE),
    "an id": lambda: check_id(LONG),
    "hosts": lambda: KieClient("any", download_hosts=LONG),
    "a network": lambda: KieClient("any", allow_networks=[LONG]),
}


@pytest.mark.parametrize("call", CITING.values(), ids=list(CITING))
def test_long_input_is_cited_in_short(call: Callable[[], object]) -> None:
    with pytest.raises((InvalidRequestError, ConfigurationError, TypeError)) as raised:
        call()
    problems = raised.value.problems if isinstance(raised.value, InvalidRequestError) else ()

    assert len(str(raised.value)) < 2000
    assert all(len(problem.field) < 600 for problem in problems)


def test_problem_of_another_request_class_is_printed_in_short() -> None:
    """The attributes are whole."""
    problem = Problem(LONG, LONG, LONG)

    assert len(str(invalid_request("a", [problem]))) < 2000
    assert LONG == problem.allowed


@pytest.mark.parametrize("given", [{LONG: 1}, dict.fromkeys(map(str, range(9000)), 1), LONG, {HUGE: 1}])
def test_repr_of_a_request_is_short(given: object) -> None:
    assert len(repr(MarketRequest(model="a/b", input=cast("Any", given)))) < 600
