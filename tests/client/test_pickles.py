"""Errors, handles and values are pickled and copied without their client: they keep their ids and hold no key."""

from __future__ import annotations

import copy
import enum
import inspect
import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, cast

import pytest

import kie_async
from kie_async import (
    ConfigurationError,
    Event,
    EventName,
    Failed,
    Generation,
    InDoubt,
    Job,
    KieClient,
    KieError,
    Limits,
    MarketRequest,
    Problem,
    RetryPolicy,
    Skipped,
    SqliteJournal,
    SubmitInDoubtError,
    TaskFailedError,
    errors,
)
from kie_async._core.callback_token import callback_secret
from kie_async.testing import Fault
from tests.client.canaries import canaries_in
from tests.helpers import CALLBACKS, KEY, Setup, client_and_fake, make_request
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

WEBHOOK_KEY = "canary-of-the-webhook-key"
SECRETS = (KEY, WEBHOOK_KEY, callback_secret(KEY).decode("latin-1"))
#: Classes at work, which stay in their process.
LIVE = {"KieClient", "Run", "Callbacks", "PostgresJournal"}


def pickled(value: Any, *, protocol: int | None = None) -> Any:
    """Pickle a value, and return what comes out."""
    return pickle.loads(pickle.dumps(value, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"protocol {protocol}": partial(pickled, protocol=protocol) for protocol in range(6)},
    "in Python": lambda value: pickle._loads(pickle._dumps(value)),  # type: ignore[attr-defined]  # noqa: SLF001 (the other implementation)
    "twice": lambda value: pickled(pickled(value)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def make_errors(job: Job) -> list[BaseException]:
    """Make one error of each class, with a value for each of its keywords."""
    values: dict[str, Any] = {
        "job": job,
        "job_id": job.id,
        "task_id": "t1",
        "code": 422,
        "service_message": "no",
        "problems": [Problem("seed", "-1", "an integer >= 0")],
        "head": b"\x00<html>",
        "fail_code": "500",
        "fail_message": "internal",
        "worth_retrying": True,
        "differs": ["model"],
        "status": 401,
    }
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, KieError)]
    return [
        kind(
            "It failed. Try again.",
            **{name: values[name] for name in inspect.signature(kind).parameters if name in values},
        )
        for kind in kinds
    ]


@asynccontextmanager
async def open_values(**options: Any) -> AsyncIterator[tuple[Setup, dict[str, Any]]]:
    """Yield a setup and a value of each public class, most of them as a client has made them."""
    client = {"callback_url": CALLBACKS, "webhook_key": WEBHOOK_KEY, "retry": RetryPolicy(max_age=600.0), **options}
    async with client_and_fake(client=client, duration=20.0) as setup:
        kie = setup.kie
        done = await kie.generate(make_request(0, image=PNG))
        job = await kie.submit(make_request(1))
        setup.fake.inject(Fault("create", "reset", after=True, times=1))
        async with kie.map([("lost", make_request(2)), ("ok", make_request(3))]) as run:
            outcomes = [outcome async for outcome in run]
        found: dict[str, Any] = {type(value).__name__: value for value in [*outcomes, *make_errors(job)]}
        failed = Failed(key="a", request=make_request(4), error=TaskFailedError("No.", task_id="t1"), generation=done)
        values: list[Any] = [
            *(done, done.record, job, failed, Skipped(key="b", request=make_request(5), reason="budget")),
            *(await kie.jobs())[:1],
            *(*await kie.workers(), await kie.account()),
            *(Limits(), RetryPolicy(), SqliteJournal("kie.db"), kie.statistics(), run.summary()),
            *(kie_async.Budget(credits=5.0), kie_async.BudgetInfo(name="a", credits=5.0)),
            *(
                await kie.estimate(make_request()),
                make_request().list_price(),
                Event(name=EventName.ENDED, task_id="t1", detail={"state": "success"}),
            ),
            *(
                Problem("seed", "-1", "an integer >= 0"),
                MarketRequest(model="m/x", input={"prompt": "a cat"}),
                make_request(image=PNG),
            ),
        ]
        found |= {type(value).__name__: value for value in values}
        found["ExceptionGroup"] = ExceptionGroup("two", make_errors(job)[:2])
        yield setup, found


