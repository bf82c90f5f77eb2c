"""
The planted bugs: for each, what it does wrong, the change of the source, and the plans in which it is looked for.

They are the faults that the design rules out, those that were found from outside, and those of the fleet's table: what
goes wrong if a rule of the package is left out. A text to replace must occur exactly once in its module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TypeAlias

import attrs

from tests.simulation.plan import CLOSING, JournalKind, Plan

__all__ = ["MUTANTS", "Mutant", "Where"]

#: Returns True for a plan in which a mutant is looked for.
Where: TypeAlias = Callable[[Plan], bool]


@attrs.frozen(kw_only=True)
class Mutant:
    """
    A planted bug.

    Attributes:
        name: Its name.

        sentence: What it does wrong, in one sentence.

        changes: By module, the texts to replace and what replaces them.

        where: Selects the plans in which it is looked for, so that few seeds are run for nothing.

        within: The number of such plans, from seed 0 on, within which it must be found.
    """

    name: str
    sentence: str
    changes: Mapping[str, tuple[tuple[str, str], ...]]
    where: Where
    within: int


def plans_with(
    *journals: JournalKind,
    workers: int = 1,
    accidents: tuple[str, ...] = (),
    troubles: tuple[str, ...] = (),
    calls: tuple[str, ...] = (),
    also: Where = lambda _: True,
) -> Where:
    """
    Return a selection of plans.

    Args:
        *journals: Their journals; none for any.

        workers: The least number of their workers.

        accidents: Accidents of which they have one; the first word of a name selects all that begin with it.

        troubles: Troubles of which they have one, in the same way.

        calls: Calls of which they have one.

        also: A further condition.
    """

    def where(plan: Plan) -> bool:
        return (
            (not journals or plan.journal in journals)
            and plan.workers >= workers
            and (not accidents or any(one.kind.startswith(accidents) for one in plan.accidents))
            and (not troubles or any(one.kind.startswith(troubles) for one in plan.troubles))
            and (not calls or any(step.call in calls for step in plan.steps))
            and also(plan)
        )

    return where


def _mutant(
    name: str,
    sentence: str,
    module: str,
    *texts: str,
    where: Where = plans_with(),  # noqa: B008 (a constant)
    within: int = 50,
    more: Mapping[str, tuple[tuple[str, str], ...]] | None = None,
) -> Mutant:
    """Return a mutant that replaces *texts*, each followed by what replaces it, in a module of the package."""
    changes = {f"kie_async.{module}": tuple(zip(texts[::2], texts[1::2], strict=True)), **(more or {})}
    return Mutant(name=name, sentence=sentence, changes=changes, where=where, within=within)


def _has_quick_callbacks(plan: Plan) -> bool:
    """Return True if callbacks may come soon, at the time of a poll or of another attempt."""
    return plan.callbacks and plan.durations[0] < 60.0


def _is_busy(plan: Plan) -> bool:
    """Return True if more creates are asked for than the limit allows."""
    creates = sum(step.call in _CREATING for step in plan.steps)
    return plan.creates == plan.limit == _NARROW and creates > plan.seconds * _NARROW / 20.0  # half of all tokens


def _has_same_key_at_once(plan: Plan) -> bool:
    """Return True if two workers submit the same key at once."""
    keyed = [step for step in plan.steps if step.key and step.call in _CREATING]
    return any(
        one.number == other.number and one.worker != other.worker and abs(one.at - other.at) <= _AT_ONCE
        for one, other in combinations(keyed, 2)
    )


def _closes(plan: Plan) -> bool:
    """Return True if a client is closed before the end."""
    return any(step.call in CLOSING for step in plan.steps)


def _is_calm(plan: Plan) -> bool:
    """Return True if no process ends or stands still, and no caller decides, so that only sent jobs may be in doubt."""
    ends = any(one.kind.startswith(("kill", "freeze")) for one in plan.accidents)
    return not (ends or _closes(plan) or any(step.call == "resolve" for step in plan.steps))


def _spends_budget(plan: Plan) -> bool:
    """Return True if tables of more rows than a named budget can pay are to be paid from it; see ``calls``."""
    rows = {
        (step.number % 3, row)
        for step in plan.steps
        if step.call == "map" and step.choice // 7 % 4 == 3 and step.choice // 3 % 2 == 0
        for row in range(1 + step.choice % 6)
    }
    return len(rows) > _AFFORDED + 1


def _shares_table(plan: Plan) -> bool:
    """Return True if two workers share a table, and nothing disturbs them; see ``calls``."""
    shared = {
        (step.number % 3, step.worker)
        for step in plan.steps
        if step.call == "map" and step.choice % 4 == 2 and step.cancel_after is None
    }
    return not plan.accidents and not _closes(plan) and len(shared) > len({table for table, _ in shared})


_CREATING = ("submit", "submit, not waiting", "generate")
_NARROW = 3
_AT_ONCE = 0.02
_MANY = 20
#: The rows that the smaller named budget can pay.
_AFFORDED = 3
_DISK: tuple[JournalKind, ...] = ("sqlite", "postgres")
_KILLS = ("kill",)
_LOST_ANSWERS = ("create answer lost", "create answer cut", "create silent", "create slower", "create html, paid")

MUTANTS: tuple[Mutant, ...] = (
    # -- money: what was sent is not sent again ---------------------------------------------------------------------
    _mutant(
        "a lost answer is resent",
        "A create whose answer was lost counts as not sent, and is sent again.",
        "_core.verdicts",
        "        lambda _: True,\n        Verdict.IN_DOUBT,",
        "        lambda _: True,\n        Verdict.UNSENT,",
        where=plans_with(troubles=_LOST_ANSWERS),
    ),
    _mutant(
        "a gateway's 401 counts as a refusal",
        "A bare HTTP 401 under a create counts as the service's refusal, though the task may have been made.",
        "_core.verdicts",
        "        lambda r: r.has_code(401, 402, 433) or _lacks_credits(r),",
        "        lambda r: r.has_code(401, 402, 433) or r.has_bare_status(401) or _lacks_credits(r),",
        where=plans_with(troubles=("create 401 page",)),
    ),
    _mutant(
        "a 500 with familiar words counts as a refusal",
        "A 500 whose text merely begins as a known refusal of content counts as one, though it may have been paid.",
        "_core.verdicts",
        "reply.has_code(500) and _FAULT_TEXT.fullmatch(reply.message)",
        "reply.has_code(500) and _FAULT_TEXT.match(reply.message)",
        where=plans_with(troubles=("create 500 in words",)),
    ),
    _mutant(
        "ambiguous attempts are not counted",
        "A create that an ambiguous 500 has answered is sent again, and the row does not say so.",
        "_io.submitting.submission",
        "        await self._return_to_intent(ambiguous_attempts=ambiguous)\n",
        "        await self._return_to_intent()\n",
        where=plans_with(troubles=("create 500",)),
    ),
    _mutant(
        "the journal follows the wire",
        "SENDING is journaled after the create was sent, and not before its first byte.",
        "_io.submitting.submission",
        "before_first_byte=lambda: self._journal_sending(permit)\n            )\n",
        "before_first_byte=anyio.lowlevel.checkpoint\n            )\n            await self._journal_sending(permit)\n",
        where=plans_with(*_DISK, accidents=_KILLS),
    ),
    _mutant(
        "what is not journaled is sent",
        "A create is sent although SENDING could not be written: the row in memory says so.",
        "_io.submitting.submission",
        "context.transitions.require_transition(\n                job,\n                JobState.SENDING,\n"
        "                account_epoch=permit.account_epoch,\n",
        "context.transitions.record_transition(\n                job,\n                JobState.SENDING,\n",
        where=plans_with(*_DISK, accidents=("journal fails",)),
    ),
    _mutant(
        "SENDING is taken for INTENT",
        "A row that a dead process has left in SENDING is sent again at once.",
        "_io.jobs.follower",
        'await self.results.record_in_doubt(job, "the process that sent it ended before the response arrived")\n',
        "await self.results.transitions.record_transition(job, JobState.INTENT)\n",
        where=plans_with(*_DISK, accidents=("kill with", "kill")),
    ),
    _mutant(
        "a job in doubt is sent again",
        "A job in doubt that a process adopts becomes an intent again.",
        "_io.jobs.follower",
        "            self.tracker.track_in_doubt(job)\n            self.journal_watch.watch(job, remote=False)\n",
        "            await self.results.transitions.record_transition(job, JobState.INTENT)\n"
        "            await self.follow(job)\n",
        where=plans_with(troubles=_LOST_ANSWERS),
    ),
    _mutant(
        "the task that an odd answer names is lost",
        "The id of a task is read only from an answer that accepts the create; any other is in doubt without it.",
        "_io.submitting.submission",
        "self._named = () if verdict is Verdict.ACCEPTED else read_candidates(exchange.body)",
        "self._named = ()",
        where=plans_with(
            troubles=("create id elsewhere",),
            also=lambda plan: not plan.callbacks and not any(one.kind.startswith("poll") for one in plan.troubles),
        ),
    ),
    # -- compare-and-set ----------------------------------------------------------------------------------------------
    _mutant(
        "no compare-and-set (SQLite)",
        "A row in the file is changed whatever its state, attempts and owner have become.",
        "_io.journals.tables",
        '        where += " AND state = ? AND attempts = ? AND owner IS ?"\n'
        "        values += [str(seen.state), seen.attempts, seen.owner]\n",
        '        where += ""\n',
        where=plans_with("sqlite", workers=2, also=_has_quick_callbacks),
    ),
    _mutant(
        "no compare-and-set (PostgreSQL)",
        "A row in PostgreSQL is changed whatever its state, attempts and owner have become.",
        "_io.journals.postgres_tables",
        "    if fenced:\n",
        "    if False:\n",
        "    if sends:\n",
        "    if False:\n",
        where=plans_with("postgres", workers=2, also=_has_quick_callbacks),
    ),
    # -- one driver of each job ---------------------------------------------------------------------------------------
    _mutant(
        "two drivers of a job",
        "A job that has a submission is resumed from its row as well, for example by recover().",
        "_io.jobs.follower",
        "        if job is None or job.learn(row):\n            await self.follow(job := self.adopt(row))\n",
        "        await self.follow(job := self.adopt(row))\n",
        "        if row is None or job.has_submission:\n            return\n        self.journal_watch.unwatch(job)",
        "        if row is None:\n            return\n        self.journal_watch.unwatch(job)",
        where=plans_with(calls=("recover",)),
    ),
    _mutant(
        "a live job is dropped",
        "A row that was read replaces the live job in memory, with its submission and the calls that wait for it.",
        "_io.jobs.follower",
        "        job = self.registry.get(row.id)\n        if job is None:\n            job = LiveJob.from_row(row)\n"
        "            self.registry.add(job)\n        else:\n            job.learn(row)\n        return job\n",
        "        if (job := self.registry.get(row.id)) is not None:\n            self.registry.remove(job)\n"
        "        job = LiveJob.from_row(row)\n        self.registry.add(job)\n        return job\n",
        where=plans_with(*_DISK, workers=2, accidents=_KILLS, calls=("wait", "recover")),
    ),
    _mutant(
        "a known task is lost",
        "The task of an answer that cannot be journaled is not kept: the error of the journal ends the submission.",
        "_io.jobs.transitions",
        "            if not can_follow(seen.state, state):\n",
        "            if not can_follow(seen.state, state) or state is JobState.SUBMITTED:\n",
        where=plans_with(
            *_DISK,
            accidents=("journal fails",),
            also=lambda plan: not plan.callbacks and not _closes(plan),
        ),
    ),
    _mutant(
        "unwritten transitions are forgotten",
        "What could not be written is true in memory only: it is not written when the journal can be written again.",
        "_io.jobs.transitions",
        "            if job.unwritten is None:\n                job.unwritten = ",
        "            return True\n            if job.unwritten is None:\n                job.unwritten = ",
        where=plans_with(*_DISK, accidents=("disk full", "database away", "read-only", "commits lost")),
    ),
    _mutant(
        "a closed loop freezes its jobs",
        "An engine whose event loop is over keeps its lock, so that its jobs belong to a living owner.",
        "_binding",
        "            engine.abandon()\n",
        "            pass\n",
        where=plans_with(*_DISK, calls=("close the loop",)),
    ),
    _mutant(
        "a refused job is not given up",
        "A job that the account cannot pay stays its owner's, who does not work on it.",
        "_io.submitting.submission",
        "            if final and self._is_sendable(job) and not self.closing:",
        "            if False and self._is_sendable(job) and not self.closing:",
        where=plans_with(*_DISK, workers=2, accidents=("no credits",)),
    ),
    _mutant(
        "a forgotten job was running",
        "forget() deletes old rows whatever their state.",
        "_io.journals.tables",
        '    delete = f"DELETE FROM intents WHERE id = ? AND {HAS_ENDED} AND updated_at < ?"',
        '    delete = f"DELETE FROM intents WHERE id = ? AND updated_at < ?"',
        '    query = f"SELECT number, id, {HAS_ENDED} AND updated_at < ? FROM intents',
        '    query = f"SELECT number, id, updated_at < ? FROM intents',
        where=plans_with("sqlite", calls=("forget",)),
    ),
    _mutant(
        "a key is looked up, and not unique",
        "Two processes that submit the same key at once both find that it is new.",
        "_io.journals.tables",
        "        record TEXT,\n        UNIQUE (origin, key)\n    );",
        "        record TEXT\n    );",
        "    if intent.key is not None and (known := select_by_key(connection, intent.key)) is not None:\n"
        "        return known\n    if intent.callback_url",
        "    if intent.callback_url",
        where=plans_with("sqlite", workers=2, also=_has_same_key_at_once),
    ),
    _mutant(
        "a forked child uses the client",
        "A child has copies of its parent's jobs and connections, and works with them.",
        "_binding",
        "        if self._process not in (None, os.getpid()):",
        "        if False:",
        where=plans_with(calls=("fork",)),
    ),
    # -- callbacks ----------------------------------------------------------------------------------------------------
    _mutant(
        "callbacks are believed",
        "What the body of a callback says of its task is applied without a question to the service.",
        "_io.callbacks.receiver",
        "        self.callbacks += 1\n",
        "        self.callbacks += 1\n"
        "        from kie_async._core.wire import read_record_body\n"
        "        _, record = read_record_body(body)\n"
        "        if job is not None and record is not None and record.task_id == job.task_id:\n"
        "            await self.confirmations.tracker.apply_record(job, record)\n",
        where=plans_with(accidents=("forged callback",)),
    ),
    _mutant(
        "a task is bound without proof",
        "The task that a callback names is bound to its job although its record does not echo our token.",
        "_io.callbacks.confirmations",
        "        return echoes_token(record, row.id, *self.secrets)\n\n    async def find_row",
        "        return True\n\n    async def find_row",
        where=plans_with(accidents=("forged callback",)),
    ),
    _mutant(
        "early callbacks are dropped",
        "A callback that comes before the answer to the create is answered with 200 and forgotten.",
        "_io.callbacks.receiver",
        "        own = step is CallbackStep.CONFIRM\n",
        "        own = step is CallbackStep.CONFIRM\n        if not own:\n            return\n",
        where=plans_with(troubles=_LOST_ANSWERS, also=lambda plan: plan.callbacks),
    ),
    _mutant(
        "named tasks are not journaled",
        "A callback is answered with 200 before the task that it names is in the journal.",
        "_io.callbacks.receiver",
        "            if not own:\n                await self.confirmations.journal_ids(row.id)\n",
        "            if False:\n                await self.confirmations.journal_ids(row.id)\n",
        where=plans_with(*_DISK, accidents=("kill after",), troubles=(*_LOST_ANSWERS, "callback early")),
    ),
    _mutant(
        "callbacks replace polls",
        "A task whose callback is expected is not polled.",
        "_io.polling.watchlist",
        "        watch.weight, watch.loss = _weight_of(watch.job), self._loss_of(watch)\n",
        "        watch.weight, watch.loss = _weight_of(watch.job), self._loss_of(watch)\n"
        "        if watch.loss < 1.0:\n            return\n",
        where=plans_with(troubles=("callback lost", "callback unsigned", "callback wrong")),
    ),
    _mutant(
        "callbacks of lost rows are refused",
        "A callback for a job that the journal has lost in a failover is answered with 404.",
        "_io.callbacks.receiver",
        "            if row is None and await self._may_be_lost(token):",
        "            if False:",
        where=plans_with("postgres", accidents=("failover",), also=lambda plan: plan.callbacks),
    ),
    _mutant(
        "a late answer does not bind",
        "The answer to a create is a duplicate if others have taken its worker for ended meanwhile.",
        "_io.jobs.transitions",
        "        while not moved and require_row(job).task_id is None and job.state in BINDABLE:",
        "        while not moved and require_row(job).task_id is None and job.state is JobState.SENDING:",
        "if row is not None or latest is None or latest.owner == seen.owner:",
        "if True:",
        where=plans_with("postgres", workers=2, accidents=("freeze with",)),
    ),
    # -- slots, tokens, gates -----------------------------------------------------------------------------------------
    _mutant(
        "a rejected create keeps its slot",
        "The slot of a job whose create was refused is not released.",
        "_io.polling.tracker",
        "        if not keep_slot:\n            self.release_slot(job)\n",
        "        if not keep_slot and job.state is not JobState.REJECTED:\n            self.release_slot(job)\n",
        where=plans_with(troubles=("create 422", "create 505", "create 500")),
    ),
    _mutant(
        "a cancelled create keeps its token",
        "The token of a create that was cancelled before its first byte is not returned.",
        "_io.submitting.submission",
        "            permit.finish(Verdict.IN_DOUBT if submission.on_wire else Verdict.UNSENT)\n",
        "            pass\n",
    ),
    _mutant(
        "each process has the whole limit",
        "The tokens of an account are counted by each process alone.",
        "_io.submitting.token_supply",
        "        return not self._journal.durable\n",
        "        return True\n",
        where=plans_with(*_DISK, workers=2, also=_is_busy),
        more={"kie_async._io.submitting.submission": (("                account_epoch=permit.account_epoch,\n", ""),)},
    ),
    _mutant(
        "the tokens of the dead are free at once",
        "The lease of a worker that has ended counts as unused, though its create may have been sent.",
        "_core.account_state",
        "at=lease.expires_at, verdict=Verdict.IN_DOUBT)",
        "at=lease.expires_at, verdict=Verdict.UNSENT)",
        where=plans_with(*_DISK, workers=2, accidents=("kill", "freeze"), also=_is_busy),
    ),
    _mutant(
        "lost reports are not repeated",
        "The report of a lease is lost if the journal cannot be written, and its token counts as unused.",
        "_io.submitting.token_supply",
        "            self._reports, self._report_by = reports + self._reports, -math.inf\n",
        "            self._report_by = -math.inf\n",
        where=plans_with(
            *_DISK, accidents=("disk full", "database away", "read-only", "commits lost", "answers of"), also=_is_busy
        ),
    ),
    _mutant(
        "maintenance does not close the gate",
        "After a 455 all creates are sent as before.",
        "_core.gate",
        "_CLOSING = frozenset({Verdict.MAINTENANCE, Verdict.ACCOUNT})",
        "_CLOSING = frozenset({Verdict.ACCOUNT})",
        where=plans_with(accidents=("maintenance",)),
    ),
    _mutant(
        "the gate is each worker's",
        "A worker that was not refused itself does not learn that the account is under maintenance.",
        "_core.gate",
        "        self.epoch, barrier, self._probing, self.maintenance_since, *instants = dumped\n",
        "        self.epoch, barrier, self._probing, self.maintenance_since, *instants = dumped\n"
        "        barrier = self.maintenance_since = None\n",
        where=plans_with(*_DISK, workers=2, accidents=("maintenance",)),
    ),
    _mutant(
        "a named budget is each run's",
        "What other runs and processes have paid from a named budget does not count, so that each may spend it all.",
        "_io.journals.budget_tables",
        "    return None if found is None else _to_info(found)",
        "    return None if found is None else attrs.evolve(_to_info(found), spent=0.0, running=0.0, held=0.0)",
        where=plans_with("sqlite", also=_spends_budget),
    ),
    # -- the fleet ----------------------------------------------------------------------------------------------------
    _mutant(
        "take-over without steadiness",
        "A worker that was away itself takes others for ended.",
        "_io.journals.postgres_workers",
        'AND ({_HAS_LEASE} OR NOT {_IS_STEADY})"',
        'AND {_HAS_LEASE}"',
        where=plans_with("postgres", workers=2, accidents=("database away", "database clock", "freeze")),
    ),
    _mutant(
        "jobs of the living are taken over",
        "recover() takes over the jobs of workers that are alive.",
        "_io.journals.tables",
        "        if not locks.is_alive(name):\n            resumable = ",
        "        if name != locks.name:\n            resumable = ",
        where=plans_with("sqlite", workers=2, calls=("recover",)),
    ),
    _mutant(
        "the lease is not extended",
        "Heartbeats do not extend the lease of their worker.",
        "_io.journals.postgres_workers",
        '        " heartbeat_at = EXCLUDED.heartbeat_at, report',
        '        " report',
        where=plans_with("postgres", workers=2),
    ),
    _mutant(
        "nothing is restored after a failover",
        "A standby that lagged is believed: what the journal had acknowledged is not written again.",
        "_core.acknowledged",
        "    if present is None:\n        deleted =",
        "    if True:\n        return None\n    if present is None:\n        deleted =",
        where=plans_with("postgres", accidents=("failover",)),
    ),
    _mutant(
        "a lost COMMIT is not undone",
        "SENDING may have been committed after the caller has got an error, and stays.",
        "_io.journals.postgres_session",
        "                if isinstance(call.action, Action) and call.action.undo is not None:\n",
        "                if False:\n",
        where=plans_with("postgres", accidents=("answers of commits lost", "journal fails"), also=_is_calm),
    ),
    _mutant(
        "a step of the server's clock is not seen",
        "The shared time jumps with the clock of the database.",
        "_core.shared_clock",
        "        if known is not None and found.shift_from(known, steps=0.0):\n",
        "        if False:\n",
        where=plans_with("postgres", accidents=("database clock",)),
    ),
    _mutant(
        "waiters elsewhere are not woken",
        "A change of the file by another process is not looked for.",
        "_io.jobs.follower",
        "                await self._check(self._jobs.keys() if changed is None else changed)\n",
        "                await self._check(changed or ())\n",
        where=plans_with("sqlite", workers=2),
    ),
    _mutant(
        "ends are not notified",
        "PostgreSQL's workers do not notify each other of ends.",
        "_io.journals.postgres_tables",
        "_AWAITED = frozenset(JobState) - {JobState.INTENT, JobState.SENDING}",
        "_AWAITED = frozenset[JobState]()",
        where=plans_with("postgres", workers=2),
    ),
    _mutant(
        "recover() does not stand",
        "recover() takes over what is left when it is called, and nothing after that.",
        "_io.jobs.heartbeats",
        "        self._recovers, self._adopts_key = True, self._adopts_key or adopt_key\n",
        "        self._recovers, self._adopts_key = False, self._adopts_key or adopt_key\n",
        where=plans_with(*_DISK, workers=2, accidents=_KILLS),
    ),
    _mutant(
        "a shared row is yielded twice",
        "Two runs with share=True yield the outcome of the same row.",
        "_io.mapping.shared_rows",
        "        if has_yielded(intent) or intent.holder != self._journal.worker:\n            raise",
        "        if False:\n            raise",
        where=plans_with(*_DISK, workers=2, also=_shares_table),
    ),
    _mutant(
        "a read-only server is kept",
        "A worker whose server has become a standby does not look for the new primary.",
        "_io.journals.postgres_session",
        '_LOST = ("25006", "57P", "08")',
        '_LOST = ("57P", "08")',
        where=plans_with("postgres", accidents=("read-only",)),
    ),
    # -- time ---------------------------------------------------------------------------------------------------------
    _mutant(
        "polls come late",
        "Each poll comes a minute after it is planned, though the budget of polls is idle.",
        "_io.polling.watchlist",
        "        next_at = self.policy.next_poll_at(",
        "        next_at = 60.0 + self.policy.next_poll_at(",
        where=plans_with(also=lambda plan: plan.mix in ("calm", "calls")),
    ),
    _mutant(
        "a gateway's 401 page ends waits",
        "A 401 page of a gateway in answer to a poll tells callers that their API key is refused.",
        "_core.poll_results",
        "    if inner == 401:  # noqa",
        "    if inner == 401 or status == 401:  # noqa",
        where=plans_with(troubles=("poll 401 page",)),
    ),
    _mutant(
        "a stalled job is not polled",
        "A job that has stalled is not polled any more, though its task may still end.",
        "_io.polling.tracker",
        "        if job.state is not JobState.SUBMITTED:\n            self.release_slot(job)\n        else:",
        "        if job.state is not JobState.SUBMITTED:\n            self.suspend(job)\n            return\n"
        "        else:",
        where=plans_with(also=lambda plan: not plan.callbacks and len(plan.steps) > _MANY),
        within=100,
    ),
    _mutant(
        "not found is taken for the end",
        "Two answers that the service does not know a task end the job, though it was paid.",
        "_io.polling.tracker",
        "        elif poll.verdict is PollVerdict.NOT_VISIBLE and job.foreign:\n",
        "        elif poll.verdict is PollVerdict.NOT_VISIBLE:\n",
        "            if before and self.runtime.now() - job.accepted_at > VISIBLE_AFTER:\n",
        "            if before:\n",
        where=plans_with(troubles=("poll not found", "poll null")),
    ),
    _mutant(
        "a doubt has no deadline",
        "A job in doubt never becomes unresolved.",
        "_io.polling.tracker",
        "        job.timers = (self.timers.at(now - age + timeout, self._start, self._mark_unresolved, job),)\n",
        "        job.timers = ()\n",
        where=plans_with(troubles=_LOST_ANSWERS),
    ),
    _mutant(
        "a refused poll is the last for long",
        "After a 429 nothing is polled for an hour.",
        "_io.polling.poller",
        "                pause = answer.retry_after or pause_after(_REFUSAL_BACKOFF, self._refusals)\n",
        "                pause = 3600.0\n",
        where=plans_with(troubles=("poll 429",)),
    ),
    _mutant(
        "deadlines are lost",
        "After a batch of deadlines the timer of the next one is not set.",
        "_io.timers",
        "            self._in_batch = False\n            self._arm()\n",
        "            self._in_batch = False\n",
    ),
    _mutant(
        "a key may have another request",
        "The same key with another request returns the job of the first one.",
        "_io.submitting.intake",
        "            if known.fingerprint != fingerprint:\n",
        "            if False:\n",
        "        if row.fingerprint != job.fingerprint:\n",
        "        if False:\n",
    ),
)
