"""The manifest: it has whole lines at any time, and one line per key after ``compact``."""

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
from kie_async.cli.batch.folder import MANIFEST
from kie_async.cli.batch.manifest import EntryState, Manifest, ManifestEntry
from tests.cli.batch.helpers import make_entry

#: A program that records rows until it is killed; it prints a line after the first fifty.
ENDLESS = """
import sys
from pathlib import Path
from kie_async.cli.batch.manifest import Manifest
from tests.cli.batch.helpers import make_entry

with Manifest(Path(sys.argv[1])) as manifest:
    for line in range(1, 10**9):
        manifest.record(make_entry(line))
        if line == 50:
            print("fifty", flush=True)
        if line % 40 == 0:
            manifest.compact()
"""


#: A line in which a number was edited to be a string.
EDITED = '{"state": "done", "key": "a", "line": 1, "credits": "forty"}'


def lines(folder: Path) -> Sequence[dict[str, object]]:
    """Return the lines of a manifest."""
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def write(folder: Path, *entries: ManifestEntry, compact: bool = False) -> None:
    """Record entries as a run does."""
    with Manifest(folder) as manifest:
        for entry in entries:
            manifest.record(entry)
        if compact:
            manifest.compact()


def test_line_has_all_fields_of_a_row(tmp_path: Path) -> None:
    write(tmp_path, make_entry(2))
    [line] = lines(tmp_path)

    assert {"key", "input_hash", "task_id", "state", "credits", "seconds", "file", "sha256"} <= set(line)
    assert ("done", 2, 40.0) == (line["state"], line["line"], line["credits"])


def test_compact_keeps_one_line_per_key(tmp_path: Path) -> None:
    """Earlier states of a row are removed."""
    write(tmp_path, make_entry(3), make_entry(2, EntryState.IN_DOUBT), make_entry(1), make_entry(2), compact=True)

    assert [(1, "done"), (2, "done"), (3, "done")] == [(line["line"], line["state"]) for line in lines(tmp_path)]


def test_last_line_of_a_key_counts(tmp_path: Path) -> None:
    with Manifest(tmp_path) as manifest:
        manifest.record(make_entry(2, EntryState.IN_DOUBT))
        manifest.record(make_entry(2))

        assert 1 == len(manifest)
        assert ["done"] == [entry.state for entry in manifest.entries()]
        assert 2 == len(lines(tmp_path))


def test_repeated_run_changes_nothing(tmp_path: Path) -> None:
    rows = [make_entry(line) for line in range(1, 20)]
    write(tmp_path, *rows, compact=True)
    before = (tmp_path / MANIFEST).read_bytes()
    with Manifest(tmp_path) as manifest:
        for row in rows:
            manifest.record(row)

        assert before == (tmp_path / MANIFEST).read_bytes()


def test_next_run_keeps_other_rows(tmp_path: Path) -> None:
    write(tmp_path, make_entry(1), make_entry(2), compact=True)
    write(tmp_path, make_entry(3), compact=True)

    assert [1, 2, 3] == [line["line"] for line in lines(tmp_path)]


def test_torn_line_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, make_entry(1), make_entry(2))
    path = tmp_path / MANIFEST
    path.write_bytes(path.read_bytes()[:-10])
    write(tmp_path, make_entry(3))

    assert [1, 3] == [line["line"] for line in lines(tmp_path)]


@pytest.mark.parametrize("foreign", ["7", "[]", "{}", "no JSON", '{ "key": "a" }', EDITED])
@pytest.mark.parametrize("end", ["\n", ""])
def test_invalid_line_is_reported_and_kept(tmp_path: Path, foreign: str, end: str) -> None:
    """The user may have edited the file, or it may come from another program."""
    write(tmp_path, make_entry(1))
    path = tmp_path / MANIFEST
    edited = f"{path.read_text()}{foreign}{end}"
    path.write_text(edited)
    with pytest.raises(ConfigurationError, match=r"Line 2 of .* is invalid"):
        Manifest(tmp_path)

    assert edited == path.read_text()
    path.write_text(edited.splitlines()[0])
    write(tmp_path, make_entry(2))
    assert [1, 2] == [line["line"] for line in lines(tmp_path)], (
        "the lock is released, and the last line needs no line break"
    )


def test_unsafe_characters_are_escaped(tmp_path: Path) -> None:
    """A terminal shows the true text, and a JSON parser returns it unchanged."""
    prompt = "\x1b[2J\x9b2J \u202eesrever\u2028 next, Größe"
    write(tmp_path, make_entry(1, prompt=prompt))
    text = (tmp_path / MANIFEST).read_text()

    assert [] == [sign for sign in text[:-1] if not sign.isprintable()]
    assert "Größe" in text
    assert [prompt] == [entry["input"]["prompt"] for entry in lines(tmp_path)]  # type: ignore[index]  # an object


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, make_entry(1))
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace('{"key"', '{"color": "red", "key"'))

    with Manifest(tmp_path) as manifest:
        assert [1] == [entry.line for entry in manifest.entries()]


def test_lone_surrogate_is_replaced(tmp_path: Path) -> None:
    """The service's texts may contain any character."""
    write(tmp_path, make_entry(1, EntryState.FAILED, reason="\ud83d is half"), compact=True)

    assert ["? is half"] == [line["reason"] for line in lines(tmp_path)]


def test_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A write that fails in the middle of a line removes the line."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from tests.cli.batch.test_manifest import fill;"
        "fill(Path(sys.argv[1]))"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)

    assert "File too large" in answer.stdout
    assert 2 == len(lines(tmp_path))
    assert [MANIFEST] == [path.name for path in tmp_path.iterdir()]


def fill(folder: Path) -> None:
    """Record rows in a process whose files are limited in size, until a write fails."""
    write(folder, make_entry(1), make_entry(2))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / MANIFEST).stat().st_size + 30,) * 2)
    with Manifest(folder) as manifest:
        try:
            manifest.record(make_entry(3))
        except OSError as error:
            sys.stdout.write(str(error.strerror))


def test_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    """``kill -9`` comes at any moment while lines are appended and compacted."""
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
        found = lines(tmp_path)

        assert 50 <= len({line["key"] for line in found})
    write(tmp_path, make_entry(1), compact=True)
    after = [int(str(line["line"])) for line in lines(tmp_path)]
    assert sorted(set(after)) == after


def test_entries_recorded_after_compact_are_kept(tmp_path: Path) -> None:
    """Rows are recorded before and after ``compact``."""
    with Manifest(tmp_path) as manifest:
        manifest.record(make_entry(2))
        manifest.compact()
        manifest.record(make_entry(1))
        manifest.record(make_entry(2, EntryState.FAILED))
        manifest.compact()

    assert [(1, "done"), (2, "failed")] == [(line["line"], line["state"]) for line in lines(tmp_path)]


def test_temporary_files_are_removed(tmp_path: Path) -> None:
    """Other files stay, hidden or not."""
    (tmp_path / "inputs").mkdir()
    stay = {".DS_Store", "inputs", "inputs/.DS_Store", "inputs/a.png", MANIFEST}
    for name in (*stay - {"inputs"}, f".{MANIFEST}.x1", ".index.html.x2", "inputs/.a.png.x3"):
        (tmp_path / name).touch()
    write(tmp_path)

    assert stay == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
