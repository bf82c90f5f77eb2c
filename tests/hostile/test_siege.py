"""Hostile requests against both adapters of a client with jobs in every state: thousands, 100,000 in a nightly run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from tests import profile
from tests.figures import RecordFigures
from tests.hostile.attacks import BODIES, DELIVERIES, FIXED, METHODS, SIGNATURES, TOKENS, WAYS, Attack, Way
from tests.hostile.report import batches, run_siege

if TYPE_CHECKING:
    from pathlib import Path


#: Requests to a client that requires signatures, and to one that does not.
SIGNED = profile.scaled(quick=2500, check=2500, nightly=70_000)
UNSIGNED = profile.scaled(quick=2500, check=1500, nightly=30_000)


async def test_hostile_requests_do_no_harm_with_signatures(record_property: RecordFigures) -> None:
    """
    No wrong result, no answer of 5xx, no exception or secret in the log, and no memory growth.

    Polls never exceed the pacer's rate, and planned polls get their share. Each answer has the status of the first
    invalid part of its request.
    """
    report = await run_siege(SIGNED, journal=MemoryJournal(), signed=True, seed=profile.seed())
    record_property("hostile requests", {"posted": report.posted})

    assert [] == report.problems
    assert SIGNED == report.posted == sum(report.siege.answers.values())
    assert {200, 400, 401, 404, 405, 408, 413} <= set(report.siege.answers)


async def test_hostile_requests_do_no_harm_without_signatures(tmp_path: Path, record_property: RecordFigures) -> None:
    """Without signatures more callbacks are accepted, as hints only."""
    report = await run_siege(UNSIGNED, journal=SqliteStore(tmp_path / "kie.db"), signed=False, seed=profile.seed())
    record_property("hostile requests", {"posted": report.posted})

    assert [] == report.problems
    assert UNSIGNED == report.posted == sum(report.siege.answers.values())
    assert 401 not in report.siege.answers


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_attack_goes_to_both_adapters(way: Way) -> None:
    """Each choice occurs with the rest valid, hypothesis combines them, and few attacks repeat."""
    posted = [attack for batch in batches(7000, seed=profile.seed()) for attack, to in batch if to == way]
    kinds = {attrs.evolve(attack, number=0, text="", blob=b"") for attack in posted}
    choices = {
        *(Attack(token=token) for token in TOKENS),
        *(Attack(body=body) for body in BODIES),
        *(Attack(signature=signature) for signature in SIGNATURES),
        *(Attack(delivery=delivery) for delivery in DELIVERIES),
        *(Attack(method=method) for method in METHODS),
    }

    assert choices | {attrs.evolve(attack, number=0) for attack in FIXED} <= kinds
    assert len(set(posted)) > 0.8 * len(posted)
    assert len(kinds) > 700
