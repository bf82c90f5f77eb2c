"""Standard streams that are closed, full or of another locale lose no result: ``kie-async`` in real processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest

from kie_async.testing import FakeKie
from tests.cli.helpers import CAT
from tests.profile import sample

#: The redirection, an environment variable, the exit code, and what standard output has.
STREAMS = (
    ("", "PYTHONIOENCODING=ascii", 0, "/\\xfcb\\udce9.mp4"),
    ("", "LC_ALL=C", 0, "/\\udcc3\\udcbcb\\udce9.mp4"),
    (">/dev/full", "", 1, ""),
    (">&-", "", 1, ""),
    ("2>/dev/full", "", 0, "/\N{LATIN SMALL LETTER U WITH DIAERESIS}b\\udce9.mp4"),
    ("2>&-", "", 0, "/\N{LATIN SMALL LETTER U WITH DIAERESIS}b\\udce9.mp4"),
    (">&- 2>&- <&-", "", 1, ""),
    (">&- 2>/dev/full", "", 1, ""),
)


@pytest.mark.parametrize(("redirection", "variable", "code", "printed"), sample(STREAMS, check=0.25))
async def test_result_is_saved_whatever_the_streams_are(
    tmp_path: Path, redirection: str, variable: str, code: int, printed: str
) -> None:
    """Nothing that is printed before the end can end the command, either, and the file descriptors stay apart."""
    out = tmp_path / "\N{LATIN SMALL LETTER U WITH DIAERESIS}b\udce9.mp4"
    command = [sys.executable, "-m", "kie_async", "generate", "-i", str(CAT), "-p", "Go", "-o", str(out)]
    name, _, value = variable.partition("=")
    async with FakeKie(speed=50.0) as fake:
        environment = {**os.environ, "KIE_BASE_URL": fake.url, "KIE_API_KEY": "any", "PYTHONUTF8": "0"}
        environment |= {"XDG_STATE_HOME": str(tmp_path), "PYTHONIOENCODING": "utf-8", **({name: value} if name else {})}
        ended = await anyio.run_process(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *command], env=environment, check=False
        )
    text = ended.stdout.decode()

    assert (code, True) == (ended.returncode, out.stat().st_size > 0)
    assert printed == text.removeprefix(str(tmp_path)).rstrip("\n")
    assert b"Traceback" not in ended.stderr
    if code:
        assert "2>" in redirection or str(tmp_path).encode() in ended.stderr
