"""Manifest entries and output folders as a run leaves them, made without a service."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from kie_async.cli.batch.manifest import EntryState, Manifest, ManifestEntry
from kie_async.cli.batch.page import PageHeader, write_page
from kie_async.testing.media import bundled_clip
from tests.cli.helpers import CAT

__all__ = ["MARKUP", "make_entry", "make_folder"]

#: A prompt that runs a script, loads an image or breaks the page if it is not escaped.
MARKUP = """</p></script><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)> & "'{{ 7 * 7 }}"""

_MODEL = "wan/2-2-a14b-image-to-video-turbo"
_STARTED_AT = 1_790_000_000.0
_COMMAND = "kie-async resolve --journal out/journal.db kj_{line} TASKID"


def make_entry(
    line: int, state: EntryState = EntryState.DONE, *, prompt: str = "The cat turns its head", **other: object
) -> ManifestEntry:
    """Return a typical entry for a state; ``other`` overrides its fields."""
    key = f"cat-{hashlib.sha256(str(line).encode()).hexdigest()[:12]}"
    known: dict[str, object] = {
        "key": key,
        "line": line,
        "state": state,
        "model": _MODEL,
        "input": {"prompt": prompt, "seed": line * 7, "resolution": "480p"},
        "source": "cat.jpg",
        "image": "inputs/cat.jpg",
    }
    if state in (EntryState.DONE, EntryState.FAILED):
        known |= {"task_id": f"task{line}", "created_at": _STARTED_AT + line / 2, "seconds": 20.0 + line * 37 % 41}
    if state == EntryState.DONE:
        known |= {"file": f"{key}.mp4", "credits": 40.0, "sha256": "ab" * 32}
    else:
        known |= {"reason": f"It is {state}, for a reason.", "command": _COMMAND.format(line=line)}
    return ManifestEntry(**{**known, **other})  # type: ignore[arg-type]  # its fields, by name


def make_folder(
    folder: Path, entries: Sequence[ManifestEntry], *, total: int | None = None, title: str = "shots.csv"
) -> Path:
    """Write a folder with these entries, and return the path of its page."""
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    (inputs / "cat.jpg").write_bytes(CAT.read_bytes())
    (inputs / "clip.mp4").write_bytes(bundled_clip())
    for entry in entries:
        if entry.file is not None:
            os.link(inputs / "clip.mp4", folder / entry.file)
    with Manifest(folder) as manifest:
        for entry in entries:
            manifest.record(entry)
        manifest.compact()
        facts = PageHeader(
            title=title,
            total=len(entries) if total is None else total,
            written_at="25 November 2026, 09:41 UTC",
            resume_command="kie-async batch shots.csv --out out",
        )
        write_page(folder, manifest.entries(), facts)
    return folder / "index.html"
