"""Type checkers and editors know the classes: wrong values, misspelled options, and the completion of names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kie_async import catalogue
from tests.profile import scaled

ROOT = Path(__file__).parents[2]
#: A wrong call, and the option that a message must name.
WRONG_CALLS = {
    'Kling21Pro(image="a.png", prompt="x", duration=7)': "duration",
    'Kling21Pro(image="a.png", promt="x")': "promt",
    'NanoBanana2(prompt="x", resolution="8K")': "resolution",
    'NanoBanana2(prompt="x", imges=["a.png"])': "imges",
    'Seedance2(prompt="x", aspect_ratio="5:4")': "aspect_ratio",
    'Seedance2(prompt="x", durations=5)': "durations",
    'Wan27ImageToVideo(prompt="x", duration="5")': "duration",
    'Wan27ImageToVideo(prompt="x", resolutoin="720p")': "resolutoin",
    'Hailuo23ImageToVideoPro(image="a.png", prompt="x", resolution="1080p")': "resolution",
    'Hailuo23ImageToVideoPro(image="a.png", prompt="x", sed=1)': "sed",
}
IMPORT = (
    "from kie_async.catalogue import Hailuo23ImageToVideoPro, Kling21Pro, NanoBanana2, Seedance2, Wan27ImageToVideo\n"
)


def check_with_mypy(program: Path) -> list[tuple[int, str]]:
    """Return the lines that mypy finds wrong, and its messages."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}"]
    answer = subprocess.run([*command, str(program)], cwd=ROOT, capture_output=True, text=True, check=False)
    found = [line.split(":", 3) for line in answer.stdout.splitlines() if line.startswith(str(program))]
    return [(int(number), message) for _, number, _, message in found]


def check_with_pyright(program: Path) -> list[tuple[int, str]]:
    """Return the lines that pyright finds wrong, and the first line of each message; the others explain it."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(program)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(answer.stdout)["generalDiagnostics"]
    return [(one["range"]["start"]["line"] + 1, one["message"].partition("\n")[0]) for one in found]


CHECKERS = {"pyright": check_with_pyright, "mypy": check_with_mypy}


@pytest.mark.parametrize("checker", scaled(quick=["pyright"], check=["pyright"], nightly=["pyright", "mypy"]))
def test_type_checkers_name_the_option_in_a_line_or_two(checker: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(IMPORT + "\n".join(WRONG_CALLS) + "\n")
    found = CHECKERS[checker](program)

    assert all(number > 1 for number, _ in found), found
    for number, option in enumerate(WRONG_CALLS.values(), 2):
        messages = [message for line, message in found if line == number]
        assert 1 <= len(messages) <= 2
        assert any(f'"{option}"' in message for message in messages)


class _LanguageServer:
    """Pyright's language server, as an editor starts it."""

    def __init__(self, folder: Path) -> None:
        command = [str(Path(sys.executable).with_name("pyright-python-langserver")), "--stdio"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
        self._number = 0

    def close(self) -> None:
        """End the server."""
        with self._process:
            self._process.terminate()

    def notify(self, method: str, **params: object) -> None:
        """Send a message that has no response."""
        self._send({"method": method, "params": params})

    def ask(self, method: str, **params: object) -> Any:
        """Send a request and return its result."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while (answer := self._receive()).get("id") != self._number or "method" in answer:
            if "id" in answer and "method" in answer:  # a request of the server
                asked = answer.get("params", {}).get("items", [])
                settings = {"pythonPath": sys.executable}
                self._send({"id": answer["id"], "result": [settings] * len(asked) if asked else None})
        return answer["result"]

    def _send(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        length = 0
        while (line := self._process.stdout.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return dict(json.loads(self._process.stdout.read(length)))


def test_completion_lists_all_classes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    text = "import kie_async.catalogue\nkie_async.catalogue."
    program.write_text(text)
    uri = program.as_uri()
    server = _LanguageServer(tmp_path)
    try:
        folders = [{"uri": tmp_path.as_uri(), "name": "test"}]
        capabilities = {"workspace": {"configuration": True, "workspaceFolders": True}}
        server.ask("initialize", processId=None, rootUri=None, workspaceFolders=folders, capabilities=capabilities)
        server.notify("initialized")
        document = {"uri": uri, "languageId": "python", "version": 1, "text": text}
        server.notify("textDocument/didOpen", textDocument=document)
        position = {"line": 1, "character": len("kie_async.catalogue.")}
        found = server.ask("textDocument/completion", textDocument={"uri": uri}, position=position)
    finally:
        server.close()

    assert set(catalogue.MODELS.values()) <= {item["label"] for item in found["items"]}