async def test_every_public_value_is_pickled_and_copied_without_secrets() -> None:
    """By every protocol and in both implementations."""
    public = {
        name
        for name in kie_async.__all__
        if inspect.isclass(kind := getattr(kie_async, name)) and not issubclass(kind, enum.Enum)
    }
    async with open_values() as (_, values):
        assert public - LIVE - {"Request"} <= values.keys()
        for name, value in values.items():
            for way, act in WAYS.items():
                again = act(value)
                assert type(again) is type(value), (name, way)
                assert str(value) == str(again) or name == "Job", (name, way)
                if "copy" not in way:
                    assert [] == canaries_in(again, SECRETS), (name, way)
                    assert [] == canaries_in(pickle.dumps(value), SECRETS), (name, way)
                if isinstance(value, KieError):
                    shown, known = (json.dumps(vars(found), default=repr) for found in (value, again))
                    assert isinstance(value, SubmitInDoubtError) or shown == known, (name, way)
                    assert (value.job_id, value.task_id) == (again.job_id, again.task_id)


async def test_objects_at_work_refuse_to_be_pickled() -> None:
    async with client_and_fake(client={"webhook_key": WEBHOOK_KEY}) as setup:
        for value in (setup.kie, setup.kie.callbacks):
            for protocol in range(6):
                with pytest.raises((ConfigurationError, pickle.PicklingError, AttributeError, TypeError)):
                    pickle.dumps(value, protocol)
        with pytest.raises(ConfigurationError, match="holds the API key"):
            copy.deepcopy(setup.kie)


async def test_unpickled_handle_says_how_to_go_on(tmp_path: Path) -> None:
    async with open_values() as (setup, values):
        job, in_doubt = cast("Job", values["Job"]), cast("InDoubt", values["InDoubt"])
        done = cast("Generation", values["Generation"])
        for again in map(pickled, (job, in_doubt.job, in_doubt.error.job, in_doubt)):
            handle = again.job if isinstance(again, InDoubt) else again
            assert handle.id in {job.id, in_doubt.job_id}
            assert handle.state is None
            for call in (
                handle.wait,
                handle.status,
                handle.info,
                handle.updates().__anext__,
                handle.abandon,
                lambda handle=handle: handle.resolve("t1"),
                lambda handle=handle: handle.resubmit(allow_duplicate=True),
            ):
                with pytest.raises(ConfigurationError, match=r"kie\.job\(id\)"):
                    await call()
            assert setup.kie.job(handle).id == handle.id
        again = pickled(job)
        assert again.task_id == job.task_id
        assert (await setup.kie.job(again)).task_id == job.task_id
        with pytest.raises(ConfigurationError, match=r"kie\.job\(id\)"):
            await pickled(done).save(tmp_path)


async def test_copied_handle_and_generation_keep_their_client(tmp_path: Path) -> None:
    async with open_values() as (_, values):
        job, done = cast("Job", values["Job"]), cast("Generation", values["Generation"])
        for act in (copy.copy, copy.deepcopy):
            assert (await act(job)).task_id == job.task_id
            (file,) = await act(done).save(tmp_path / act.__name__)
            assert file.stat().st_size


@pytest.mark.parametrize("wrong", [None, 7, b"kj_1", ["kj_1"], "no id", Limits()])
async def test_job_refuses_what_is_neither_id_nor_handle(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="Invalid id"):
        KieClient(KEY).job(wrong)


def raise_in_doubt(job: Job) -> None:
    """Fail in a worker process, as a task of Celery or of a pool does."""
    msg = "The create may have been accepted."
    raise SubmitInDoubtError(msg, job=job, job_id=job.id, task_id="t7")


async def test_errors_and_handles_cross_processes() -> None:
    """A worker of a pool gets a handle, and its error comes back with the ids."""
    async with client_and_fake(client={"callback_url": CALLBACKS}) as setup:
        job = await setup.kie.submit(make_request())
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            error = pool.submit(raise_in_doubt, job).exception()
        assert isinstance(error, SubmitInDoubtError)
        assert (job.id, "t7", job.id) == (error.job_id, error.task_id, error.job.id)
        assert (await setup.kie.job(error.job)).task_id == job.task_id
