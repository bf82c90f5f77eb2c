"""
The cost of downloads: the memory of one file, and of thousands that wait for their turn.

Three cases, each in a process of its own with a host in another one: an endless body, which must be abandoned at two
gigabytes; one file of 256 MiB; 5,000 concurrent downloads of 100 KB. Memory is the peak resident size less the
resident size before. The baseline is the common implementation: ``await response.read()`` under a semaphore of eight.
It does not run the endless case, which would take all memory.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from benchmarks.processes import service
from benchmarks.report import Report
from kie_async import DownloadError, Generation, KieClient, TaskRecord

LARGE = 256 * 2**20
MANY = 5_000
SMALL = 100_000
AT_ONCE = 8

#: A function that saves the file at a path of the host to a file.
Save = Callable[[str, Path], Awaitable[object]]


def run() -> Report:
    """Run each case with each contender, and report."""
    rows: list[tuple[str, str, float, float]] = []
    with service("-m", "benchmarks.downloads", "host") as url:
        for case, who in (
            ("endless", "kie_async"),
            ("large", "kie_async"),
            ("large", "read()"),
            ("many", "kie_async"),
            ("many", "read()"),
        ):
            command = [sys.executable, "-m", "benchmarks.downloads", who, case, url]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # ours
            seconds, memory = json.loads(answer.stdout)
            rows.append((case, who, seconds, memory))
    return Report(
        name="downloads",
        question=f"No end, {LARGE >> 20} MiB, {MANY} files of {SMALL // 1000} KB at once: what does a download take?",
        bound="our own: 16 MB for a file, however large; 10 kB for one that waits, the caller's task included",
        columns=("case", "who", "seconds", "MB"),
        rows=rows,
    )


async def _contend(who: str, case: str, url: str) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        if who == "kie_async":
            async with KieClient("a-key", base_url=url) as kie:
                await kie.credits()
                saver = (await kie._binding.engine()).settings.saver  # noqa: SLF001  # results without tasks

                async def ours(path: str, file: Path) -> None:
                    record = TaskRecord(task_id=path, state="success", result_urls=(f"{url}/{path}",))
                    await Generation(record=record, saver=saver).save(file)

                await _measure(ours, case, folder)
        else:
            places = asyncio.Semaphore(AT_ONCE)
            async with aiohttp.ClientSession() as session:

                async def bare(path: str, file: Path) -> None:
                    async with places, session.get(f"{url}/{path}") as response:
                        data = await response.read()
                        await asyncio.to_thread(file.write_bytes, data)

                await _measure(bare, case, folder)


async def _measure(save: Save, case: str, folder: Path) -> None:
    await save("small", folder / "warm.mp4")
    before = _memory("VmRSS")
    began = time.perf_counter()
    if case == "many":
        await asyncio.gather(*(save(f"small-{number}", folder / f"{number}.mp4") for number in range(MANY)))
    else:
        with suppress(DownloadError):
            await save(case, folder / "file.mp4")
            if case == "endless":
                raise AssertionError
    seconds = time.perf_counter() - began
    print(json.dumps([seconds, _memory("VmHWM") - before]))


def _memory(what: str) -> float:
    """Read a memory figure of this process from Linux, in MB; the resource module's includes the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0]) / 1024


# -- the host --------------------------------------------------------------------------------------------------------

_OPEN_BOX = b"\0\0\0\x10ftypisom\0\0\2\0\0\0\0\0mdat"
_PIECE = bytes(2**20)


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
            if path.endswith(b"/credit"):
                _head(writer, 39)
                writer.write(b'{"code":200,"msg":"success","data":100}')
            elif path == b"/endless":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n" + _OPEN_BOX)
                while True:
                    writer.write(_PIECE)
                    await writer.drain()
            else:
                size = LARGE if path == b"/large" else SMALL
                _head(writer, size)
                writer.write(_OPEN_BOX)
                for at in range(len(_OPEN_BOX), size, len(_PIECE)):
                    writer.write(_PIECE[: size - at])
                    await writer.drain()
            await writer.drain()
    writer.close()


def _head(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)


if __name__ == "__main__":
    asyncio.run(_serve() if sys.argv[1] == "host" else _contend(*sys.argv[1:4]))
