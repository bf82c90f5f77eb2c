"""
The documents are correct: every Python block runs, every command exists, every link resolves, every doctest passes.

The blocks of one page run in order, as one program with one namespace, in an empty folder that holds ``cat.png``, on
virtual time, against a ``FakeKie`` called ``fake`` that the environment points to. ``await`` works at the top level,
and ``asyncio.run(main())`` means ``await main()``. Within ``async with serving(app)`` an application is served, at the
``PUBLIC_URL`` of the environment. Setup and assertions that readers do not need are comments::

    <!-- python
    assert Path("cat.mp4").stat().st_size > 1000
    -->
"""

from __future__ import annotations

import ast
import doctest
import inspect
import pkgutil
import re
import shlex
import socket
import struct
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import anyio
import pytest
import uvicorn
from aiohttp import web

import benchmarks
import kie_async
from kie_async.cli.model_fields import fields_of_model
from kie_async.testing import FakeKie

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
MODULES = [
    name
    for package in (kie_async, benchmarks)
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]

BLOCK = re.compile(r"^```python\n(.*?)^```$|^<!-- python\n(.*?)^-->$", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def id_of(value: object) -> str:
    """Return the id of a test parameter."""
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


class Awaited(ast.NodeTransformer):
    """A transformer of ``asyncio.run(x)`` into ``await x``, because a page runs within a loop."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace one call."""
        self.generic_visit(node)
        if ast.unparse(node.func) == "asyncio.run":
            return ast.copy_location(ast.Await(node.args[0]), node)
        return node


def programs(page: Path) -> list[CodeType]:
    """Compile the Python blocks of a page. A traceback shows the line of the page."""
    text = page.read_text()
    compiled = []
    for block in BLOCK.finditer(text):
        source = block[1] or block[2]
        lines_before = text[: block.start()].count("\n") + 1
        tree = ast.increment_lineno(Awaited().visit(ast.parse(source, str(page))), lines_before)
        compiled.append(compile(tree, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
    return compiled


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command in the shell blocks of a page, without prompts and environment."""
    return [
        words
        for block in SHELL.finditer(page.read_text())
        for line in block[1].replace("\\\n", " ").splitlines()
        for command in re.split(r"&&|\|\||;|\|", line.removeprefix("$ "))
        if (words := [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)])
    ]


def png() -> bytes:
    """Make a small gray picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x80" * 96 for _ in range(64))
    header = struct.pack(">IIBBBBB", 96, 64, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def server_of(listener: socket.socket) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a context manager that serves an aiohttp or ASGI application at an address."""

    @asynccontextmanager
    async def serving(app: Any) -> AsyncIterator[None]:
        if isinstance(app, web.Application):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.SockSite(runner, listener.dup()).start()
            try:
                yield
            finally:
                await runner.cleanup()
            return
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listener.dup()])
            while not server.started:
                await anyio.sleep(0.1)
            yield
            server.should_exit = True

    return serving


@pytest.mark.parametrize("page", [page for page in PAGES if programs(page)], ids=id_of)
async def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that a reader copies works."""
    (tmp_path / "cat.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIE_API_KEY", "a-key-for-the-fake")
    monkeypatch.setenv("KIE_WEBHOOK_KEY", "a-key-for-signatures")
    async with FakeKie(webhook_key="a-key-for-signatures") as fake:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            monkeypatch.setenv("PUBLIC_URL", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("KIE_BASE_URL", fake.url)
            namespace: dict[str, object] = {"__name__": "__main__", "fake": fake, "serving": server_of(listener)}
            for code in programs(page):
                answer: object = FunctionType(code, namespace)()
                if inspect.iscoroutine(answer):
                    await answer


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_shell_blocks_parse(page: Path) -> None:
    """A shell parses them without running them."""
    for block in SHELL.finditer(page.read_text()):
        script = re.sub(r"^\$ ", "", block[1], flags=re.MULTILINE)
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0, script


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_make_targets_exist(page: Path) -> None:
    """Every make target that a document names exists."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for words in commands(page) if words[0] == "make" and len(words) > 1}
    named |= set(re.findall(r"`make ([a-z-]+)", page.read_text()))

    assert named <= targets


def field_options(words: Sequence[str]) -> set[str]:
    """Return the options of ``generate`` that are fields of the model which a command names."""
    model = words[words.index("--model") + 1] if "generate" in words and "--model" in words else None
    fields = None if model is None else fields_of_model(model)
    return set() if fields is None else {f"--{name.replace('_', '-')}" for name in fields.names}


def test_command_line_calls_in_documents_exist() -> None:
    """Every ``kie-async …`` of a page is a command and has the given options."""
    options: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for page in PAGES:
        for words in commands(page):
            if words[0] == "kie-async":
                command = tuple(takewhile(lambda word: not word.startswith("-"), words[1:2]))
                given = {word.partition("=")[0] for word in words if word.startswith("--")}
                options[command] |= given - field_options(words)
    for command, used in options.items():
        call = [sys.executable, "-c", "from kie_async.cli import main; main()", *command, "--help"]
        shown = subprocess.run(call, capture_output=True, text=True, check=True, env={"COLUMNS": "200"}).stdout
        assert set() == {option for option in used if option not in shown}, command


def test_continuous_integration_runs_what_the_readme_says() -> None:
    """Continuous integration runs the README's second command."""
    script = (ROOT / ".ci" / "run").read_text().splitlines()

    assert shlex.split(script[-1]) in commands(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    """Web addresses are not fetched."""
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link and not link.startswith("mailto:")]

    assert [] == [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("name", MODULES)
def test_doctests_hold(name: str) -> None:
    """Run the examples of each module's docstrings."""
    results = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)

    assert results.failed == 0
