"""A table whose generator hangs, in real time: its run, its client and its process end all the same."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio

from kie_async import KieClient
from kie_async.testing import FakeKie
from tests.helpers import KEY, make_request

if TYPE_CHECKING:
    from kie_async.requests.base import Request


def test_a_run_leaves_a_source_that_hangs() -> None:
    """The thread closes the generator, and ends, as soon as the generator returns."""
    release, closed = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def rows() -> Iterator[Request]:
        try:
            yield make_request(0)
            release.wait()
            yield make_request(1)
        finally:
            threads.append(threading.current_thread())
            closed.set()

    async def main() -> None:
        async with FakeKie(duration=0.1) as fake, KieClient(KEY, base_url=fake.url) as kie, kie.map(rows()) as run:
            await anext(run)

    anyio.run(main)
    assert not closed.is_set()

    release.set()
    assert closed.wait(30.0)
    threads[0].join(30.0)
    assert not threads[0].is_alive()


_PROGRAM = """
import time
import anyio
from kie_async import KieClient
from kie_async.testing import FakeKie
from tests.helpers import make_request

def rows():
    yield make_request(0)
    time.sleep(3600.0)

async def main():
    async with FakeKie(duration=0.1) as fake, KieClient("a-key", base_url=fake.url) as kie, kie.map(rows()) as run:
        await anext(run)
    print("left", flush=True)

anyio.run(main)
"""


def test_a_process_ends_although_a_source_hangs() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60.0, check=True
    )

    assert b"left" == ended.stdout.strip()
