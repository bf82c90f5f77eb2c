"""The check of words finds what it is meant to find."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("check_words", Path(__file__).parents[1] / "tools" / "check_words.py")
assert _spec is not None
assert _spec.loader is not None
check_words = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_words)


@pytest.mark.parametrize(
    "text", ["# Nobody waits.", "def somebody_elses() -> None: ...", "It goes on with the next row.", "Mend that."]
)
def test_replaced_word_is_found(text: str) -> None:
    assert [1] == [line for line, _ in check_words.check_text(text)]


@pytest.mark.parametrize("text", ["# until it ends", "an amendment", "it goes on"])
def test_other_word_passes(text: str) -> None:
    assert [] == list(check_words.check_text(text))


def test_question_word_in_docstring_is_found() -> None:
    code = '"""A module."""\n\ndef size():\n    """\n    How large it is.\n    """\n\nclass C:\n    """Whether."""\n'
    assert [4, 9] == [line for line, _ in check_words.check_docstrings(ast.parse(code))]


def test_class_name_used_twice_is_found() -> None:
    trees = {"a.py": ast.parse("class Row: ..."), "b.py": ast.parse("\nclass Row: ...\nclass Other: ...")}
    assert [("b.py", 2)] == [(path, line) for path, line, _ in check_words.check_class_names(trees)]
