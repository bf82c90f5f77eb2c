"""The rules of fields, apart from any model."""

from __future__ import annotations

from kie_async.requests._model import FieldRule, choice, text


def test_a_single_choice_is_told_as_such() -> None:
    problem = choice("std")[FieldRule].problem("mode", "pro", frozenset())

    assert str(problem) == "mode: got 'pro'; allowed: std"


def test_a_value_of_the_wrong_type_is_shown_by_its_type() -> None:
    assert text(longest=5)[FieldRule].shown(["secret"]) == "a value of type list"
