"""
Measure the package: files, lines of code, statements, the longest file and function, the files that a call enters.

``python tools/measure.py`` prints the figures. ``tests/test_shape.py`` holds them to their bounds.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import inspect
import io
import sys
import tempfile
import threading
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_NO_CODE = frozenset(
    {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)


class Size(NamedTuple):
    """The size of a package: numbers of files, code lines and statements; lines of the longest file and function."""

    files: int
    code_lines: int
    statements: int
    longest_file: int
    longest_function: int


def measure_size(package: Path) -> Size:
    """
    Measure a package.

    Args:
        package: Its folder.

    Returns:
        Its size. Docstrings, comments and blank lines are no code lines.
    """
    files = code_lines = statements = longest_file = longest_function = 0
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(text)))
        docstring_lines: set[int] = set()
        for node in nodes:
            if isinstance(
                node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            ) and ast.get_docstring(node):
                docstring_lines.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                longest_function = max(longest_function, (node.end_lineno or 0) - node.lineno + 1)
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in _NO_CODE:
                lines.update(range(token.start[0], token.end[0] + 1))
        files += 1
        code_lines += len(lines - docstring_lines)
        statements += sum(isinstance(node, ast.stmt) for node in nodes)
        longest_file = max(longest_file, len(text.splitlines()))
    return Size(files, code_lines, statements, longest_file, longest_function)


@contextmanager
def record_entered_files(package: Path) -> Iterator[set[str]]:
    """
    Record the files of a package whose functions are called, in all threads that are started within.

    Args:
        package: Its folder.

    Yields:
        The paths, relative to the package. Module and class bodies, which run on import, do not count.
    """
    entered: set[str] = set()
    prefix = f"{package}/"

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # Only functions have optimized code; a lazy attribute of a module is part of an import.
        is_function = code.co_flags & inspect.CO_OPTIMIZED and code.co_name != "__getattr__"
        if event == "call" and is_function and code.co_filename.startswith(prefix):
            entered.add(code.co_filename.removeprefix(prefix))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def files_entered(*, by_map: bool) -> list[str]:
    """
    List the files that one call enters, with a journal on disk and an open client.

    Args:
        by_map: True for one row of ``map()`` with ``save_to``, False for one ``generate()``.

    Returns:
        The sorted paths, relative to the package, without ``testing``.
    """
    import kie_async
    from kie_async import KieClient, Wan22TurboImageToVideo
    from kie_async.testing import FakeKie

    package = Path(kie_async.__file__).parent
    request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt="The cat yawns")
    with tempfile.TemporaryDirectory() as folder, record_entered_files(package) as entered:
        async with (
            FakeKie(speed=1000) as fake,
            KieClient("any-key", base_url=fake.url, journal=f"{folder}/kie.db") as kie,
        ):
            await kie.credits()
            entered.clear()
            if by_map:
                async with kie.map([("row", request)], save_to=f"{folder}/{{key}}.mp4") as run:
                    async for _ in run:
                        pass
            else:
                await kie.generate(request)
            return sorted(path for path in entered if not path.startswith("testing/"))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--names", action="store_true", help="also print the names of the files that are entered")
    names = parser.parse_args().names
    print(measure_size(ROOT / "kie_async"))
    for what, by_map in (("generate()", False), ("one row of map()", True)):
        entered = asyncio.run(files_entered(by_map=by_map))
        print(f"{what} enters {len(entered)} files of the package")
        if names:
            print(*entered, sep="\n")


if __name__ == "__main__":
    main()
