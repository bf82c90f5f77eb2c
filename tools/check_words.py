"""
Check how this project writes: the first word of every docstring, words that were replaced, and class names used twice.

``python tools/check_words.py`` prints ``file:line: what is wrong`` for each finding and exits with 1 if there is any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("kie_async", "tests", "benchmarks", "examples", "tools", "docs")
#: This file lists the words, and its test uses them.
EXEMPT = frozenset({"tools/check_words.py", "tests/test_check_words.py"})

QUESTION_WORDS = frozenset({"what", "whether", "how", "where", "which", "who"})
REPLACED_WORDS = re.compile(
    r"\b(how-manieth|errands?|till|likewise|go(es|ing)? on with|went on with|c[oa]mes? home|coming home"
    r"|mend(s|ed|ing)?|somebody|nobody|whoever)\b",
    re.IGNORECASE,
)


def check_text(text: str) -> Iterator[tuple[int, str]]:
    """
    Find the replaced words of a text.

    Args:
        text: A file's content.

    Yields:
        The line, from 1, and a message.
    """
    for number, line in enumerate(text.splitlines(), 1):
        # In a name such as a_test_that_nobody_reads the words are joined by underscores.
        for match in REPLACED_WORDS.finditer(line.replace("_", " ")):
            yield number, f"the word {match.group()!r} is not used in this project"


def check_docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """
    Find the docstrings that begin with a question word.

    Args:
        tree: A parsed module.

    Yields:
        The line of the docstring, from 1, and a message.
    """
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        words = re.findall(r"\w+", ast.get_docstring(node) or "")
        if words and words[0].lower() in QUESTION_WORDS:
            yield node.body[0].lineno, f"a docstring begins with {words[0]!r}: use a verb in the imperative or a noun"


def check_class_names(trees: dict[str, ast.Module]) -> Iterator[tuple[str, int, str]]:
    """
    Find the class names that are used more than once.

    Args:
        trees: The parsed modules of the package, by path.

    Yields:
        The path, the line, and a message, for each use but the first.
    """
    seen: dict[str, str] = {}
    for path, tree in sorted(trees.items()):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and seen.setdefault(node.name, path) != path:
                yield path, node.lineno, f"the class name {node.name} is used in {seen[node.name]} already"


def main() -> int:
    """Check all files of the project, and print the findings."""
    findings: list[tuple[str, int, str]] = []
    package: dict[str, ast.Module] = {}
    paths = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))]
    for path in sorted(path for path in paths if path.suffix in {".py", ".md"}):
        name = path.relative_to(ROOT).as_posix()
        if name in EXEMPT:
            continue
        text = path.read_text(encoding="utf-8")
        findings += [(name, line, message) for line, message in check_text(text)]
        if path.suffix == ".py":
            tree = ast.parse(text)
            findings += [(name, line, message) for line, message in check_docstrings(tree)]
            if name.startswith("kie_async/"):
                package[name] = tree
    findings += check_class_names(package)
    for name, line, message in findings:
        print(f"{name}:{line}: {message}")
    print(f"{len(findings)} findings in docstrings, words and class names.")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
