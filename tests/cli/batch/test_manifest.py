"""The manifest: whole whenever it is looked at, one line a key in the end, and cheap to go on with."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kie_async import ConfigurationError
from kie_async.cli.batch.folder import MANIFEST as NAME
from kie_async.cli.batch.manifest import EntryState, Manifest, ManifestEntry
from tests.cli.batch.folder import shot

#: Writes rows until it is killed, and says so after the first.
ENDLESS = """
import sys
from pathlib import Path
from kie_async.cli.batch.manifest import Manifest
from tests.cli.batch.folder import shot

with Manifest(Path(sys.argv[1])) as manifest:
    for line in range(1, 10**9):
        manifest.record(shot(line))
        if line == 50:
            print("fifty", flush=True)
        if line % 40 == 0:
            manifest.compact()
"""


#: A line in which somebody has edited a figure so that it is none.
EDITED = '{"state": "done", "key": "a", "line": 1, "credits": "forty"}'


def lines(folder: Path) -> Sequence[dict[str, object]]:
    """The manifest as anybody reads it."""
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def write(folder: Path, *entries: ManifestEntry, compact: bool = False) -> None:
    """A run in which these rows end."""
    with Manifest(folder) as manifest:
        for entry in entries:
            manifest.record(entry)
        if compact:
            manifest.compact()


def test_a_line_says_all_that_is_known_of_a_row(tmp_path: Path) -> None:
    write(tmp_path, shot(2))
    [line] = lines(tmp_path)

    assert {"key", "input_hash", "task_id", "state", "credits", "seconds", "file", "sha256"} <= set(line)
    assert ("done", 2, 40.0) == (line["state"], line["line"], line["credits"])


def test_in_the_end_there_is_one_line_a_key_in_the_order_of_the_table(tmp_path: Path) -> None:
    """What a row was before it was done is gone."""
    write(tmp_path, shot(3), shot(2, EntryState.IN_DOUBT), shot(1), shot(2), compact=True)

    assert [(1, "done"), (2, "done"), (3, "done")] == [(line["line"], line["state"]) for line in lines(tmp_path)]


def test_the_last_line_of_a_key_counts_while_a_run_goes_on(tmp_path: Path) -> None:
    with Manifest(tmp_path) as manifest:
        manifest.record(shot(2, EntryState.IN_DOUBT))
        manifest.record(shot(2))

        assert 1 == len(manifest)
        assert ["done"] == [entry.state for entry in manifest.entries()]
        assert 2 == len(lines(tmp_path))


def test_repeating_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    rows = [shot(line) for line in range(1, 20)]
    write(tmp_path, *rows, compact=True)
    before = (tmp_path / NAME).read_bytes()
    with Manifest(tmp_path) as manifest:
        for row in rows:
            manifest.record(row)

        assert before == (tmp_path / NAME).read_bytes()


def test_the_next_run_keeps_what_it_does_not_come_to(tmp_path: Path) -> None:
    write(tmp_path, shot(1), shot(2), compact=True)
    write(tmp_path, shot(3), compact=True)

    assert [1, 2, 3] == [line["line"] for line in lines(tmp_path)]


def test_a_line_that_a_power_cut_has_torn_is_gone(tmp_path: Path) -> None:
    write(tmp_path, shot(1), shot(2))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-10])
    write(tmp_path, shot(3))

    assert [1, 3] == [line["line"] for line in lines(tmp_path)]


@pytest.mark.parametrize("foreign", ["7", "[]", "{}", "no JSON", '{ "key": "a" }', EDITED])
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_line_that_is_none_is_named_and_stays(tmp_path: Path, foreign: str, end: str) -> None:
    """Somebody has edited the file, or it is of somebody else's: it is his to say what becomes of it."""
    write(tmp_path, shot(1))
    path = tmp_path / NAME
    edited = f"{path.read_text()}{foreign}{end}"
    path.write_text(edited)
    with pytest.raises(ConfigurationError, match=r"Line 2 of .* is invalid"):
        Manifest(tmp_path)

    assert edited == path.read_text()
    path.write_text(edited.splitlines()[0])
    write(tmp_path, shot(2))
    assert [1, 2] == [line["line"] for line in lines(tmp_path)], "the folder is free, and a last line needs no end"


def test_texts_that_mislead_are_written_as_escapes(tmp_path: Path) -> None:
    """Whoever looks at the file in a terminal sees what is there; whoever reads it gets the text as it was."""
    prompt = "\x1b[2J\x9b2J \u202eesrever\u2028 next, Größe"
    write(tmp_path, shot(1, prompt=prompt))
    text = (tmp_path / NAME).read_text()

    assert [] == [sign for sign in text[:-1] if not sign.isprintable()]
    assert "Größe" in text
    assert [prompt] == [entry["input"]["prompt"] for entry in lines(tmp_path)]  # type: ignore[index]  # an object


def test_what_a_later_version_writes_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, shot(1))
    path = tmp_path / NAME
    path.write_text(path.read_text().replace('{"key"', '{"colour": "red", "key"'))

    with Manifest(tmp_path) as manifest:
        assert [1] == [entry.line for entry in manifest.entries()]


def test_half_a_character_does_not_break_it(tmp_path: Path) -> None:
    """The service's texts may hold anything."""
    write(tmp_path, shot(1, EntryState.FAILED, reason="\ud83d is half"), compact=True)

    assert ["? is half"] == [line["reason"] for line in lines(tmp_path)]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """The file may grow no further in the middle of a line: the write fails, and the line is not there."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from tests.cli.batch.test_manifest import fill;"
        "fill(Path(sys.argv[1]))"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)

    assert "File too large" in answer.stdout
    assert 2 == len(lines(tmp_path))
    assert [NAME] == [path.name for path in tmp_path.iterdir()]


def fill(folder: Path) -> None:
    """Write down rows until the system refuses: what a process does that has a bound on its files."""
    write(folder, shot(1), shot(2))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / NAME).stat().st_size + 30,) * 2)
    with Manifest(folder) as manifest:
        try:
            manifest.record(shot(3))
        except OSError as error:
            sys.stdout.write(str(error.strerror))


def test_a_process_that_is_killed_leaves_whole_lines(tmp_path: Path) -> None:
    """Kill -9 between appending and compacting, at whatever instant it comes."""
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
        found = lines(tmp_path)

        assert 50 <= len({line["key"] for line in found})
    write(tmp_path, shot(1), compact=True)
    after = [int(str(line["line"])) for line in lines(tmp_path)]
    assert sorted(set(after)) == after


def test_an_entry_that_compacting_did_not_reach_is_there_all_the_same(tmp_path: Path) -> None:
    """Rows go on to be written down after it."""
    with Manifest(tmp_path) as manifest:
        manifest.record(shot(2))
        manifest.compact()
        manifest.record(shot(1))
        manifest.record(shot(2, EntryState.FAILED))
        manifest.compact()

    assert [(1, "done"), (2, "failed")] == [(line["line"], line["state"]) for line in lines(tmp_path)]


def test_what_a_killed_process_has_left_half_written_is_gone_after_the_next_start(tmp_path: Path) -> None:
    """And nothing else is, hidden or not."""
    (tmp_path / "inputs").mkdir()
    stay = {".DS_Store", "inputs", "inputs/.DS_Store", "inputs/a.png", NAME}
    for name in (*stay - {"inputs"}, f".{NAME}.x1", ".index.html.x2", "inputs/.a.png.x3"):
        (tmp_path / name).touch()
    write(tmp_path)

    assert stay == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
