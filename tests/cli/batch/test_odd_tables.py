"""Tables that are odd, large or deep end with few lines, and what is unambiguous in them is accepted."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import anyio
import pytest

from kie_async import ConfigurationError, Problem
from kie_async.cli.batch.table import Table
from kie_async.cli.batch.whole_run import run_batch
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie
from tests.cli.batch.helpers import make_options
from tests.cli.helpers import CAT, CapturedSession, run_cli

DEEP = "[" * 100_000
ODD = {
    "equal names": ("shots.csv", ",".join(["image"] * 140_000) + "\n" + "x\n" * 10),
    "different names": ("shots.csv", ",".join(f"n{n}" for n in range(140_000)) + "\n"),
    "names of a JSON row": ("shots.jsonl", json.dumps({f"n{n}": 1 for n in range(50_000)})),
    "many bad rows": ("shots.csv", "image,prompt,resolution\n" + "cat.jpg,Go,1080p\n" * 3000),
    "short rows": ("shots.csv", "image,prompt\n" + "cat.jpg\n" * 20_000),
    "a quote without an end": ("shots.csv", 'image,prompt\ncat.jpg,"' + "Go\n" * 500_000),
    "cells without an end": ("shots.csv", "image,prompt\n" + '"\n",' * 300_000),
    "deep rows": ("shots.jsonl", f'{{"image": {DEEP}\n' * 20),
    "a long integer": ("shots.jsonl", '{"seed": ' + "9" * 5000 + "}\n"),
    "NUL characters": ("shots.jsonl", '{"image": "a\\u0000b.jpg", "prompt": "Go"}\n'),
    "a long name": ("shots.jsonl", json.dumps({"n" * 900_000: 1})),
}


@pytest.mark.parametrize(("name", "content"), ODD.values(), ids=list(ODD))
async def test_odd_table_ends_with_few_lines(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "cat.jpg").write_bytes(CAT.read_bytes())
    streams = CapturedSession()
    code = await run_batch(streams.session, make_options(tmp_path / name))

    assert ExitCode.USAGE == code
    assert len(streams.err.splitlines()) <= 60
    assert len(streams.err) < 60_000
    assert "Nothing was sent." in streams.err


def test_further_problems_are_counted(tmp_path: Path) -> None:
    (tmp_path / "shots.csv").write_text("image,prompt\n" + "cat.jpg\n" * 1234)
    result = run_cli("batch", str(tmp_path / "shots.csv"), "-o", str(tmp_path / "out"))

    assert 50 == result.err.count("error: ")
    assert "… and 1,184 more." in result.err
    assert "1,234 problems" in result.err


@pytest.mark.parametrize(
    "value", [DEEP, '{"a":' * 5000, "[" * 900 + "]" * 900, "NaN", '{"a": 1, "a": 2}', "9" * 5000, "\ufeff{"]
)
def test_json_that_cannot_be_used_is_refused_by_name(tmp_path: Path, value: str) -> None:
    """In a cell of a column ``:json``, and in ``--input``, as text and from a file."""
    table = tmp_path / "shots.csv"
    table.write_text('x:json\n"' + value.replace('"', '""') + '"\n')
    (tmp_path / "input.json").write_text(value)
    commands = (
        ("batch", str(table), "-o", str(tmp_path / "out"), "--model", "any/model"),
        ("generate", "--model", "any/model", "--input", value, "--no-journal"),
        ("generate", "--model", "any/model", "--input", f"@{tmp_path}/input.json", "--no-journal"),
    )
    for command in commands:
        result = run_cli(*command, KIE_API_KEY="any")

        assert 2 == result.code
        assert "Nothing was sent" in result.err
        assert "This is a bug" not in result.err


@pytest.mark.parametrize("file", ["/dev/zero", "/dev/null", "/", "/dev/no"])
def test_odd_input_files_are_refused(file: str) -> None:
    result = run_cli("generate", "--model", "any/model", "--input", f"@{file}", "--no-journal", KIE_API_KEY="any")

    assert (2, True) == (result.code, "--input: got an unreadable value" in result.err)


@pytest.mark.parametrize("kind", ["pipe", "device", "endless device", "broken link"])
def test_table_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A pipe without a writer would never open, and none can be read twice."""
    path = tmp_path / "shots.csv"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/null", "endless device": "/dev/zero"}.get(kind, "/dev/no"))
    with pytest.raises(ConfigurationError, match="Nothing was sent"):
        list(Table(path=path).check())


