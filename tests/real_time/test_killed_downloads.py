"""A process that is killed during a download: the next one resumes at the last synced byte."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs

from kie_async._io.files.part_files import STEP
from tests.client.filehost import make_mp4

ROOT = Path(__file__).parents[2]
TAG = '"one"'

#: Saves a result from its record, and prints the path.
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from kie_async import KieClient, TaskRecord, Generation

async def main():
    async with KieClient("any-key", base_url={url!r}) as kie:
        await kie.credits()
        saver = kie._binding.current.settings.saver
        record = TaskRecord(task_id="t1", state="success", result_urls=({url!r} + "/a.mp4",))
        (file,) = await saver(Generation(record=record, saver=saver), Path({path!r}))
        print(file.sha256)

asyncio.run(main())
"""


@attrs.define(eq=False)
class Host:
    """A host that sends a limited part of its file and then stops, and that logs its requests."""

    content: bytes
    upto: int | None = None
    asked: list[tuple[int, str | None]] = attrs.field(factory=list)
    said: threading.Event = attrs.field(factory=threading.Event)
    go_on: threading.Event = attrs.field(factory=threading.Event)
    url: str = ""


@contextmanager
def serving(host: Host) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != "/a.mp4":
                body = b'{"code":200,"msg":"success","data":100}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            at = int(wanted[1]) if wanted and self.headers.get("If-Range") == TAG else 0
            host.asked.append((at, self.headers.get("If-Range")))
            size = len(host.content)
            self.send_response(206 if at else 200)
            self.send_header("Content-Length", str(size - at))
            self.send_header("Content-Type", "video/mp4")
            self.send_header("ETag", TAG)
            if at:
                self.send_header("Content-Range", f"bytes {at}-{size - 1}/{size}")
            self.end_headers()
            self.wfile.write(host.content[at : host.upto])
            self.wfile.flush()
            if host.upto is not None:
                host.said.set()
                host.go_on.wait(60.0)
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        host.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_download_survives_kill_9(tmp_path: Path) -> None:
    """A partial file and its metadata remain; the next process requests the rest, and the hash matches."""
    host = Host(make_mp4(4 * STEP + 12_345), upto=2 * STEP + STEP // 2)
    target = tmp_path / "cat.mp4"
    with serving(host):
        program = [sys.executable, "-c", PROGRAM.format(url=host.url, path=str(target))]
        with subprocess.Popen(program, cwd=ROOT) as first:
            assert host.said.wait(30.0)
            part_is_there(tmp_path, 2 * STEP + 1)
            os.kill(first.pid, signal.SIGKILL)
        assert -signal.SIGKILL == first.returncode
        assert [".part", ".version"] == sorted(path.suffix for path in tmp_path.iterdir())
        host.upto = None
        second = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True)

    assert [(0, None), (2 * STEP, TAG)] == host.asked
    assert [target] == list(tmp_path.iterdir())
    assert host.content == target.read_bytes()
    assert hashlib.sha256(host.content).hexdigest() == second.stdout.strip()


def part_is_there(folder: Path, size: int) -> None:
    """Wait until a partial file has *size* bytes."""
    waited = threading.Event()
    for _ in range(6000):
        if any(path.suffix == ".part" and path.stat().st_size >= size for path in folder.iterdir()):
            return
        waited.wait(0.01)
    msg = f"there is no part of {size} bytes: {list(folder.iterdir())}"
    raise AssertionError(msg)
