"""The command ``fake``."""

from __future__ import annotations

import json
import os
import shlex
import signal
from itertools import pairwise

import aiohttp
import anyio
import pytest

from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.fake import curl_line, run_fake, wait_for_signal
from kie_async.testing import FakeKie
from tests.cli.helpers import CapturedSession, run_cli


async def test_fake_prints_its_url_and_a_working_example() -> None:
    """The example is the request of the API's page, with all fields."""
    streams, fake = CapturedSession(), FakeKie()
    bodies: list[str] = []

    async def visit() -> None:
        words = shlex.split(next(line for line in streams.err.splitlines() if "curl" in line))
        headers = dict(word.split(": ") for flag, word in pairwise(words) if flag == "-H")
        async with (
            aiohttp.ClientSession() as session,
            session.post(words[1], headers=headers, data=words[-1]) as answer,
        ):
            bodies.append(await answer.text())

    code = await run_fake(streams.session, fake, key="any-key", until=visit)
    [post] = fake.truth.create_requests
    assert isinstance(post.body, dict)

    assert (ExitCode.DONE, f"{fake.url}\n") == (code, streams.out)
    assert '"code":200,"msg":"success"' in bodies[0]
    assert [json.loads(bodies[0])["data"]["taskId"]] == list(fake.truth.tasks)
    assert {"model", "callBackUrl", "input"} == set(post.body)
    assert "It received 1 create requests, at most 1 in any 10 s, refused 0" in streams.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_fake_ends_on_sigint_and_sigterm(number: signal.Signals) -> None:
    """Stopping the server is its normal end: exit code 0."""
    ended: list[bool] = []

    async def wait() -> None:
        await wait_for_signal()
        ended.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(1.0)
        os.kill(os.getpid(), number)

    assert [True] == ended


def test_example_is_quoted_for_the_shell() -> None:
    words = shlex.split(curl_line("http://127.0.0.1:1", "a key"))

    assert "Authorization: Bearer a key" in words
    assert "wan/2-2-a14b-image-to-video-turbo" == json.loads(words[-1])["model"]


@pytest.mark.parametrize(
    "options",
    [["--limiter", "leaky"], ["--limit", "0"], ["--fail-rate", "2"], ["--latency", "1"], ["--port", "70000"]],
)
def test_fake_rejects_invalid_options(options: list[str]) -> None:
    assert 2 == run_cli("fake", *options).code


def test_fake_reports_an_unavailable_address() -> None:
    """192.0.2.1 is not an address of this machine."""
    result = run_cli("fake", "--host", "192.0.2.1", "--limiter", "bucket", "--api-key", "one", "--callback-host", "b")

    assert (2, "") == (result.code, result.out)
    assert "error: " in result.err
    assert "Traceback" not in result.err
