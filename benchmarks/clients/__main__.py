"""
One run of one client in its own process: ``python -m benchmarks.clients NAME URL JOBS INTERVAL``.

Prints JSON: the CPU seconds, the growth of the memory's peak from the first job to the last, and the lags of results.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
import urllib.request
from importlib import import_module
from pathlib import Path

from benchmarks.clients import Generate

WARM_UP = 50


def cpu() -> float:
    """Return the CPU seconds of this process, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory(which: str) -> int:
    """Return the kernel's figure in bytes: ``VmRSS`` for now, ``VmHWM`` for the peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{which}:")[2].split(maxsplit=1)[0])


async def lag(generate: Generate, number: int) -> float:
    """Run a job, and return the seconds between the existence of its result and its return."""
    url = await generate(number)
    return time.monotonic() - float(url.rpartition("/")[2].removesuffix(".mp4"))


def requests(url: str) -> int:
    """Return the number of requests that the stub has received since the last call."""
    with urllib.request.urlopen(f"{url}/counts") as answer:  # noqa: S310  # ours
        counted: int = json.load(answer)["requests"]
        return counted


async def run(name: str, url: str, jobs: int, interval: float | None) -> dict[str, object]:
    """Run all jobs at the same time."""
    async with import_module(f"benchmarks.clients.{name}").connect(url, interval) as generate:
        await asyncio.gather(*(lag(generate, number) for number in range(WARM_UP)))
        gc.collect()
        requests(url)
        memory_before, cpu_before = memory("VmRSS"), cpu()
        lags = await asyncio.gather(*(lag(generate, number) for number in range(jobs)))
        spent = {"cpu": cpu() - cpu_before, "memory": memory("VmHWM") - memory_before}
        return {**spent, "lags": lags, "requests": requests(url)}


if __name__ == "__main__":
    _, name, url, jobs, interval = sys.argv
    print(json.dumps(asyncio.run(run(name, url, int(jobs), float(interval) if interval != "default" else None))))
