"""The rules of fields, independent of any model."""

from __future__ import annotations

from kie_async.requests._model import FieldRule, choice, text


def test_single_choice_is_named() -> None:
    problem = choice("std")[FieldRule].problem("mode", "pro", frozenset())

    assert str(problem) == "mode: got 'pro'; allowed: std"


def test_value_of_the_wrong_type_is_shown_by_type() -> None:
    assert text(longest=5)[FieldRule].shown(["secret"]) == "a value of type list"
