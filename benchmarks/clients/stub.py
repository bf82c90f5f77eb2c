"""
A fast stub of the APIs of Kie, fal and Runway: ``python -m benchmarks.clients.stub``.

It parses only the parts of HTTP that its clients use, to leave the CPU to them. The URL of a result contains the
instant of its existence, by the clock that all processes of a machine share, so that a client can compute its lag.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from benchmarks.clients import PROMPT

__all__ = ["RESULT", "StubService", "main", "served"]

RESULT = "https://results.example/{:.6f}.mp4"

_MODEL = "wan/2-2-a14b-image-to-video-turbo"
_PARAM = json.dumps(
    {"input": json.dumps({"image_url": "https://example.com/cat.png", "prompt": PROMPT}), "model": _MODEL}
)
_CREATED_MS = 1_795_582_311_577
#: The share of a task's duration at which each state ends.
_STATES = ((0.1, "waiting"), (0.3, "queuing"), (1.0, "generating"))
_GOLDEN = 0.618_033_988_75


class StubService:
    """
    The tasks of a service.

    Args:
        duration: Returns the duration of a task by its number, in seconds.

        now: Returns the time.
    """

    def __init__(self, duration: Callable[[int], float], now: Callable[[], float] = time.monotonic) -> None:
        self._duration = duration
        self._now = now
        self._tasks: list[tuple[float, float]] = []
        #: The URL; set when it listens.
        self.url = ""
        self.requests = 0
        self.sockets = 0
        self.most_sockets = 0

    def answer(self, method: str, target: str) -> object:
        """Return the body of the response to a request."""
        path, _, query = target.partition("?")
        if path == "/counts":
            counts = {"requests": self.requests, "sockets": self.most_sockets - 1}  # without the socket of this request
            self.requests = 0
            return counts
        self.requests += 1
        if method == "POST":
            number = self._create()
            return self._created(path, number)
        if path == "/api/v1/jobs/recordInfo":
            return self._kie_record(int(query.removeprefix("taskId="), 16))
        if path.startswith("/v1/tasks/"):
            return self._runway_record(path.removeprefix("/v1/tasks/"))
        return self._fal_record(path)

    def _create(self) -> int:
        number = len(self._tasks)
        now = self._now()
        self._tasks.append((now, now + self._duration(number)))
        return number

    def _created(self, path: str, number: int) -> object:
        if path == "/api/v1/jobs/createTask":
            task_id = f"{number:032x}"
            return {"code": 200, "msg": "success", "data": {"taskId": task_id, "recordId": task_id}}
        if path == "/v1/image_to_video":
            return {"id": _uuid(number)}
        base = f"{self.url}{path}/requests/{number}"
        return {
            "status": "IN_QUEUE",
            "request_id": str(number),
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
            "queue_position": 0,
        }

    def _state(self, number: int) -> tuple[str, str | None]:
        """Return the state of a task, and its result's URL or None."""
        began, ends = self._tasks[number]
        share = (self._now() - began) / (ends - began)
        if share >= 1.0:
            return "success", RESULT.format(ends)
        return next(state for until, state in _STATES if share < until), None

    def _kie_record(self, number: int) -> object:
        state, url = self._state(number)
        return {
            "code": 200,
            "msg": "success",
            "data": {
                "taskId": f"{number:032x}",
                "model": _MODEL,
                "state": state,
                "param": _PARAM,
                "resultJson": "" if url is None else json.dumps({"resultUrls": [url]}),
                "failCode": None,
                "failMsg": None,
                "costTime": None if url is None else 3,
                "completeTime": None if url is None else _CREATED_MS + 3000,
                "createTime": _CREATED_MS,
                "creditsConsumed": 8.0,
            },
        }

    def _runway_record(self, task_id: str) -> object:
        state, url = self._state(int(task_id.replace("-", ""), 16))
        record: dict[str, object] = {"id": task_id, "createdAt": "2026-11-25T04:51:51.577Z"}
        if url is not None:
            return {**record, "status": "SUCCEEDED", "output": [url], "cost": {"credits": 8}}
        record["estimatedCost"] = {"credits": 8}
        if state == "generating":
            return {**record, "status": "RUNNING", "progress": 0.5}
        return {**record, "status": "PENDING"}

    def _fal_record(self, path: str) -> object:
        number, _, what = path.partition("/requests/")[2].partition("/")
        state, url = self._state(int(number))
        if not what:
            return {"video": {"url": url, "content_type": "video/mp4"}, "prompt": PROMPT, "seed": 7}
        base = f"{self.url}{path.removesuffix('/status')}"
        record: dict[str, object] = {"request_id": number, "response_url": base, "status_url": f"{base}/status"}
        if url is not None:
            return {**record, "status": "COMPLETED", "logs": None, "metrics": {"inference_time": 3.0}}
        if state == "generating":
            return {**record, "status": "IN_PROGRESS", "logs": None}
        return {**record, "status": "IN_QUEUE", "queue_position": 0}


def _uuid(number: int) -> str:
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class Connection(asyncio.Protocol):
    """
    A connection with consecutive requests.

    Args:
        service: The service that responds.
    """

    def __init__(self, service: StubService) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._service.sockets += 1
        self._service.most_sockets = max(self._service.most_sockets, self._service.sockets)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # as the loop calls it
        """Stop counting the connection."""
        self._service.sockets -= 1

    def data_received(self, data: bytes) -> None:
        """Respond to the complete requests."""
        self._received += data
        while (head := self._received.partition(b"\r\n\r\n"))[1]:
            length = 0
            for line in head[0].split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(head[2]) < length:
                return
            self._received = head[2][length:]
            method, target, _ = head[0].split(b"\r\n", 1)[0].decode().split(" ", 2)
            body = json.dumps(self._service.answer(method, target), separators=(",", ":")).encode()
            if self._transport is not None:
                self._transport.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=UTF-8\r\nServer: stub\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )


@asynccontextmanager
async def served(service: StubService) -> AsyncIterator[str]:
    """Let a service listen; return its URL."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=4096)
    async with server:
        service.url = "http://{}:{}".format(*server.sockets[0].getsockname())
        yield service.url


async def main(shortest: float, longest: float) -> None:
    """Serve tasks with evenly spread durations: print the URL, and serve until standard input is closed."""
    async with served(StubService(lambda number: shortest + (longest - shortest) * (number * _GOLDEN % 1.0))) as url:
        print(url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*map(float, sys.argv[1:])))
