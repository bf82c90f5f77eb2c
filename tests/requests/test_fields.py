"""The rules of fields, independent of any model."""

from __future__ import annotations

from kie_async.requests._model import Choice, Text


def test_single_choice_is_named() -> None:
    problem = Choice(("std",)).problem("mode", "pro", frozenset())

    assert str(problem) == "mode: got 'pro'; allowed: std"


def test_value_of_the_wrong_type_is_shown_by_type() -> None:
    assert Text(longest=5).shown(["secret"]) == "a value of type list"
