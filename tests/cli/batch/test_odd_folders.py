"""Odd files in the folder of a run are refused before anything is sent, or do not matter."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from kie_async import ConfigurationError
from kie_async.cli.batch.folder import IDENTITY, INPUTS, MANIFEST, PAGE, has_earlier_run
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie
from tests.cli.batch.helpers import make_options, row_states, run_to_end, write_table
from tests.cli.helpers import CAT
from tests.profile import sample

IMAGE = f"{INPUTS}/{sha256(CAT.read_bytes()).hexdigest()[:32]}.jpg"


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        # Such a name has at most 107 bytes.
        folder = os.open(path.parent, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


def _make_full_directory(path: Path) -> None:
    path.mkdir()
    (path / "note").touch()


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": _make_socket,
    "device": lambda path: path.symlink_to("/dev/null"),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "directory": Path.mkdir,
    "full directory": _make_full_directory,
    "broken link": lambda path: path.symlink_to("/dev/no/such"),
    "link to itself": lambda path: path.symlink_to(path.name),
}
#: Files that a run opens or replaces.
PLACES = (IDENTITY, MANIFEST, PAGE, "a.mp4")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_place_of_a_file_has_nothing_else(folder: Path, place: str, kind: Callable[[Path], object]) -> None:
    kind(folder / place)
    with pytest.raises(ConfigurationError, match="Nothing was sent"):
        has_earlier_run(folder)


@pytest.mark.parametrize("kind", [name for name in KINDS if "directory" not in name])
def test_place_of_a_folder_has_nothing_else(folder: Path, kind: str) -> None:
    KINDS[kind](folder / INPUTS)
    with pytest.raises(ConfigurationError, match="is not a folder"):
        has_earlier_run(folder)


@pytest.mark.parametrize("kind", sample(list(KINDS), check=0.3))
async def test_odd_entry_that_is_no_place_does_not_matter(fake: FakeKie, folder: Path, kind: str) -> None:
    """Neither among the pictures nor among the temporary files of a killed run."""
    options = make_options(write_table(folder, 1))
    (options.out / INPUTS).mkdir(parents=True)
    for name in (IMAGE, f".{IDENTITY}.x", f".{MANIFEST}.x", "other"):
        KINDS[kind](options.out / name)
    code, _ = await run_to_end(fake, options)

    assert (ExitCode.DONE, ["done"]) == (code, row_states(options))