async def test_cancelled_check_ends_its_thread(tmp_path: Path) -> None:
    """The thread of a command that was interrupted must not read the rest of the table."""
    table = Table(path=tmp_path / "shots.csv", model="any/model")
    table.path.write_text("prompt\n" + "Go\n" * 10)

    def interrupt(*_row: object) -> list[Problem]:
        table.interrupted.set()
        return []

    problems = table.check(interrupt)
    with pytest.raises(ConfigurationError, match="interrupted"):
        await anyio.to_thread.run_sync(list, problems)


@pytest.mark.parametrize("ending", ["", ",", ",,,", " , ,"])
def test_what_is_unambiguous_is_accepted(tmp_path: Path, ending: str) -> None:
    """Empty columns at the end, integers with a point, blanks, and accents in the other form."""
    composed, decomposed = unicodedata.normalize("NFC", "ü"), unicodedata.normalize("NFD", "ü")
    for name in (f"{composed}1.jpg", f"{decomposed}2.jpg"):
        (tmp_path / name).write_bytes(CAT.read_bytes())
    rows = [
        f"{name}.jpg,Go, 480p ,{seed},1.0{ending}\n"
        for name in (f"{composed}1", f"{decomposed}1", f"{composed}2", f"{decomposed}2")
        for seed in ("7.0", " 7 ", "7.", "+7.000")
    ]
    path = tmp_path / "shots.csv"
    path.write_text(f"image,prompt,resolution,seed,nsfw_checker{ending}\n{''.join(rows)}")
    table = Table(path=path)

    assert [] == list(table.check())
    assert {(7, "480p", True)} == {
        (row.fields["seed"], row.fields["resolution"], row.fields["nsfw_checker"]) for row in table.prepared_rows()
    }


@pytest.mark.parametrize("seed", ["7.5", "7,0", "7e0", "0x7", "7.0.0", "seven", "\uff17.5"])
def test_what_is_ambiguous_is_refused(tmp_path: Path, seed: str) -> None:
    (tmp_path / "cat.jpg").write_bytes(CAT.read_bytes())
    (tmp_path / "shots.csv").write_text(f'image,prompt,seed\ncat.jpg,Go,"{seed}"\n')
    [found] = Table(path=tmp_path / "shots.csv").check()

    assert "seed" == found.problem.field


async def test_images_of_other_types_are_named(fake_kie: FakeKie, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.HEIC", "c.avif", "d.tiff", "notes.txt", ".hidden.heic"):
        (tmp_path / name).write_bytes(CAT.read_bytes())
    streams = CapturedSession(fake_kie)
    options = make_options(tmp_path, out=tmp_path / "out", defaults={"prompt": "Go"}, ask=lambda: False)
    await run_batch(streams.session, options)

    assert "warning: 3 of the folder's images are left out: b.HEIC, c.avif, d.tiff. The service takes" in streams.err


def test_hints_end_after_many_unknown_names(tmp_path: Path) -> None:
    """A comparison of names is slow, and 50 problems are shown."""
    table = Table(path=tmp_path / "shots.jsonl")
    names = [f"prompt{n}" for n in range(1500)]
    table.path.write_text("".join(json.dumps({name: "Go"}) + "\n" for name in [*names, "prompt7"]))
    hinted = [problem.line for problem in table.check() if "did you mean 'prompt'?" in problem.problem.allowed]

    assert [*range(1, 1001), 1501] == hinted
