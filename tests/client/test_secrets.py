"""No error, traceback, repr or event shows the key or a prompt."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import KieClient, KieError, RetryPolicy
from kie_async._core.callback_token import callback_secret
from kie_async.testing import Fault
from tests.helpers import CALLBACKS, KEY, PROMPT, Setup, client_and_fake, make_request
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


async def generate(setup: Setup, _: Path) -> None:
    await setup.kie.generate(make_request(image=PNG))


async def bad_request(setup: Setup, _: Path) -> None:
    await setup.kie.generate(make_request(seed=-1))


async def another_request(setup: Setup, _: Path) -> None:
    await setup.kie.submit(make_request(0), key="order 7")
    await setup.kie.submit(make_request(1), key="order 7")


async def poll(setup: Setup, _: Path) -> None:
    await (await setup.kie.submit(make_request())).status()


async def save(setup: Setup, folder: Path) -> None:
    await (await setup.kie.generate(make_request())).save(folder / "cat.mp4")


async def credits(setup: Setup, _: Path) -> None:
    await setup.kie.credits()


async def failed(setup: Setup, _: Path) -> None:
    job = await setup.kie.submit(make_request())
    setup.fake.fail(setup.tasks[0])
    await job


async def closed(setup: Setup, _: Path) -> None:
    job = await setup.kie.submit(make_request())
    async with anyio.create_task_group() as group:

        async def close() -> None:
            await anyio.sleep(1.0)
            await setup.kie.aclose()

        group.start_soon(close)
        with pytest.raises(KieError) as raised:
            await job
    raise raised.value


async def offline(setup: Setup, _: Path) -> None:
    await setup.fake.refuse_connections()
    await setup.kie.generate(make_request())


CASES: dict[str, tuple[Callable[[Setup, Path], Awaitable[None]], list[Fault]]] = {
    "bad request": (bad_request, []),
    "another request": (another_request, []),
    "upload": (generate, [Fault("upload", "reset")]),
    "upload refused": (generate, [Fault("upload", "body", status=400, body='{"code":400,"msg":"no"}')]),
    "lost": (generate, [Fault("create", "reset", after=True)]),
    "half a body": (generate, [Fault("create", "half_body", after=True)]),
    "page": (generate, [Fault("create", "html")]),
    "401": (generate, [Fault("create", "code", code=401)]),
    "402": (generate, [Fault("create", "code", code=402)]),
    "422": (generate, [Fault("create", "code", code=422)]),
    "455": (generate, [Fault("create", "code", code=455)]),
    "500": (generate, [Fault("create", "code", code=500)]),
    "redirect": (generate, [Fault("create", "redirect")]),
    "failed task": (failed, []),
    "stalled": (generate, [Fault("poll", "html")]),
    "no result": (generate, [Fault("poll", "alter", data={"state": "success", "resultJson": ""})]),
    "poll": (poll, [Fault("poll", "reset")]),
    "poll page": (poll, [Fault("poll", "html")]),
    "download": (save, [Fault("download", "reset")]),
    "download page": (save, [Fault("download", "html", status=200)]),
    "gone": (save, [Fault("download", "html", status=404)]),
    "credits": (credits, [Fault("credit", "silence")]),
    "credits page": (credits, [Fault("credit", "html")]),
    "closed": (closed, []),
    "offline": (offline, []),
}


def locals_of(error: BaseException) -> list[str]:
    """Return what error trackers collect: the variables of every frame outside these tests."""
    shown: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        summary = traceback.TracebackException.from_exception(seen, capture_locals=True)
        for frame in summary.stack:
            if "/tests/" not in frame.filename:
                shown += [
                    f"{frame.filename}:{frame.lineno} {name}={text}" for name, text in (frame.locals or {}).items()
                ]
        seen = seen.__cause__ or seen.__context__
    return shown


@pytest.mark.parametrize("name", CASES)
async def test_errors_show_neither_key_nor_prompt(name: str, tmp_path: Path) -> None:
    """Not in its text, its repr, its traceback with all causes, or its attributes."""
    act, faults = CASES[name]
    policy = RetryPolicy(maintenance_timeout=60.0, unsent_timeout=10.0, max_age=600.0)
    options = {"callback_url": CALLBACKS if name != "lost" else None, "retry": policy}
    async with client_and_fake(client=options, faults=faults) as setup:
        with pytest.raises(KieError) as raised:
            await act(setup, tmp_path)
        error = raised.value
        shown = [
            str(error),
            repr(error),
            *traceback.format_exception(error),
            *locals_of(error),
            *(repr(value) for value in vars(error).values()),
            repr(setup.kie),
            repr(setup.events),
            repr(await setup.kie.jobs()) if name != "closed" else "",
            repr(setup.kie.statistics()),
        ]

        assert [] == [text for text in shown if KEY in text or PROMPT in text]
        assert str(error).count("\n") == 0
        assert str(error).split(" [job")[0].split(" [task")[0].endswith((".", "?"))
        if not hasattr(error, "job"):
            again: Any = pickle.loads(pickle.dumps(error))
            assert (str(error), vars(error)) == (str(again), vars(again))


async def test_key_is_sent_to_the_service_only(tmp_path: Path) -> None:
    """Not to the result host, which may be another."""
    heard: list[tuple[str, bool]] = []

    def listen(where: str) -> Fault:
        return Fault(
            where,  # type: ignore[arg-type]  # one of the places
            "close",
            when=lambda call: bool(heard.append((where, KEY in call.headers.get("Authorization", "")))),  # type: ignore[func-returns-value]  # never fires
        )

    places = ("upload", "create", "poll", "download", "credit")
    async with client_and_fake(duration=0.0, faults=[listen(place) for place in places]) as setup:
        await (await setup.kie.generate(make_request(image=PNG))).save(tmp_path)
        await setup.kie.credits()

    assert {("upload", True), ("create", True), ("poll", True), ("download", False), ("credit", True)} == set(heard)


def test_client_repr_shows_no_key() -> None:
    kie = KieClient(KEY, callback_url="https://app.example.com/kie")
    assert KEY not in repr(kie)
    assert KEY not in str(kie)


async def test_parts_of_a_client_show_no_secret() -> None:
    """Error trackers show the variables of every frame, and ``self`` is one of them."""
    webhook_key = "canary-of-the-webhook-key"
    async with client_and_fake(client={"callback_url": CALLBACKS, "webhook_key": webhook_key}) as setup:
        engine = setup.kie._binding.current  # noqa: SLF001 (its parts are not public)
        assert engine is not None
        parts = [part for part in vars(engine).values() if type(part).__module__.startswith("kie_async.")]
        shown = [repr(part) for part in (engine, *parts, engine.submitter.context)]

        secrets = (KEY, webhook_key, repr(callback_secret(KEY)))
        assert [] == [text for text in shown if any(secret in text for secret in secrets)]
