"""Each invalid input gets one clear message; ``tests/client`` checks that none is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kie_async import InvalidRequestError
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
