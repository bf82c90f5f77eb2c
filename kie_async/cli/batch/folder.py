"""The folder of a run: what is in it, whether it is one of ours, and who may write to it."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import chain
from pathlib import Path

from kie_async import ConfigurationError

__all__ = ["INPUTS", "JOURNAL", "MANIFEST", "PAGE", "RESULT", "claimed", "is_ours"]

#: What the files are called: what is remembered (whoever has the folder can go on), what became of each row, the page,
#: and the folder of the images that were sent.
JOURNAL, MANIFEST, PAGE, INPUTS = "journal.db", "manifest.jsonl", "index.html", "inputs"
#: What the results' names end in.
RESULT = ".mp4"


def is_ours(folder: Path) -> bool:
    """
    Whether an earlier run has worked in a folder; blocks, so it is a matter for a worker thread.

    Args:
        folder: The folder, which need not be there.

    Raises:
        ConfigurationError: If it is no folder, or has files of somebody else's where ours would go.

        OSError: If it cannot be looked at.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"--out {folder} is a file. Nothing was sent: name a folder, which need not be there yet."
        raise ConfigurationError(msg)
    if any((folder / name).exists() for name in (MANIFEST, JOURNAL)):
        return True
    for foreign in chain(folder.glob(PAGE), folder.glob(f"*{RESULT}")):
        msg = (
            f"{foreign} is there already, and batch has not made it: it might be overwritten. Nothing was sent: name a"
            " new folder with --out."
        )
        raise ConfigurationError(msg)
    return False


def claimed(folder: Path) -> int:
    """
    Hold a folder against other processes, and remove what one has left half-written that was killed.

    Args:
        folder: The folder.

    Returns:
        The claim, which ends when it is closed, or with the process.

    Raises:
        ConfigurationError: If another process holds it.
    """
    import fcntl  # POSIX alone has it: a command line without batch is better than none

    claim = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(claim)
        msg = f"Another kie-async batch is at work in {folder}. Nothing was sent: wait for it, or choose another --out."
        raise ConfigurationError(msg) from None
    for pattern in (f".{MANIFEST}.*", f".{PAGE}.*", f"{INPUTS}/.*.*.*"):
        for left in folder.glob(pattern):
            with suppress(OSError):
                left.unlink()
    return claim
