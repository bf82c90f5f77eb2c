"""Files that are there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, cast

from kie_async.cli.batch.folder import INPUTS
from kie_async.requests.images import LocalImage

__all__ = ["hash_of", "kept", "replaced"]

_MODE = 0o644


@contextmanager
def replaced(path: Path) -> Generator[BinaryIO]:
    """
    A new file that takes the place of *path* when the context is left, on disk by then; left by an error, it is gone.

    Args:
        path: The file, which need not be there yet.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield cast("BinaryIO", file)
            file.flush()
            os.fchmod(file.fileno(), _MODE)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(file.name).unlink()
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def kept(folder: Path, image: LocalImage) -> str:
    """
    Keep an image beside the results, once for each content, so that the page shows what was sent.

    Args:
        folder: The folder of the results.

        image: The image.

    Returns:
        Its path from there.
    """
    path = folder / INPUTS / image.name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with replaced(path) as file:
            file.write(image.data)
    return f"{INPUTS}/{image.name}"


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
