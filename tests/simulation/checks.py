"""
The rules that must hold at the end of a simulation, read from the service's record and from the journal.

What the clients believe counts only where callers were told of it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from kie_async import AuthenticationError, DownloadError, Statistics
from kie_async._core.lifecycle import ENDED, OPEN, Intent
from kie_async.states import JobState
from tests.client.canaries import find_canaries, frames_of
from tests.simulation.calls import BUDGETS, PRICE
from tests.simulation.plan import CLOSING, PIPE_ACCIDENTS

if TYPE_CHECKING:
    from kie_async.testing.tasks import FakeTask
    from tests.simulation.calls import Call
    from tests.simulation.plan import Accident, Plan, Trouble
    from tests.simulation.world import Process, World

__all__ = ["check_clients", "check_files", "check_owners", "check_world"]

S = JobState
_JOB_ID = re.compile("kj_[0-9a-f]{32}")
#: The states of a job whose task may be unknown: its caller was told that it is in doubt, or decides.
_DOUBTFUL = frozenset({S.UNRESOLVED, S.ABANDONED, S.IN_DOUBT, S.SENDING})
#: The status of an answer to a callback that no job is known for.
_UNKNOWN = 404
_FINAL = ENDED | {S.UNRESOLVED, S.STALLED}
#: The seconds in which what works for a while has to end, such as a create whose task a callback has reported.
_SETTLING = 600
#: The errors of a simulation whose variables are searched.
_ERRORS_WITH_VARIABLES = 4
#: The seconds after a disturbance in which its effects may last.
_AFTERMATH = 45.0
_OK = 200
_MAINTENANCE = 455
#: The seconds within which each worker has learned of maintenance, and those between two probes.
_LEARNING = 5.0
_PROBE_INTERVAL = 59.0
#: The seconds within which the end of a stalled job is seen.
_STALLED_FOR = 200.0


async def check_clients(world: World) -> None:
    """Check that nothing is left at the clients: no job, slot, token, waiter or task."""
    if any(row.state is S.STALLED for row in await world.rows()):
        return  # it is polled on
    if any(one.kind == "forged callback" for one in world.plan.accidents):
        return  # a task that a callback names is looked for in vain for a while
    for process in world.processes.values():
        for _ in range(_SETTLING):
            if _left(process) == Statistics():
                break
            await asyncio.sleep(1.0)
        else:
            world.violations.append(f"{process.name} has something left: {_left(process)}")


async def check_owners(world: World) -> None:
    """
    Check that a living worker works on each job that was left, since some worker has called ``recover()``.

    A worker that owns a job which was not sent is about to send it.
    """
    processes = world.processes.values()
    if world.plan.journal == "memory" or not any(process.recovers for process in processes):
        return
    alive = {process.stores[-1].worker for process in processes}
    for row in await world.rows():
        if row.state in OPEN and row.owner not in alive and (row.state is not S.INTENT or row.owner is not None):
            world.violations.append(f"a job has no living owner: {_show(row)}")
    idle = await _find_idle(world)
    await asyncio.sleep(1.0)  # a row may change while it is read
    for row in await _find_idle(world) if idle else ():
        if row.id in {one.id for one in idle}:
            world.violations.append(f"a job has an owner that does not work on it: {_show(row)}")


async def _find_idle(world: World) -> list[Intent]:
    """Return the rows that were not sent and that their living owners do not submit."""
    return [
        row
        for row in await world.rows()
        for process in world.processes.values()
        if row.state is S.INTENT and row.owner == process.stores[-1].worker and not _submits(process, row.id)
    ]


def _submits(process: Process, job_id: str) -> bool:
    job = process.kie._binding.live_job(job_id)
    return job is not None and job.has_submission


def _left(process: Process) -> Statistics:
    left = attrs.evolve(process.kie.statistics(), polls=0, callbacks=0, confirmations=0, duplicate_records=0)
    return attrs.evolve(left, other_workers=0, in_flight_elsewhere=0)


def check_world(world: World, rows: Sequence[Intent]) -> None:
    """Check everything else."""
    _check_tasks(world, rows)
    _check_rows(world, rows)
    _check_told(world)
    _check_in_time(world)
    _check_limit(world)
    _check_gate(world)
    _check_budgets(world, rows)
    _check_reached(world)
    _check_forgotten(world)
    _check_shared(world)
    _check_leftovers(world)
    _check_secrets(world)


def _check_tasks(world: World, rows: Sequence[Intent]) -> None:
    """Check that each paid task is known, and that no intent was paid twice."""
    by_id = {**world.forgotten, **{row.id: row for row in rows}}
    # A callback that brings a row back does not know how many attempts were unclear.
    for one in world.forgotten.values():
        unclear = max(one.ambiguous_attempts, by_id[one.id].ambiguous_attempts)
        by_id[one.id] = attrs.evolve(by_id[one.id], ambiguous_attempts=unclear)
    named = {task_id: one for one in by_id.values() for task_id in (one.task_id, *one.duplicate_task_ids) if task_id}
    by_prompt: defaultdict[str, list[Intent]] = defaultdict(list)
    for one in by_id.values():
        if one.input:
            by_prompt[str(json.loads(one.input).get("prompt"))].append(one)
    tasks: Counter[str] = Counter()
    for task in world.fake.truth.created:
        if _is_lost(world, task):
            continue
        row: Intent | None = named.get(task.task_id) or _row_of(task, by_id, by_prompt)
        if row is None:
            world.violations.append(f"a paid task is not in the journal: {task.task_id} of {task.created_at:.1f}")
            continue
        tasks[row.id] += 1
        known = task.task_id in (row.task_id, *row.duplicate_task_ids)
        if not (known or row.ambiguous_attempts or row.state in _DOUBTFUL or world.resubmitted[row.id]):
            world.violations.append(f"a paid task is not known: {task.task_id}, {_show(row)}")
    _check_answers(world, named)
    _check_doubts(world, rows)
    for job_id, number in tasks.items():
        paid = by_id[job_id]
        if number > 1 + paid.ambiguous_attempts + world.resubmitted[job_id]:
            world.violations.append(f"{number} tasks were paid for {_show(paid)}")


def _is_lost(world: World, task: FakeTask) -> bool:
    """Return True if only a dead worker had seen a task acknowledged, and no callback has told of it since."""
    lost_at = world.lost_tasks.get(task.task_id, math.inf)
    told = [post for post in world.fake.truth.callbacks if post.task_id == task.task_id and post.at > lost_at]
    return lost_at < math.inf and not (told and told[-1].status in (_OK, _UNKNOWN))


def _check_answers(world: World, named: dict[str, Intent]) -> None:
    """Check that a task is known whose create was answered to a process that lived on, or whose callback was taken."""
    if _has(world, "failover", "commits lost"):
        return  # what was known with what has died is lost
    lives = {process.name: process for process in world.processes.values()}
    closing = {step.worker for step in world.plan.steps if step.call in CLOSING}
    answered = [] if _has(world, *PIPE_ACCIDENTS) else world.service.answered
    if not any(trouble.kind.startswith("poll") for trouble in world.plan.troubles):
        answered = answered + world.service.named  # each was confirmed by a poll
    for name, task_id in answered:
        process = lives.get(name)
        if process is not None and process.number not in closing and task_id not in named:
            world.violations.append(f"the answer to {name} is not known: {task_id}")
    if any(trouble.kind.startswith("poll") for trouble in world.plan.troubles):
        return  # the service may have said for long that it does not know the task
    taken = {callback.task_id for callback in world.fake.truth.callbacks if callback.status == _OK}
    for task_id in taken - named.keys():
        found = _JOB_ID.search(world.fake.truth.tasks[task_id].callback_url or "")
        if found is not None and found[0] in world.forgotten:
            continue  # its job was deleted on purpose, and the callback needs no answer
        world.violations.append(f"the task of a callback that was taken is not known: {task_id}")


def _check_doubts(world: World, rows: Sequence[Intent]) -> None:
    """Check that no job is in doubt that was never sent, unless a process or a connection has ended or stood still."""
    ends = any(step.call in CLOSING or step.call == "resolve" for step in world.plan.steps)
    if ends or _has(world, "kill", "freeze", *PIPE_ACCIDENTS):
        return
    sent = {_prompt(post.body) for post in world.fake.truth.create_requests}
    for row in rows:
        if row.state in (S.IN_DOUBT, S.UNRESOLVED) and row.input and json.loads(row.input).get("prompt") not in sent:
            world.violations.append(f"a job is in doubt that was never sent: {_show(row)}")


def _prompt(body: object) -> object:
    given = body.get("input") if isinstance(body, dict) else None
    return given.get("prompt") if isinstance(given, dict) else None


def _has(world: World, *kinds: str) -> bool:
    """Return True if an accident of a kind is in the plan."""
    return any(accident.kind.startswith(kinds) for accident in world.plan.accidents)


def _row_of(task: FakeTask, by_id: dict[str, Intent], by_prompt: dict[str, list[Intent]]) -> Intent | None:
    found = _JOB_ID.search(task.callback_url or "")
    if found is not None:
        return by_id.get(found[0])
    rows = by_prompt.get(str(task.input.get("prompt")), [])
    doubtful = [row for row in rows if row.ambiguous_attempts or row.state in _DOUBTFUL]
    return next(iter(doubtful or rows), None)


def _check_rows(world: World, rows: Sequence[Intent]) -> None:
    """Check that each row has ended, and agrees with the service."""
    keys = Counter(row.key for row in rows if row.key is not None)
    if twice := [key for key, number in keys.items() if number > 1]:
        world.violations.append(f"keys of several rows: {twice}")
    for row in rows:
        if row.state not in _FINAL:
            world.violations.append(f"a row has not ended: {_show(row)}")
        if row.duplicate_task_ids and row.state in (S.IN_DOUBT, S.UNRESOLVED):
            world.violations.append(f"a row is in doubt, and has only further tasks: {_show(row)}")
        task = world.fake.truth.tasks.get(row.task_id or "")
        if row.state in (S.SUCCEEDED, S.FAILED) and (
            task is None or task.state(world.scheduler.now) != ("fail" if row.state is S.FAILED else "success")
        ):
            world.violations.append(f"a row does not agree with its task: {_show(row)}")
        if row.state is S.STALLED and task is not None and task.ends_at < world.scheduler.now - _STALLED_FOR:
            world.violations.append(f"the end of a stalled job was not seen: {_show(row)}")
        if task is not None and task.callback_url and row.id not in task.callback_url:
            world.violations.append(f"a row has the task of another job: {_show(row)} {task.callback_url}")


def _check_told(world: World) -> None:
    """Check that callers were told the truth, all the same, and in time."""
    told: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for call in world.calls:
        if call.ended is None and call in world._living_calls():
            world.violations.append(f"a call has not ended: {call.step}")
        for at, job_id, task_id, state in call.told:
            told[job_id].add((task_id, state))
            task = world.fake.truth.tasks.get(task_id)
            if task is None or task.state(at) != state:
                world.violations.append(f"{call.step.call} was told that {task_id} is {state}")
    if not any(trouble.kind in ("poll 401", "create 401") for trouble in world.plan.troubles):
        for call in world.calls:
            if isinstance(call.error, AuthenticationError):
                world.violations.append(f"{call.step.call} was told that the key is refused: {call.error}")
    for job_id, ends in told.items():
        if len(ends) > 1 and not world.resubmitted[job_id]:
            world.violations.append(f"callers of {job_id} were told different ends: {sorted(ends)}")


def _check_in_time(world: World) -> None:
    """Check that callers were told of ends in time, where nothing had disturbed the task, its job or the callers."""
    plan, truth = world.plan, world.fake.truth
    faults: Sequence[Accident | Trouble] = (*plan.accidents, *plan.troubles)
    disturbed = [
        *((one.at, one.at + one.seconds + _AFTERMATH) for one in faults),
        *((begin, end + _AFTERMATH) for begin, end in world.disturbed),
        # Signed callbacks are refused where the clock is wrong.
        *((one.at, math.inf) for one in plan.accidents if one.kind == "wall clock" and plan.signed),
        *((call.began, _closed_until(call)) for call in world.calls if call.step.call in CLOSING),
    ]
    polled_until = {poll.task_id: poll.at for poll in truth.polls}
    for call in world.calls:
        if call.step.call.startswith("map"):
            continue  # rows wait for each other
        for at, _, task_id, _ in call.told:
            task = truth.tasks[task_id]
            if any(begin < at and task.created_at < end for begin, end in disturbed):
                continue
            running = sum(
                one.created_at <= at and max(one.ends_at, polled_until.get(one.task_id, 0.0)) >= task.ends_at
                for one in truth.created
            )
            bound = _in_time(plan, task.ends_at - task.created_at, running)
            late = at - max(task.ends_at, call.began)
            world.counts["told in time"] += late <= bound
            if late > bound:
                world.violations.append(
                    f"{call.step.call} was told {late:.1f} s after the end of a task of {task.charged:g} credits that"
                    f" took {task.ends_at - task.created_at:.0f} s, while {running} ran; {bound:.1f} s are allowed"
                )


def _closed_until(call: Call) -> float:
    """Return when a worker takes callbacks again; one whose call was cancelled stays closed, and refuses them."""
    cancelled = call.step.cancel_after is not None or call.step.timeout is not None
    return math.inf if call.ended is None or cancelled else call.ended + _AFTERMATH


def _in_time(plan: Plan, duration: float, running: int) -> float:
    """
    Return the seconds after the end of a task within which its callers are told.

    A callback is confirmed by the next poll. Without one, the interval between polls is a part of the duration that the
    kind is known to take, a minute at first, and no shorter than the budget of polls allows: all tasks that run, or
    whose end is not known yet, are polled once in *running* / rate seconds. A poll uses its part of the rate until the
    answer has come. The owner of a job does not know who waits elsewhere, and polls jobs without waiters half as often.
    """
    network = 4.0 * plan.latency[1] + 4.0 * plan.disk
    seconds_per_poll = 1.0 / plan.polls_per_second + 2.0 * plan.latency[1] / max(1, round(plan.polls_per_second))
    if plan.callbacks:
        return 5.0 + network + running * seconds_per_poll
    part = 0.15 if plan.workers == 1 else 0.3
    return 10.0 + network + part * duration + 2.0 * running * seconds_per_poll


def _check_limit(world: World) -> None:
    """Check that no more creates have reached the service than allowed, and that few were refused."""
    plan, truth = world.plan, world.fake.truth
    busiest = truth.busiest_window(10.0)
    if busiest > plan.creates and not world.may_exceed_limit:
        world.violations.append(f"{busiest} creates arrived within 10 s, {plan.creates} are allowed")
    refused = sum(post.fault is None for post in truth.rate_limited)
    world.counts["refused"] += refused
    is_own = plan.limit == plan.creates and not any(one.kind == "lower limit" for one in plan.accidents)
    if is_own and refused and not world.may_exceed_limit:
        world.violations.append(f"{refused} creates were refused at the service's own limit")


def _check_gate(world: World) -> None:
    """Check that no worker sends creates while one has learned of maintenance, but for a probe a minute."""
    if _has(world, "failover") or any(trouble.kind.startswith("create") for trouble in world.plan.troubles):
        return
    known_at: float | None = None
    probed_at = -math.inf
    for post in world.fake.truth.create_requests:
        if post.code != _MAINTENANCE:
            known_at = None
        elif known_at is None:
            known_at, probed_at = (post.answered_at or post.at) + _LEARNING, -math.inf
        elif post.at > known_at:
            if post.at < probed_at + _PROBE_INTERVAL:
                world.violations.append(f"a create was sent during maintenance, at {post.at:.1f}")
            probed_at = post.at


def _check_reached(world: World) -> None:
    """Check that each attempt began once, and that each job has ended once."""
    if _has(world, "failover", "commits lost"):
        return
    for (job_id, state, attempts), times in world.reached.items():
        # A worker that stands still while others end and forget a job takes its row for lost, and writes it again.
        again = job_id in world.forgotten and state is not S.SENDING and _has(world, "freeze")
        if times > 1 and state in (S.SENDING, S.SUCCEEDED, S.FAILED) and not again:
            world.violations.append(f"{job_id} became {state} {times} times, after {attempts} attempts")


def _check_forgotten(world: World) -> None:
    """Check that forget() has deleted only jobs that had ended."""
    ends = any(step.call in CLOSING for step in world.plan.steps)
    if ends or _has(world, "kill", "failover", "commits lost"):
        return
    for job_id in world.deleted:
        if world.states[job_id] not in ENDED:
            world.violations.append(f"{job_id} was deleted, and was {world.states[job_id]}")


def _check_shared(world: World) -> None:
    """Check that shared runs have yielded each result once."""
    cut = any(call.step.call == "map" and (call.was_cancelled or call.error) for call in world.calls)
    if (
        cut
        or world.counts["map left early"]
        or any(step.call in CLOSING for step in world.plan.steps)
        or world.plan.accidents
    ):
        return
    for task_id, names in world.yields.items():
        if len(names) > 1:
            world.violations.append(f"shared runs of {sorted(names)} have yielded {task_id}")


def _check_budgets(world: World, rows: Sequence[Intent]) -> None:
    """Check that the jobs that were sent in a named budget cost no more than it has; jobs may join it later."""
    for name, jobs in world.sent_in.items():
        known = {
            task_id
            for row in (*world.forgotten.values(), *rows)
            if row.id in jobs
            for task_id in (row.task_id, *row.duplicate_task_ids)
        }
        tasks = [task for task in world.fake.truth.created if task.task_id in known or _of(task, jobs)]
        cost = sum(task.credits(world.scheduler.now) for task in tasks)
        if cost > BUDGETS[name] + PRICE and not any(world.resubmitted[job] for job in jobs):
            world.violations.append(f"budget {name}: {cost:g} credits were paid, {BUDGETS[name]:g} are allowed")


def _of(task: FakeTask, jobs: set[str]) -> bool:
    found = _JOB_ID.search(task.callback_url or "")
    return found is not None and found[0] in jobs


def _check_leftovers(world: World) -> None:
    for process in world.processes.values():
        own = ("simulation: ", "_make_call", "_handle", "_begin_life")
        left = [text for text in process.loop.leftovers() if not any(name in text for name in own)]
        if left:
            world.violations.append(f"{process.name} has tasks left: {left[:5]}")
        if process.loop.unhandled:
            world.violations.append(f"{process.name} has unhandled errors: {process.loop.unhandled[:5]}")


def check_files(world: World, results: Mapping[str, bytes]) -> None:
    """
    Check that each saved file is there as it was promised, that no other file is, and that no connection is open.

    Args:
        world: The world.

        results: The results of the tasks that were saved.
    """
    for path, task_ids in world.saved.items():
        if not path.is_file():
            world.violations.append(f"a file that was saved is not there: {path.name}")
        elif path.read_bytes() not in [results[task_id] for task_id in task_ids]:
            world.violations.append(f"a file is not the result of {task_ids}: {path.name}")
    left = [path.name for path in world.files.glob(".*") if path.stem not in world.lost_parts]
    if left:
        world.violations.append(f"parts of files are left: {left}")
    for call in world.calls:
        calm = call.began > world.healed_at or not (world.plan.accidents or world.plan.troubles)
        if calm and isinstance(call.error, DownloadError):
            world.violations.append(f"{call.step.call} failed without a reason: {call.error}")
    if world.network.open_ends():
        world.violations.append(f"connections are open: {world.network.open_ends()}")


def _check_secrets(world: World) -> None:
    """Check that nothing shows a secret: no log, event or error, no variable of an error's frames, and no journal."""
    from tests.helpers import PROMPT
    from tests.simulation.world import CANARIES, SECRETS

    errors = [call.error for call in world.calls if call.error is not None]
    texts = "\n".join([*world.texts, *(f"{error!r} {error}" for error in errors)])
    if found := find_canaries(texts, CANARIES):
        world.violations.append(f"secrets were shown: {found}")
    for error in errors[:_ERRORS_WITH_VARIABLES]:
        for place, variables in frames_of(error):
            if shown := find_canaries(" ".join(_texts(variables)), SECRETS):
                world.violations.append(f"the variables of {place} have secrets: {shown}")
    stored = world.stored_bytes().decode("latin-1")
    secrets = (*SECRETS, PROMPT) if world.plan.store_inputs == "hash" else SECRETS
    if found := find_canaries(stored, secrets):
        world.violations.append(f"secrets are in the journal: {found}")


def _texts(variables: Mapping[str, object]) -> Iterator[str]:
    """Yield the texts of variables, and the representations of others, as an error tracker shows them."""
    for value in variables.values():
        with suppress(Exception):  # an object that is half made
            yield repr(value)


def _show(row: Intent) -> str:
    return (
        f"{row.id} {row.state}, {row.attempts} attempts, {row.ambiguous_attempts} ambiguous, task {row.task_id},"
        f" owner {(row.owner or 'none')[-6:]}"
    )
