"""Budgets without known prices: one task of each price class is sent until its cost is known."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from kie_async import (
    Budget,
    ConfigurationError,
    Failed,
    InsufficientCreditsError,
    KieClient,
    MarketRequest,
    RetryPolicy,
    TaskFailedError,
)
from kie_async._keys import price_class
from kie_async.testing import FakeKie, Fault, Truth
from tests.client.tables import client_and_fake_unchecked, count_types, run_map
from tests.helpers import KEY, assert_settled
from tests.profile import scaled

CLIP, PICTURE = "https://media.example.com/clip.mp4", "https://media.example.com/cat.png"
Input = Mapping[str, Any]


def _veo(given: Input) -> float:
    tiers = {"veo3_lite": (30.0, 35.0, 150.0), "veo3_fast": (60.0, 65.0, 180.0), "veo3": (250.0, 255.0, 370.0)}
    prices = tiers[given.get("model", "veo3_fast")]
    return float(prices[("720p", "1080p", "4k").index(given.get("resolution", "720p"))])


def _seedance(given: Input) -> float:
    with_video, without = {"480p": (11.5, 19.0), "720p": (25.0, 41.0)}[given["resolution"]]
    return float(given["duration"] * (with_video if given.get("reference_video_urls") else without))


def _kling(given: Input) -> float:
    seconds = sum(shot["duration"] for shot in given["multi_prompt"])
    return float(seconds * {"std": (14.0, 20.0), "pro": (18.0, 27.0)}[given["mode"]][given["sound"]])


def _pixverse(given: Input) -> float:
    second = {"360p": 5.0, "1080p": 23.0}[given["quality"]] + 5.0 * given["generate_audio_switch"]
    return float(given["duration"] * second)


def _grok(given: Input) -> float:
    return float(4.0 + 26.0 * given.get("enable_pro", False) + 2.4 * given.get("extend_times", 0))


#: Five models with the fields that change their prices. The price list has none of them.
MODELS: dict[str, tuple[Callable[[Input], float], dict[str, list[Any]]]] = {
    "acme/veo-3-1": (_veo, {"model": ["veo3_lite", "veo3_fast", "veo3"], "resolution": ["720p", "1080p", "4k"]}),
    "acme/bytedance/seedance-2": (
        _seedance,
        {"resolution": ["480p", "720p"], "duration": [4, 8], "reference_video_urls": [None, [CLIP]]},
    ),
    "acme/kling-3.0/video": (
        _kling,
        {
            "mode": ["std", "pro"],
            "sound": [False, True],
            "multi_prompt": [
                [{"prompt": "x", "duration": 3}],
                [{"prompt": "y", "duration": 3}, {"prompt": "z", "duration": 5}],
            ],
        },
    ),
    "acme/pixverse-v6/text-to-video": (
        _pixverse,
        {"quality": ["360p", "1080p"], "duration": [5, 8], "generate_audio_switch": [False, True]},
    ),
    "acme/grok-imagine/extend": (_grok, {"enable_pro": [False, True], "extend_times": [None, 6, 10]}),
}


def make_row(chance: Random, number: int, model: str | None = None) -> tuple[str, MarketRequest]:
    """Make a row of a random model with random values; the prompt, the seed and the image never matter."""
    model = model or chance.choice(list(MODELS))
    values = {name: chance.choice(values) for name, values in MODELS[model][1].items()}
    given = {name: value for name, value in values.items() if value is not None}
    given |= {"prompt": f"take {number}", "seed": number, "image_url": f"{PICTURE}?{number}"}
    return f"row-{number}", MarketRequest(model=model, input=given)


def fake_options(seed: int, **options: Any) -> dict[str, Any]:
    return {
        "models": list(MODELS),
        "prices": {name: price for name, (price, _) in MODELS.items()},
        "duration": (30.0, 0.5),
        "credits": 1e9,
        "seed": seed,
        **options,
    }


def assert_one_of_each_class(truth: Truth, budget: float, at: float) -> None:
    """Check that each class was tried by one task at a time until one was charged, and the overrun is theirs."""
    classes = defaultdict(list)
    for task in truth.created:
        classes[price_class(task.model, task.input)].append(task)
    for tasks in classes.values():
        charged = min((task.ends_at for task in tasks if task.failure is None), default=at)
        early = [task for task in tasks if task.created_at < charged]
        assert all(later.created_at >= sooner.ends_at for sooner, later in itertools.pairwise(early)), early
    assert truth.spent(at) <= budget + sum(max(task.charged for task in tasks) for tasks in classes.values())


@pytest.mark.parametrize("seed", range(scaled(quick=2, check=12, nightly=1000)))
async def test_overrun_is_one_task_of_each_unknown_class(seed: int) -> None:
    """For every other seed, the journal has one task of each model; for every third, all rows are of one model."""
    chance = Random(seed)
    only = chance.choice(list(MODELS)) if seed % 3 == 0 else None
    rows = [make_row(chance, number, only) for number in range(40)]
    async with client_and_fake_unchecked(**fake_options(seed, fail_rate=0.1)) as setup:
        for number, model in enumerate(MODELS if seed % 2 else ()):
            with suppress(TaskFailedError):
                await setup.kie.generate(make_row(chance, 100 + number, model)[1])
        before = setup.truth.spent(anyio.current_time())
        found = await run_map(setup, rows, budget=Budget(credits=100))

        assert 40 == len(found)
        assert_one_of_each_class(setup.truth, 100.0 + before, anyio.current_time())
        await assert_settled(setup.kie)


async def test_a_charge_of_30_does_not_price_the_other_classes() -> None:
    """Each class had the price of the first task, and eleven of 250 credits were sent."""
    given = {"prompt": "x", "model": "veo3_lite"}
    rows = [("a", given), *((str(number), {**given, "model": "veo3"}) for number in range(20))]
    async with client_and_fake_unchecked(**fake_options(0)) as setup:
        await setup.kie.generate(MarketRequest(model="acme/veo-3-1", input=given))
        table = [(key, MarketRequest(model="acme/veo-3-1", input=given)) for key, given in rows]
        found = await run_map(setup, table, budget=Budget(credits=100))

        assert 30.0 + 30.0 + 250.0 == setup.truth.spent(anyio.current_time())
        assert {"Done": 2, "Skipped": 19} == count_types(found)


async def test_known_class_is_sent_at_full_rate() -> None:
    """A dearer class of the same model does not count for it."""
    rows = [make_row(Random(number), number, "acme/grok-imagine/extend") for number in range(30)]
    cheap = [(key, MarketRequest(model=r.model, input={"prompt": key})) for key, r in rows]
    async with client_and_fake_unchecked(**fake_options(0, duration=600.0)) as setup:
        dear = MarketRequest(model="acme/grok-imagine/extend", input={"prompt": "y", "enable_pro": True})
        await setup.kie.generate(dear)
        await setup.kie.generate(cheap[0][1])
        async with setup.kie.map(cheap, budget=Budget(credits=84)) as run:
            await anyio.sleep(30.0)
            assert 2 + 21 == len(setup.tasks)
            await run.aclose(drain=0.0)


@pytest.mark.parametrize("seed", range(scaled(quick=1, check=4, nightly=100)))
async def test_shuffled_restarts_try_each_class_once(tmp_path: Path, seed: int) -> None:
    """A class whose task runs since an earlier life is not tried again, wherever its row is."""
    chance = Random(seed)
    rows = [make_row(chance, number) for number in range(25)]
    async with FakeKie(**fake_options(seed, duration=(60.0, 0.5))) as fake:
        for life in range(4):
            chance.shuffle(rows)
            kie = KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db")
            async with kie, kie.map(list(rows), budget=Budget(credits=100)) as run:
                with anyio.move_on_after(9.0 + 30.0 * life):
                    async for _ in run:
                        pass
                await kie.aclose(drain=0.0)
        assert_one_of_each_class(fake.truth, 100.0, anyio.current_time() + 1000.0)


@pytest.mark.parametrize(
    ("fault", "retry"),
    [
        (Fault("create", "reset", after=True, nth=1), RetryPolicy(in_doubt_timeout=60.0)),
        (Fault("create", "code", code=500, after=True, nth=1), RetryPolicy()),
        (Fault("create", "code", code=500, after=True, nth=1), RetryPolicy(server_error_attempts=1)),
    ],
    ids=["in doubt", "ambiguous", "ambiguous, not repeated"],
)
async def test_unknown_cost_of_a_lost_create_ends_its_class(fault: Fault, retry: RetryPolicy) -> None:
    rows = [(f"{n}", MarketRequest(model="acme/veo-3-1", input={"prompt": f"{n}"})) for n in range(5)]
    async with (
        FakeKie(**fake_options(0, faults=[fault])) as fake,
        KieClient(KEY, base_url=fake.url, retry=retry) as kie,
    ):
        async with kie.map(rows, budget=Budget(credits=100), ordered=True) as run:
            found = [outcome async for outcome in run]
        assert 1 == len(fake.truth.tasks)
        for failed in found[1:]:
            assert isinstance(failed, Failed)
            assert isinstance(failed.error, ConfigurationError)
            assert "Budget(price=" in str(failed.error)
        async with kie.map(rows[1:], budget=Budget(credits=100, price=60.0)) as run:
            assert {"Done": 1, "Skipped": 3} == count_types([outcome async for outcome in run])


@pytest.mark.parametrize("name", [None, "campaign-7"])
@pytest.mark.parametrize("first", [0, 2], ids=["its own row first", "its own row last"])
@pytest.mark.parametrize("returns", ["here", "elsewhere"])
async def test_unsent_job_that_may_be_paid_ends_its_class(
    tmp_path: Path, returns: str, first: int, name: str | None
) -> None:
    """An ambiguous answer, then a refusal by the account: the rows waited for a cost that never became known."""
    rows = [(f"{n}", MarketRequest(model="acme/veo-3-1", input={"prompt": f"{n}"})) for n in range(3)]
    path, faults = tmp_path / "kie.db", [Fault("create", "code", code=500, nth=1), Fault("create", "code", code=402)]
    async with FakeKie(**fake_options(0, faults=faults)) as fake, KieClient(KEY, base_url=fake.url, journal=path) as a:
        with pytest.raises(InsufficientCreditsError):
            await a.generate(rows[0][1], key="0")
        async with KieClient(KEY, base_url=fake.url, journal=path) as b:
            kie = a if returns == "here" else b
            with anyio.fail_after(600.0):
                async with kie.map(rows[first:] + rows[:first], budget=Budget(credits=100, name=name)) as run:
                    found = {outcome.key: outcome async for outcome in run}
        assert ["0", "1", "2"] == sorted(found)
        for failed in found.values():
            assert isinstance(failed, Failed)
            assert isinstance(failed.error, ConfigurationError)
        assert 2 == len(fake.truth.create_requests)


async def test_unreported_cost_ends_its_class() -> None:
    rows = [(f"{n}", MarketRequest(model="acme/veo-3-1", input={"prompt": f"{n}"})) for n in range(5)]
    faults = [Fault("poll", "alter", data={"creditsConsumed": None})]
    async with client_and_fake_unchecked(**fake_options(0, faults=faults)) as setup:
        assert {"Done": 1, "Failed": 4} == count_types(await run_map(setup, rows, budget=Budget(credits=500)))
        assert 1 == len(setup.tasks)


@pytest.mark.parametrize("store_inputs", ["full", "hash"])
async def test_seen_prices_survive_restarts(tmp_path: Path, store_inputs: Any) -> None:
    from kie_async import SqliteJournal

    journal = SqliteJournal(tmp_path / "kie.db", store_inputs=store_inputs)
    request = MarketRequest(model="acme/veo-3-1", input={"prompt": "x", "resolution": "4k"})
    other = MarketRequest(model="acme/veo-3-1", input={"prompt": "x"})
    async with FakeKie(**fake_options(0)) as fake:
        async with KieClient(KEY, base_url=fake.url, journal=journal) as kie:
            assert (None, "unknown") == _short(await kie.estimate(request))
            await kie.generate(request)
        async with KieClient(KEY, base_url=fake.url, journal=journal) as kie:
            assert (180.0, "seen") == _short(await kie.estimate(request))
            assert (180.0, "unknown") == _short(await kie.estimate(other))


def _short(estimate: Any) -> tuple[float | None, str]:
    return estimate.credits, estimate.basis
