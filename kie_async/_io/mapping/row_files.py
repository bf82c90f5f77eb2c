"""The files of a run: fetched beside the waiting, a few at a time, and not again where they are there."""

from __future__ import annotations

from stat import S_ISREG
from typing import TYPE_CHECKING

import anyio
import attrs

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async._core.map_options import MapOptions
    from kie_async.records import Generation

__all__ = ["AT_ONCE", "RowFiles"]

#: Files that are fetched at once.
AT_ONCE = 8


class RowFiles:
    """
    Puts results on disk; the first to have ended goes first, and that is the first to expire.

    Args:
        plan: Where they go.
    """

    def __init__(self, plan: MapOptions) -> None:
        self._plan = plan
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    async def save(self, key: str, generation: Generation, *, fresh: bool) -> tuple[Path, ...]:
        """
        Put the results of a row on disk.

        Args:
            key: The row's key.

            generation: Its finished task.

            fresh: Whether nobody can have fetched them yet, so that a file under their name is another one.

        Returns:
            The files, where they really are: a name that is a folder's has its file in that folder. None where the plan
            has no place for them, or the result has no URL.

        Raises:
            DownloadError: If one could not be fetched, or is not what it claims.
        """
        paths = self._plan.files(key, len(generation.urls)) if generation.urls else ()
        if not paths:
            return ()
        files: list[Path] = []
        async with self._limiter:
            for path, url in zip(paths, generation.urls, strict=True):
                if not fresh and await _is_there(path, since=generation.record.created_at or 0.0):
                    files.append(path)
                else:
                    alone = attrs.evolve(generation.record, result_urls=(url,))
                    files += await attrs.evolve(generation, record=alone).save(path)
        return tuple(files)


async def _is_there(path: Path, *, since: float) -> bool:
    """Whether a file was written since its task was created; an older one is of something else."""
    try:
        found = await anyio.Path(path).stat()
    except (OSError, ValueError):
        return False
    return S_ISREG(found.st_mode) and found.st_size > 0 and found.st_mtime >= since
