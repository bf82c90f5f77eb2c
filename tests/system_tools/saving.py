"""A process that saves a result of the fake service twice, for ``test_odd_disks``: it prints what was logged."""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path
from typing import Any

import anyio

from kie_async import KieClient, Wan22TurboImageToVideo
from kie_async.cli.batch.folder import atomic_write, lock_folder
from kie_async.testing import FakeKie, VirtualLoop


async def save(folder: Path) -> None:
    """Save two results into *folder*, and a file of the command line."""
    async with FakeKie(duration=0.0) as fake, KieClient("a-key", base_url=fake.url) as kie:
        request = Wan22TurboImageToVideo(image="https://example.com/a.png", prompt="Go")
        generation = await kie.generate(request)
        for name in ("a.mp4", "b.mp4"):
            await generation.save(folder / name)


def refuse_to_rename_open_files(event: str, arguments: tuple[Any, ...]) -> None:
    """Act as a file system that belongs to another system."""
    if event == "os.rename" and any(
        file.exists() and file.samefile(arguments[0]) for file in Path("/proc/self/fd").iterdir()
    ):
        raise OSError(errno.EBUSY, "Resource busy")


if __name__ == "__main__":
    if sys.argv[2:] == ["closed"]:
        sys.addaudithook(refuse_to_rename_open_files)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    out = Path(sys.argv[1])
    anyio.run(save, out, backend_options={"loop_factory": VirtualLoop})
    if sys.argv[2:] != ["results"]:
        lock_folder(out)
        with atomic_write(out / "manifest.jsonl") as file:
            file.write(b"{}\n")
