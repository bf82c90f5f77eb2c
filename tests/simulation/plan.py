"""
The plan of a simulation, drawn from its seed: workers, their programs of calls, accidents, and faults of the service.

A plan is a value, so that a failing one can be reduced part by part, and repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, Literal, TypeAlias

import attrs

__all__ = [
    "ACCIDENTS",
    "CALLS",
    "CLOSING",
    "FILE_TROUBLES",
    "JOURNALS",
    "MIXES",
    "PIPE_ACCIDENTS",
    "SAVING",
    "TROUBLES",
    "Accident",
    "JournalKind",
    "Plan",
    "Step",
    "Tier",
    "Trouble",
]

JournalKind: TypeAlias = Literal["memory", "sqlite", "postgres"]
Tier: TypeAlias = Literal["A", "B"]
JOURNALS: tuple[JournalKind, ...] = ("memory", "sqlite", "postgres")

#: The calls of programs, each with its weight in an unmixed program.
CALLS: Mapping[str, float] = {
    "submit": 6.0,
    "submit, not waiting": 4.0,
    "generate": 8.0,
    "wait": 8.0,
    "status": 2.0,
    "updates": 2.0,
    "info": 1.0,
    "map": 2.0,
    "recover": 2.0,
    "resolve": 1.0,
    "resubmit": 1.0,
    "abandon": 0.5,
    "forget": 0.5,
    "jobs": 0.7,
    "keys": 0.5,
    "credits": 0.7,
    "estimate": 0.3,
    "spent": 0.3,
    "budgets": 0.3,
    "raise_budget": 0.3,
    "workers": 0.3,
    "account": 0.3,
    "journal_id": 0.2,
    "statistics": 0.3,
    "close": 0.7,
    "close the loop": 0.3,
    "fork": 0.3,
}
#: The calls of tier B, beside the others.
SAVING: Mapping[str, float] = {"save": 6.0, "map, saving": 3.0}
#: Every tenth plan has bursts of rare calls, so that each pair of them overlaps in some plan.
_RARE_PLANS, _RARE_WEIGHT, _RARE_STEPS = 10, 0.7, 16
#: Calls after which a process has to be opened again.
CLOSING = frozenset({"close", "close the loop"})

#: Accidents that are not faults of the service, each with the journals that have them.
ACCIDENTS: Mapping[str, tuple[JournalKind, ...]] = {
    "kill": ("sqlite", "postgres"),
    "kill all": ("sqlite", "postgres"),
    "kill with an answer in flight": ("sqlite", "postgres"),
    "kill after a callback": ("sqlite", "postgres"),
    "freeze": JOURNALS,
    "freeze with an answer in flight": ("sqlite", "postgres"),
    "wall clock": JOURNALS,
    "disk full": ("sqlite",),
    "disk slow": ("sqlite", "postgres"),
    "disk stalls before a create": ("sqlite", "postgres"),
    "journal fails before a create": ("sqlite", "postgres"),
    "database away": ("postgres",),
    "answers of commits lost": ("postgres",),
    "commits lost": ("postgres",),
    "failover": ("postgres",),
    "database clock": ("postgres",),
    "deaf": ("postgres",),
    "read-only": ("postgres",),
    "lower limit": JOURNALS,
    "no credits": JOURNALS,
    "maintenance": JOURNALS,
    "forged callback": JOURNALS,
}

#: Accidents of the pipes of tier B.
PIPE_ACCIDENTS = (
    "connections reset",
    "connections closed",
    "network cut",
    "network silent",
    "network refused",
    "network unreachable",
    "network slow",
)

#: Faults of the service and the network: the arguments of a ``Fault`` beside its place, and whether it may hide that a
#: task was made.
_TROUBLES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "create refused connection": ("connect", {"kind": "reset"}),
    "create lost before": ("create", {"kind": "reset"}),
    "create answer lost": ("create", {"kind": "reset", "after": True}),
    "create answer cut": ("create", {"kind": "half_body", "after": True}),
    "create silent": ("create", {"kind": "silence", "after": True}),
    "create slow": ("create", {"kind": "slow", "after": True, "seconds": 20.0}),
    "create slower than its timeout": ("create", {"kind": "slow", "after": True, "seconds": 90.0}),
    "create html": ("create", {"kind": "html"}),
    "create html, paid": ("create", {"kind": "html", "after": True}),
    "create 500": ("create", {"kind": "code", "code": 500, "msg": "Internal Error, Please try again later."}),
    "create 500, paid": (
        "create",
        {"kind": "code", "code": 500, "msg": "Internal Error, Please try again later.", "after": True},
    ),
    "create 429": ("create", {"kind": "code", "code": 429}),
    "create 455": ("create", {"kind": "code", "code": 455}),
    "create 402": ("create", {"kind": "code", "code": 402}),
    "create 401": ("create", {"kind": "code", "code": 401}),
    "create 422": ("create", {"kind": "code", "code": 422}),
    "create 505": ("create", {"kind": "code", "code": 505}),
    "create no data, paid": ("create", {"kind": "null_data", "after": True}),
    "create no task id, paid": ("create", {"kind": "no_task_id", "after": True}),
    "create number": ("create", {"kind": "numeric_task_id", "after": True}),
    "create cut json, paid": ("create", {"kind": "truncated_json", "after": True}),
    "create status 401, paid": ("create", {"kind": "status", "status": 401, "after": True}),
    "create status 500, paid": ("create", {"kind": "status", "status": 500, "after": True}),
    "create id elsewhere": ("create", {"kind": "alter", "data": {"taskId": ""}, "after": True}),
    "create 401 page, paid": ("create", {"kind": "html", "status": 401, "after": True}),
    "create 500 in words, paid": (
        "create",
        {"kind": "code", "code": 500, "msg": "The current content could not be processed in time.", "after": True},
    ),
    "create redirect": ("create", {"kind": "redirect"}),
    "poll lost": ("poll", {"kind": "reset"}),
    "poll silent": ("poll", {"kind": "silence"}),
    "poll html": ("poll", {"kind": "html"}),
    "poll 401 page": ("poll", {"kind": "html", "status": 401}),
    "poll 401": ("poll", {"kind": "code", "code": 401}),
    "poll 429": ("poll", {"kind": "code", "code": 429}),
    "poll 500": ("poll", {"kind": "code", "code": 500}),
    "poll not found": ("poll", {"kind": "code", "code": 422, "msg": "recordInfo is null"}),
    "poll slow": ("poll", {"kind": "slow", "seconds": 8.0}),
    "poll cut": ("poll", {"kind": "half_body"}),
    "poll null": ("poll", {"kind": "null_data"}),
    "poll odd state": ("poll", {"kind": "alter", "data": {"state": "paused"}}),
    "callback lost": ("callback", {"kind": "lost"}),
    "callback early": ("callback", {"kind": "early", "seconds": 5.0}),
    "callback late": ("callback", {"kind": "slow", "seconds": 120.0}),
    "callback copies": ("callback", {"kind": "copies", "copies": 5}),
    "callback unsigned": ("callback", {"kind": "unsigned"}),
    "callback wrong signature": ("callback", {"kind": "wrong_signature"}),
    "callback stale": ("callback", {"kind": "stale", "seconds": 4000.0}),
    "callback says fail": ("callback", {"kind": "alter", "data": {"state": "fail", "failCode": "500"}}),
    "credit 500": ("credit", {"kind": "code", "code": 500}),
    "credit html": ("credit", {"kind": "html"}),
}
TROUBLES = tuple(_TROUBLES)

#: Faults of the file host, in tier B.
_FILE_TROUBLES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "download lost": ("download", {"kind": "reset"}),
    "download cut": ("download", {"kind": "half_body"}),
    "download silent": ("download", {"kind": "silence"}),
    "download html": ("download", {"kind": "html"}),
    "download 503": ("download", {"kind": "status", "status": 503}),
    "download 404": ("download", {"kind": "status", "status": 404}),
    "download slow": ("download", {"kind": "slow", "seconds": 8.0}),
}
FILE_TROUBLES = tuple(_FILE_TROUBLES)

#: The mixes: how often calls end early, and how many accidents and troubles there are, and of both in tier B beside
#: the others. A swarm: each run also leaves out half of all kinds.
MIXES: Mapping[str, Mapping[str, float]] = {
    "calm": {"accidents": 0, "troubles": 0, "pipes": 0, "cancel": 0.1},
    "calls": {"accidents": 0, "troubles": 1, "pipes": 1, "cancel": 0.5},
    "network": {"accidents": 1, "troubles": 8, "pipes": 6, "cancel": 0.1},
    "processes": {"accidents": 8, "troubles": 1, "pipes": 1, "cancel": 0.1},
    "everything": {"accidents": 5, "troubles": 5, "pipes": 4, "cancel": 0.3},
}


@attrs.frozen(kw_only=True)
class Step:
    """
    One call of a program.

    Attributes:
        worker: The number of the worker.

        at: The instant at which it begins.

        call: The name of the call.

        number: Selects what it is about: a key, a job, a table.

        choice: Selects among the variants of the call.

        key: True for a job with a key.

        cancel_after: The seconds after which it is cancelled; None for not at all.

        turns: The turns of the loop after that, in which it is cancelled.

        timeout: The timeout that the caller gives, in seconds; None for none.
    """

    worker: int
    at: float
    call: str
    number: int
    choice: int
    key: bool = False
    cancel_after: float | None = None
    turns: int = 0
    timeout: float | None = None


@attrs.frozen(kw_only=True)
class Accident:
    """
    One accident.

    Attributes:
        kind: One of ``ACCIDENTS`` or ``PIPE_ACCIDENTS``.

        at: The instant at which it begins.

        worker: The number of the worker.

        seconds: Its duration; of a kill, the time until the worker starts again.

        value: A number between 0 and 1 that selects the details.
    """

    kind: str
    at: float
    worker: int
    seconds: float
    value: float


@attrs.frozen(kw_only=True)
class Trouble:
    """
    One fault of the service or the network that lasts for a while.

    Attributes:
        kind: One of ``TROUBLES`` or ``FILE_TROUBLES``.

        at: The instant at which it begins.

        seconds: Its duration.

        probability: The part of the requests that it affects.
    """

    kind: str
    at: float
    seconds: float
    probability: float

    def fault(self) -> tuple[str, dict[str, Any]]:
        """Return the place and the other arguments of the ``Fault``."""
        place, arguments = _TROUBLES.get(self.kind) or _FILE_TROUBLES[self.kind]
        return place, {
            **arguments,
            "between": (self.at, self.at + self.seconds),
            "probability": self.probability,
        }


@attrs.frozen(kw_only=True)
class Plan:
    """
    A simulation.

    Attributes:
        seed: Seeds everything that the plan does not say.

        mix: The name of the mix.

        journal: The kind of journal that all workers share.

        store_inputs: ``"full"`` or ``"hash"``.

        workers: The number of workers.

        callbacks: True if the service posts callbacks.

        signed: True if it signs them.

        creates: The configured limit of creates in ten seconds.

        limit: The service's limit.

        polls_per_second: The configured rate of polls.

        in_flight: The configured number of tasks in flight.

        durations: The median and the sigma of the durations of tasks.

        fail_rate: The part of the tasks that fail.

        latency: The bounds of the time over the network each way.

        disk: The largest time of a usual call of the journal, in seconds.

        seconds: The time for which calls begin and accidents happen.

        steps: The calls.

        accidents: The accidents.

        troubles: The troubles.

        tier: ``"A"`` for a simulated transport, ``"B"`` for HTTP over pipes.
    """

    seed: int
    mix: str
    journal: JournalKind
    store_inputs: Literal["full", "hash"]
    workers: int
    callbacks: bool
    signed: bool
    creates: int
    limit: int
    polls_per_second: float
    in_flight: int
    durations: tuple[float, float]
    fail_rate: float
    latency: tuple[float, float]
    disk: float
    seconds: float
    steps: tuple[Step, ...]
    accidents: tuple[Accident, ...]
    troubles: tuple[Trouble, ...]
    tier: Tier = "A"

    @classmethod
    def draw(cls, seed: int, *, tier: Tier = "A") -> Plan:
        """Draw the plan of a seed; those of tier B have more calls, accidents and troubles."""
        plan = cls._draw(seed)
        if seed % _RARE_PLANS == 0:
            plan = _with_rare_calls(plan)
        if tier == "A":
            return plan
        random = Random(f"{seed} plan of tier B")
        pipes = int(MIXES[plan.mix]["pipes"])
        cancel = MIXES[plan.mix]["cancel"]
        steps = [_draw_step(random, plan.workers, plan.seconds, cancel, SAVING) for _ in range(random.randint(2, 10))]
        kinds = dict.fromkeys(PIPE_ACCIDENTS, 1.0)
        accidents = _draw_accidents_of(random, kinds, plan.workers, plan.seconds, pipes)
        troubles = _draw_troubles_of(random, dict.fromkeys(FILE_TROUBLES, 1.0), plan.seconds, pipes)
        return attrs.evolve(
            plan,
            tier=tier,
            steps=tuple(sorted((*plan.steps, *steps), key=lambda step: step.at)),
            accidents=tuple(sorted((*plan.accidents, *accidents), key=lambda accident: accident.at)),
            troubles=tuple(sorted((*plan.troubles, *troubles), key=lambda trouble: trouble.at)),
        )

    @classmethod
    def _draw(cls, seed: int) -> Plan:
        random = Random(f"{seed} plan")
        mix = random.choice(list(MIXES))
        weights = MIXES[mix]
        journal = random.choice(JOURNALS)
        workers = 1 if journal == "memory" else random.choice((1, 2, 2, 3, 4))
        seconds = random.choice((40.0, 120.0, 240.0))
        callbacks = random.random() < 0.6
        creates = random.choice((3, 6, 20))
        return cls(
            seed=seed,
            mix=mix,
            journal=journal,
            store_inputs="hash" if journal != "memory" and callbacks and random.random() < 0.25 else "full",
            workers=workers,
            callbacks=callbacks,
            signed=callbacks and random.random() < 0.5,
            creates=creates,
            limit=creates if random.random() < 0.85 else max(1, creates // 2),
            polls_per_second=random.choice((0.5, 2.0, 5.0)),
            in_flight=random.choice((3, 10, 500)),
            durations=(random.choice((5.0, 30.0, 60.0)), random.choice((0.1, 0.5))),
            fail_rate=random.choice((0.0, 0.1, 0.3)),
            latency=random.choice(((0.0, 0.0), (0.01, 0.1), (0.05, 1.5))),
            disk=random.choice((0.0, 0.002, 0.05)),
            seconds=seconds,
            steps=_draw_steps(random, journal, workers, seconds, weights["cancel"]),
            accidents=_draw_accidents(random, journal, workers, seconds, callbacks, int(weights["accidents"])),
            troubles=_draw_troubles(random, seconds, callbacks, int(weights["troubles"])),
        )


def _with_rare_calls(plan: Plan) -> Plan:
    """Add bursts of rare calls, and a fault of one of them."""
    random = Random(f"{plan.seed} rare calls")
    kinds = {
        name: 1.0
        for name, weight in CALLS.items()
        if weight <= _RARE_WEIGHT and name not in CLOSING and (name != "fork" or plan.journal != "memory")
    }
    bursts = [random.uniform(0.0, plan.seconds) for _ in range(2)]
    steps = (_draw_step(random, plan.workers, plan.seconds, 0.0, kinds) for _ in range(_RARE_STEPS))
    rare = [attrs.evolve(step, at=random.choice(bursts)) for step in steps]
    kind = random.choice([kind for kind, (place, _) in _TROUBLES.items() if place == "credit"])
    troubles = [Trouble(kind=kind, at=min(bursts) - 1.0, seconds=plan.seconds, probability=1.0)]
    if plan.callbacks:  # so that a callback comes between two attempts of a job
        kinds_between = ("create 500, paid", "callback early")
        troubles += [Trouble(kind=kind, at=max(bursts), seconds=60.0, probability=0.5) for kind in kinds_between]
    return attrs.evolve(
        plan,
        steps=tuple(sorted((*plan.steps, *rare), key=lambda step: step.at)),
        troubles=tuple(sorted((*plan.troubles, *troubles), key=lambda each: each.at)),
    )


def _swarm(random: Random, kinds: Mapping[str, float]) -> tuple[list[str], list[float]]:
    """Return a half of the kinds with their weights, some of them four times as large."""
    chosen = [kind for kind in kinds if random.random() < 0.5] or list(kinds)
    return chosen, [kinds[kind] * random.choice((1.0, 1.0, 4.0)) for kind in chosen]


def _draw_steps(random: Random, journal: JournalKind, workers: int, seconds: float, cancel: float) -> tuple[Step, ...]:
    always = ("submit", "generate", "wait")
    kinds = {name: weight for name, weight in CALLS.items() if journal != "memory" or name != "fork"}
    names, weights = _swarm(random, kinds)
    for name in [name for name in always if name not in names]:
        names.append(name)
        weights.append(CALLS[name])
    keyed = random.choice((0.1, 0.5, 0.9))
    bursts = [random.uniform(0.0, seconds) for _ in range(3)]
    steps = []
    for _ in range(random.randint(8, 40)):
        at = random.choice(bursts) + random.choice((0.0, 0.0, 0.01)) if random.random() < 0.4 else None
        ends = random.random() < cancel
        steps.append(
            Step(
                worker=random.randrange(workers),
                at=random.uniform(0.0, seconds) if at is None else at,
                call=random.choices(names, weights)[0],
                number=random.randrange(6 if random.random() < 0.7 else 40),
                choice=random.randrange(1000),
                key=random.random() < keyed,
                cancel_after=random.choice((0.0, 0.0, 0.01, 0.3, 3.0, 30.0)) if ends else None,
                turns=random.choice((0, 1, 2, 5, 20)),
                timeout=random.choice((0.0, 1.0, 20.0)) if random.random() < 0.15 else None,
            )
        )
    return tuple(sorted(steps, key=lambda step: step.at))


def _draw_step(random: Random, workers: int, seconds: float, cancel: float, kinds: Mapping[str, float]) -> Step:
    """Draw a step without a key of its own."""
    ends = random.random() < cancel
    return Step(
        worker=random.randrange(workers),
        at=random.uniform(0.0, seconds),
        call=random.choices(list(kinds), list(kinds.values()))[0],
        number=random.randrange(6),
        choice=random.randrange(1000),
        cancel_after=random.choice((0.0, 0.01, 0.3, 3.0, 30.0)) if ends else None,
        turns=random.choice((0, 1, 2, 5, 20)),
        timeout=random.choice((0.0, 1.0, 20.0)) if random.random() < 0.1 else None,
    )


def _draw_accidents(
    random: Random, journal: JournalKind, workers: int, seconds: float, callbacks: bool, most: int
) -> tuple[Accident, ...]:
    kinds = {kind: 1.0 for kind, journals in ACCIDENTS.items() if journal in journals}
    for kind in ("kill", "kill with an answer in flight", "freeze"):
        if kind in kinds:
            kinds[kind] = 3.0
    if not callbacks:
        del kinds["forged callback"]
        kinds.pop("kill after a callback", None)
    return _draw_accidents_of(random, kinds, workers, seconds, most)


def _draw_accidents_of(
    random: Random, kinds: Mapping[str, float], workers: int, seconds: float, most: int
) -> tuple[Accident, ...]:
    names, weights = _swarm(random, kinds)
    found = [
        Accident(
            kind=random.choices(names, weights)[0],
            at=random.uniform(0.0, seconds),
            worker=random.randrange(workers),
            seconds=random.choice((0.3, 3.0, 15.0, 40.0)),
            value=random.random(),
        )
        for _ in range(random.randint(0, most))
    ]
    return tuple(sorted(found, key=lambda accident: accident.at))


def _draw_troubles(random: Random, seconds: float, callbacks: bool, most: int) -> tuple[Trouble, ...]:
    kinds = {kind: 1.0 for kind in TROUBLES if callbacks or not kind.startswith("callback")}
    return _draw_troubles_of(random, kinds, seconds, most)


def _draw_troubles_of(random: Random, kinds: Mapping[str, float], seconds: float, most: int) -> tuple[Trouble, ...]:
    names, weights = _swarm(random, kinds)
    found = [
        Trouble(
            kind=random.choices(names, weights)[0],
            at=random.uniform(0.0, seconds),
            seconds=random.choice((1.0, 10.0, 60.0)),
            probability=random.choice((0.1, 0.5, 1.0)),
        )
        for _ in range(random.randint(0, most))
    ]
    return tuple(sorted(found, key=lambda trouble: trouble.at))
