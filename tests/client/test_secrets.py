"""No error, traceback, repr or event shows the key or a prompt."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import attrs
import pytest

from kie_async import Callbacks, ConfigurationError, Generation, Job, KieClient, KieError, RetryPolicy, Run
from kie_async._core.callback_token import callback_secret
from kie_async.testing import FakeKie, Fault
from tests.client.canaries import canaries_in, find_canaries, frames_of
from tests.helpers import CALLBACKS, KEY, PROMPT, Setup, client_and_fake, make_request
from tests.profile import sample
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
    "redirect": (generate, [Fault("create", "redirect"), Fault("credit", "redirect")]),
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


# -- every public call, left early -------------------------------------------------------------------------------------

WEBHOOK_KEY = "canary-of-the-webhook-key"
QUERY = "canary-of-the-signed-url"
CANARIES = (KEY, WEBHOOK_KEY, QUERY)
SIGNED = f"https://example.com/cat.png?sig={QUERY}"

_PLACES = ("create", "poll", "upload", "download", "credit", "download_url")


@attrs.frozen(kw_only=True)
class Scene:
    """The objects that the calls need, made before the service falls silent."""

    kie: KieClient
    job: Job
    run: Run
    done: Generation
    folder: Path


async def read_updates(scene: Scene) -> None:
    async for _ in scene.job.updates():
        pass


async def take_rows(scene: Scene) -> None:
    async for _ in scene.run:
        pass


CALLS: dict[str, Callable[[Scene], Awaitable[object]]] = {
    "KieClient.generate": lambda scene: scene.kie.generate(make_request(image=PNG)),
    "KieClient.submit": lambda scene: scene.kie.submit(make_request(image=SIGNED)),
    "KieClient.estimate": lambda scene: scene.kie.estimate(make_request(image=SIGNED)),
    "KieClient.budgets": lambda scene: scene.kie.budgets(),
    "KieClient.raise_budget": lambda scene: scene.kie.raise_budget("none", 5.0),
    "KieClient.spent": lambda scene: scene.kie.spent([make_request(image=SIGNED)]),
    "KieClient.recover": lambda scene: scene.kie.recover(),
    "KieClient.jobs": lambda scene: scene.kie.jobs(),
    "KieClient.account": lambda scene: scene.kie.account(),
    "KieClient.workers": lambda scene: scene.kie.workers(),
    "KieClient.keys": lambda scene: scene.kie.keys("order-"),
    "KieClient.journal_id": lambda scene: scene.kie.journal_id(),
    "KieClient.forget": lambda scene: scene.kie.forget(before=0.0),
    "KieClient.credits": lambda scene: scene.kie.credits(),
    "KieClient.upload": lambda scene: scene.kie.upload(PNG),
    "KieClient.aclose": lambda scene: scene.kie.aclose(),
    "Job.wait": lambda scene: scene.job.wait(),
    "Job.status": lambda scene: scene.job.status(),
    "Job.info": lambda scene: scene.job.info(),
    "Job.updates": read_updates,
    "Job.resolve": lambda scene: scene.job.resolve("t1"),
    "Job.resubmit": lambda scene: scene.job.resubmit(allow_duplicate=True),
    "Job.abandon": lambda scene: scene.job.abandon(),
    "Run.aclose": lambda scene: scene.run.aclose(60.0),
    "Run.__anext__": take_rows,
    "Callbacks.handle": lambda scene: scene.kie.callbacks.handle("/no", {}, b"{}"),
    "Generation.save": lambda scene: scene.done.save(scene.folder / "cat.mp4"),
}


async def by_timeout(call: Awaitable[object], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await call


async def by_wait_for(call: Awaitable[object], seconds: float) -> None:
    await asyncio.wait_for(call, seconds)


async def by_fail_after(call: Awaitable[object], seconds: float) -> None:
    with anyio.fail_after(seconds):
        await call


async def by_cancellation(call: Awaitable[object], seconds: float) -> None:
    task = asyncio.ensure_future(call)
    await anyio.sleep(seconds)
    task.cancel()
    await task


async def by_error(call: Awaitable[object], _: float) -> None:
    with anyio.move_on_after(3600.0):  # updates() never end while no poll is answered
        await call


WAYS = {
    "timeout": (by_timeout, "silence"),
    "wait_for": (by_wait_for, "silence"),
    "fail_after": (by_fail_after, "silence"),
    "cancellation": (by_cancellation, "silence"),
    "reset": (by_error, "reset"),
    "page": (by_error, "html"),
}


def test_every_public_coroutine_is_left_early_here() -> None:
    public = {
        f"{kind.__name__}.{name}"
        for kind in (KieClient, Job, Run, Callbacks, Generation)
        for name, member in vars(kind).items()
        if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
        if not name.startswith("_") or name == "__anext__"
    }
    assert public == CALLS.keys()


async def leave(
    call: str, way: str, seconds: float, folder: Path, *, journal: str | None = None
) -> tuple[BaseException | None, list[str]]:
    """Call a method while the service does not answer, leave it early, and return its error and the callback tokens."""
    leave, kind = WAYS[way]
    policy = RetryPolicy(maintenance_timeout=60.0, unsent_timeout=10.0, max_age=600.0)
    options: dict[str, Any] = {"callback_url": CALLBACKS, "webhook_key": WEBHOOK_KEY, "retry": policy}
    options["journal"] = journal
    async with FakeKie(duration=20.0) as fake, KieClient(KEY, base_url=fake.url, **options) as kie:
        done = await kie.generate(make_request(0, image=SIGNED))
        record = attrs.evolve(done.record, result_urls=(f"{done.url}?sig={QUERY}",), raw={})
        job = await kie.submit(make_request(1, image=SIGNED))
        async with kie.map([("a", make_request(2, image=SIGNED))]) as run:
            await kie.job(job.id).info()
            for place in _PLACES:
                fake.inject(Fault(place, kind))  # type: ignore[arg-type]  # one of the kinds
            scene = Scene(kie=kie, job=job, run=run, done=attrs.evolve(done, record=record), folder=folder)
            try:
                await leave(CALLS[call](scene), seconds)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (any may carry a key)
                tokens = [str(create.callback_url).rpartition("/")[2] for create in fake.truth.create_requests]
                assert all(tokens)
                return error, tokens
            finally:
                fake.faults.clear()
    return None, []


@pytest.mark.parametrize(
    ("call", "way"), sample([(call, way) for call in CALLS for way in WAYS], check=0.4), ids=lambda name: name
)
async def test_call_that_is_left_early_shows_no_secret(call: str, way: str, tmp_path: Path) -> None:
    """Neither in the variables of any frame, nor in anything that these hold."""
    for seconds in (0.0, 3.0):
        error, tokens = await leave(call, way, seconds, tmp_path)
        if error is None:
            continue
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert [] == find_canaries("\n".join(locals_of(error)), (*CANARIES, *tokens)), text
        assert [] == canaries_in(dict(frames_of(error)), CANARIES[:2])


@pytest.mark.parametrize(
    "refused",
    [
        {"api_key": f"{KEY}\n{KEY}"},
        {"api_key": [KEY]},
        {"webhook_key": [WEBHOOK_KEY, 7]},
        {"webhook_key": f"{WEBHOOK_KEY}\0"},
        {"base_url": "ftp://example.com"},
        {"callback_url": "example.com"},
        {"limits": 3},
        {"allow_networks": ["x"]},
        {"on_event": 3},
        {"trust_env": "no"},
    ],
    ids=lambda refused: next(iter(refused)),
)
def test_refused_client_shows_no_secret(refused: dict[str, Any]) -> None:
    """Its own ``repr``, which error trackers call, does not fail either."""
    with pytest.raises(ConfigurationError, match="Invalid") as raised:
        KieClient(**{"api_key": KEY, "webhook_key": WEBHOOK_KEY, **refused})

    shown = locals_of(raised.value)
    assert any("<KieClient without a configuration>" in text for text in shown)
    assert [] == find_canaries("\n".join([*shown, str(raised.value)]), CANARIES)
    assert [] == canaries_in(dict(frames_of(raised.value)), CANARIES)


async def fail_in_time(*_: object) -> None:
    """Fail after a while, as a hook with a bug does."""
    await anyio.sleep(1.0)
    msg = "hook"
    raise KeyError(msg)


def with_hook(name: str) -> Callable[..., aiohttp.ClientSession]:
    """Return a session factory with a hook that fails."""

    def make(**kwargs: Any) -> aiohttp.ClientSession:
        config = aiohttp.TraceConfig()
        getattr(config, name).append(fail_in_time)
        return aiohttp.ClientSession(**{**kwargs, "trace_configs": [*kwargs.get("trace_configs", ()), config]})

    return make


@pytest.mark.parametrize("hook", ["on_request_start", "on_request_headers_sent", "on_request_end"])
async def test_failing_hook_of_the_caller_shows_no_secret(hook: str) -> None:
    """Its error passes frames of aiohttp that have the headers."""
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url, session_factory=with_hook(hook)) as kie:
        for call in (kie.credits, lambda: kie.upload(PNG), lambda: kie.generate(make_request())):
            with pytest.raises(KieError) as raised:
                await call()
            assert [] == find_canaries("\n".join(locals_of(raised.value)), CANARIES)
            assert [] == canaries_in(dict(frames_of(raised.value)), CANARIES)
