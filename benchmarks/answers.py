"""
The cost of reading an answer of ``recordInfo`` in which the echoes of the request are not escaped.

A caller writes the prompt, and ``param`` and ``paramJson`` both hold it, so a prompt must not hold up the event loop.
Each row is a prompt of one repeated piece. The best of several runs counts, in milliseconds for 100 kB.

The baseline is the intact answer, which the standard library's decoder reads.
"""

from __future__ import annotations

import json
import time

from benchmarks.report import Report
from kie_async._core.wire import read_record_body

__all__ = ["run"]

#: Milliseconds for 100 kB.
BOUND = 5.0
LENGTHS = (30_000, 900_000)
RUNS = 5
PIECES = {
    "words": "a small cat ",
    "members": '","a":"b',
    "brackets and members": '"}","a":"{',
    "quotes": '"',
    "escaped quotes": '\\"',
    "brackets": '"},{"',
    "spaces": "        ",
    "commas and spaces": ",        ",
    "names of records": '","state":"b',
    "nested objects": '","response":{"b":[1,',
}


def _body(prompt: str, *, escaped: bool) -> bytes:
    echo = json.dumps({"input": {"prompt": prompt}, "callBackUrl": "https://app.example/kie", "model": "suno"})
    if not escaped:
        echo = f'{{"input":"{{"prompt":"{prompt}"}}","callBackUrl":"https://app.example/kie","model":"suno"}}'
    result = {"resultUrls": ["https://tempfile.aiquickdraw.com/a.mp3"]}
    data = {
        "taskId": "0123456789abcdef0123456789abcdef",
        "model": "ai-music-api/generate",
        "state": "success",
        "param": echo if escaped else "<echo>",
        "resultJson": json.dumps(result),
        "failCode": None,
        "failMsg": None,
        "costTime": 59,
        "completeTime": 1765172581239,
        "createTime": 1765172522239,
        "creditsConsumed": 12.0,
        "operationType": "generate",
        "response": result,
        "successFlag": 1,
        "paramJson": echo if escaped else "<echo>",
    }
    return json.dumps({"code": 200, "msg": "success", "data": data}).replace("<echo>", echo).encode()


def _milliseconds(body: bytes) -> float:
    """Return the time for 100 kB of a body."""
    best = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        read_record_body(body)
        best = min(best, time.perf_counter() - began)
    return best * 1000 / (len(body) / 100_000)


def run() -> Report:
    """Read bodies with hostile prompts."""
    rows: list[list[str | float]] = []
    for name, piece in PIECES.items():
        for length in LENGTHS:
            prompt = piece * (length // len(piece))
            broken, intact = (_body(prompt, escaped=escaped) for escaped in (False, True))
            record = read_record_body(broken)[1]
            found = "all" if record is not None and record.result_urls and record.credits else "none: unusable"
            rows.append([name, length, len(broken) / 1000, _milliseconds(broken), _milliseconds(intact), found])
    return Report(
        name="answers",
        question="What does it cost to read an answer whose echoes are broken, whatever the prompt is?",
        bound=f"our own: {BOUND:g} ms for 100 kB, as one pass of the decoder and some searches take",
        columns=["prompt of", "characters", "kB", "ms per 100 kB", "if intact", "members read"],
        rows=rows,
    )
