"""The commands that bring the catalogue's data up to date, against a fake with a real clock."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anyio

from kie_async.testing import FakeKie

ROOT = Path(__file__).parents[2]
DATA = ROOT / "kie_async" / "catalogue" / "models.json"
MODEL = "kling/v2-1-pro"


async def run_tool(name: str, *arguments: str) -> str:
    """Run a script of ``tools``, and return its output."""
    command = [sys.executable, str(ROOT / "tools" / name), "--model", MODEL, *arguments]
    done = await anyio.run_process(command, env={**os.environ, "KIE_API_KEY": "any key"}, stderr=None)
    return done.stdout.decode()


async def test_fetch_prints_differences_and_rewrites_the_data(tmp_path: Path) -> None:
    """The other models stay as they are."""
    file = tmp_path / "models.json"
    changed = DATA.read_text(encoding="utf-8").replace(
        '"cfg_scale": {"type": "number"', '"cfg_scale": {"type": "string"'
    )
    file.write_text(changed, encoding="utf-8")
    async with FakeKie() as fake:
        said = await run_tool("fetch_models.py", "--base-url", fake.url, "--data", str(file))

    lines = file.read_text(encoding="utf-8").splitlines()
    others = [new == old for new, old in zip(lines, changed.splitlines(), strict=True) if f'"{MODEL}"' not in new]
    model = next(model for model in json.loads(file.read_text(encoding="utf-8"))["models"] if model["model"] == MODEL)
    assert [
        '~ kling/v2-1-pro: cfg_scale: type: "string" -> "number"',
        "1 models read, 1 differences",
    ] == said.splitlines()
    assert all(others)
    assert "number" == model["fields"]["cfg_scale"]["type"]


async def test_generator_fetches_first() -> None:
    """With ``--dry-run`` nothing is written, and the generated files are those of today."""
    before = DATA.read_bytes()
    async with FakeKie() as fake:
        said = await run_tool("catalogue.py", "--fetch", "--dry-run", "--base-url", fake.url)
        assert ["models", "models"] == [query.place for query in fake.truth.queries]

    assert ["1 models read, 0 differences"] == said.splitlines()
    assert before == DATA.read_bytes()
