"""An event loop in a thread that outlives the main thread: the interpreter has closed all executors by then."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import profile
from tests.helpers import KEY

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = f"""
import asyncio, sys, threading
from pathlib import Path

import uvloop

from kie_async import KieClient
from kie_async.testing import FakeKie
from tests.helpers import make_request
from tests.requests.samples import PNG

folder, journal, first_use, host, call, kind = Path(sys.argv[1]), *sys.argv[2:]

async def main():
    main_thread, loop, ended = threading.main_thread(), asyncio.get_running_loop(), asyncio.Event()

    def watch():
        main_thread.join()
        loop.call_soon_threadsafe(ended.set)

    async with FakeKie(duration=0.0) as fake:
        kie = KieClient(
            {KEY!r},
            base_url=fake.url.replace("127.0.0.1", host),
            journal=folder / "kie.db" if journal == "disk" else None,
        )
        if first_use == "before":
            await kie.credits()
        threading.Thread(target=watch).start()
        await ended.wait()
        if call == "upload":
            picture = folder / "cat.png"
            picture.write_bytes(PNG)
            request = make_request(image=picture)
        else:
            request = make_request()
        async with kie, asyncio.timeout(30):
            if call == "map":
                async with kie.map(iter([request])) as run:
                    print([outcome.generation.task_id async for outcome in run] == list(fake.truth.tasks))
            else:
                job = await kie.submit(request)
                await job.status()
                print([(await job).task_id] == list(fake.truth.tasks))

def run():
    with asyncio.Runner(loop_factory={{"asyncio": None, "uvloop": uvloop.new_event_loop}}[kind]) as runner:
        runner.run(main())

threading.Thread(target=run).start()
"""


@pytest.mark.parametrize(
    ("journal", "first_use", "host", "call", "kind"),
    profile.sample(
        [
            ("disk", "before", "127.0.0.1", "submit", "asyncio"),
            ("disk", "after", "127.0.0.1", "submit", "asyncio"),
            ("disk", "before", "localhost", "submit", "asyncio"),
            ("disk", "after", "localhost", "upload", "asyncio"),
            ("disk", "before", "127.0.0.1", "map", "asyncio"),
            ("disk", "before", "localhost", "submit", "uvloop"),
            ("memory", "after", "localhost", "submit", "asyncio"),
        ],
        check=0.42,
    ),
)
def test_client_outlives_the_main_thread(
    tmp_path: Path, journal: str, first_use: str, host: str, call: str, kind: str
) -> None:
    """The journal, images, tables and names are read in threads that live on; then the process ends."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), journal, first_use, host, call, kind],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (0, "True\n", "") == (ran.returncode, ran.stdout, ran.stderr)


UNCLOSED = f"""
import asyncio, sys, threading
from kie_async import KieClient
from tests.helpers import make_request
from tests.real_time.ended_loops import fake_in_thread

with fake_in_thread() as fake:
    kie, loop = KieClient({KEY!r}, base_url=fake.url, journal=sys.argv[1]), asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # asyncio keeps it to the end, as scripts with get_event_loop() do
    for _ in range(3):
        job = loop.run_until_complete(kie.submit(make_request()))
    print(job.task_id)
"""


def test_process_that_closes_nothing_logs_its_jobs(tmp_path: Path) -> None:
    """A journal in memory ends with the process, so the log is the only place for the ids of paid tasks."""
    program = UNCLOSED.replace("journal=sys.argv[1]", "journal=None")
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )

    assert 3 == ran.stderr.count("The client closes before kj_")
    assert f"task {ran.stdout.strip()}" in ran.stderr


def test_process_that_closes_nothing_ends(tmp_path: Path) -> None:
    """The journal's thread ends with the process, and closes the file in order."""
    ran = subprocess.run(
        [sys.executable, "-c", UNCLOSED, str(tmp_path / "kie.db")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert ran.stdout
    assert ["kie.db", "kie.db.owners"] == sorted(path.name for path in tmp_path.iterdir())
    assert [] == list((tmp_path / "kie.db.owners").iterdir())
