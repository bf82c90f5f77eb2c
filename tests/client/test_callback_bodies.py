"""No body of a callback is decoded: its size and shape cost next to nothing, and a known task needs none."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import KieClient, SubmitInDoubtError
from kie_async._core.callback_validation import MAX_BODY
from kie_async.testing import Fault
from tests.client.backend import ADAPTERS, client_with_callbacks, post, reported_duplicates
from tests.helpers import CALLBACKS, Setup, assert_settled, client_and_fake, make_request

if TYPE_CHECKING:
    from types import FrameType

WEBHOOK_KEY = "a-webhook-key"
UNKNOWN = "f" * 32


def filled(piece: bytes, before: bytes = b'{"x":[', after: bytes = b"0]}") -> bytes:
    """Return a body of the largest size that repeats a piece."""
    return before + piece * ((MAX_BODY - len(before) - len(after)) // len(piece)) + after


BODIES = {
    "lists": filled(b"[],"),
    "objects": filled(b"{},"),
    "integers": filled(b"1,"),
    "floats": filled(b"1.5,"),
    "long integers": filled(b"9" * 299 + b","),
    "constants": filled(b"NaN,"),
    "members": b"{%s}" % b",".join(b'"%d":{}' % number for number in range(20_000)),
    "deep lists": filled(b"[", b"", b""),
    "deep objects": filled(b'{"a":', b"", b""),
    "deep and wide": filled(b"[" * 60 + b"]" * 60 + b","),
    "a broken string": filled(b'b","c":"', b'{"data":{"taskId":"' + UNKNOWN.encode() + b'","param":"{"a":"', b'"}"}}'),
    "names": filled(b'"taskId":"', b"", b""),
    "quotes": filled(b'"', b"", b""),
    "ids": filled(b'"taskId":"' + UNKNOWN.encode() + b'",', b"", b""),
    "long ids": filled(b'"task_id":"' + b"a" * 256 + b"!", b"", b""),
    "blanks": filled(b'"taskId"' + b" " * 2000, b"", b""),
}


@asynccontextmanager
async def three_jobs(*, signed: bool) -> AsyncIterator[tuple[Setup, dict[str, str]]]:
    """Yield a client with a job that runs, one that has ended and one in doubt, and their callback URLs."""
    client = {"callback_url": CALLBACKS, "webhook_key": WEBHOOK_KEY if signed else None}
    async with client_and_fake(
        client=client, webhook_key=WEBHOOK_KEY, duration=30.0, faults=[Fault("create", "reset", after=True, nth=3)]
    ) as setup:
        ended = await setup.kie.submit(make_request(0))
        await ended
        await setup.kie.submit(make_request(1))
        with pytest.raises(SubmitInDoubtError):
            await setup.kie.submit(make_request(2))
        states = ("ended", "running", "in doubt")
        yield setup, dict(zip(states, [str(made.callback_url) for made in setup.truth.created], strict=True))
        await anyio.sleep(4000.0)


async def count_calls(kie: KieClient, url: str, headers: dict[str, str], body: bytes) -> int:
    """Return the number of calls, of C functions, too, that a callback takes until it is answered."""
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        await kie.callbacks.handle(url, headers, body)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("signature", ["none", "of an unknown task", "of its own task", "wrong"])
async def test_no_body_is_decoded(signature: str) -> None:
    """Neither for a running job, nor for one that has ended or is in doubt; the calls do not grow with the body."""
    async with three_jobs(signed=signature != "none") as (setup, urls):
        kie = setup.kie
        await kie.callbacks.handle(urls["running"], {}, b"")  # for imports
        for (state, url), task in zip(urls.items(), setup.truth.created, strict=True):
            signs = {"of an unknown task": UNKNOWN, "of its own task": task.task_id}
            for name, body in BODIES.items():
                headers = setup.fake.sign(signs[signature]) if signature in signs else {}
                if signature == "wrong":
                    headers = {**setup.fake.sign(UNKNOWN), "X-Webhook-Signature": "A" * 44}
                calls = await count_calls(kie, url, headers, body)
                assert calls <= 2000, f"{calls} calls for {name} to a job that is {state}"


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("body", [b"", b"noise", *(BODIES[name] for name in ("lists", "deep objects", "names"))])
async def test_the_token_alone_confirms_a_known_task(adapter: str, body: bytes) -> None:
    """The body that the service posted was replaced on the way; the job ends at once all the same."""
    lost = Fault("callback", "lost")
    async with client_with_callbacks(ADAPTERS[adapter], duration=300.0, faults=[lost]) as (setup, backend):
        job = await setup.kie.submit(make_request())
        await anyio.sleep(300.1)
        assert 200 == await post(setup.truth.created[0].callback_url, body)
        await anyio.sleep(0.1)

        assert ("succeeded", [200]) == (job.state, backend.answers)
        await anyio.sleep(3.0)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("body", [b"", b"noise", BODIES["lists"]])
async def test_a_signature_for_a_known_task_needs_no_body(body: bytes) -> None:
    """It is compared with the known id; a signature for another task is refused, and causes no poll."""
    lost, client = Fault("callback", "lost"), {"webhook_key": WEBHOOK_KEY}
    async with client_with_callbacks(client=client, webhook_key=WEBHOOK_KEY, duration=300.0, faults=[lost]) as (
        setup,
        backend,
    ):
        job = await setup.kie.submit(make_request())
        await anyio.sleep(300.1)
        polls = len(setup.truth.polls)
        url = setup.truth.created[0].callback_url
        assert 401 == await post(url, body, setup.fake.sign(UNKNOWN))
        assert polls == len(setup.truth.polls)
        assert 200 == await post(url, body, setup.fake.sign(setup.tasks[0]))
        await anyio.sleep(0.1)

        assert ("succeeded", [401, 200]) == (job.state, backend.answers)
        await anyio.sleep(3.0)


@pytest.mark.parametrize("key", [None, WEBHOOK_KEY])
async def test_a_second_task_of_a_known_job_is_still_learned(key: str | None) -> None:
    """The create was sent again after an ambiguous 500: both tasks were paid, and each posts its callback."""
    again = Fault("create", "code", code=500, after=True, nth=1)
    async with client_with_callbacks(client={"webhook_key": key}, webhook_key=key, duration=300.0, faults=[again]) as (
        setup,
        backend,
    ):
        video = await setup.kie.generate(make_request())
        await anyio.sleep(60.0)
        row = await setup.row()

        assert {200} == set(backend.answers)
        assert 2 == len(setup.tasks)
        assert set(setup.tasks) == {video.task_id, *row.duplicate_task_ids}
        assert 1 == len(reported_duplicates(setup.events))
        await assert_settled(setup.kie)


@pytest.mark.parametrize("key", [None, WEBHOOK_KEY])
@pytest.mark.parametrize("place", ["before", "after"])
async def test_the_task_that_a_request_extends_hides_no_callback(key: str | None, place: str) -> None:
    """The service forgets to escape ``param``, which names another task; the job in doubt is bound to its own."""
    faults = [Fault("callback", "lost"), Fault("create", "reset", after=True, nth=2)]
    async with client_with_callbacks(client={"webhook_key": key}, webhook_key=key, duration=100.0, faults=faults) as (
        setup,
        backend,
    ):
        await setup.kie.generate(make_request(0))
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request(1))
        source, own = setup.truth.created
        param = f'"param":"{{"input":{{"taskId":"{source.task_id}"}},"model":"x"}}"'
        members = [param, f'"taskId":"{own.task_id}"'] if place == "before" else [f'"taskId":"{own.task_id}"', param]
        body = f'{{"code":200,"data":{{{",".join(members)}}}}}'
        with pytest.raises(ValueError, match="delimiter"):
            json.loads(body)
        assert 200 == await post(own.callback_url, body.encode(), setup.fake.sign(own.task_id) if key else None)

        assert own.task_id == (await raised.value.job).task_id
        await anyio.sleep(60.0)
        (row,) = [row for row in await setup.rows() if row.id == raised.value.job.id]
        assert ((), ()) == (row.duplicate_task_ids, row.callback_task_ids)
        assert [200] == backend.answers
