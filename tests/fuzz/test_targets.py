"""Fuzz each target: with hypothesis, and guided by coverage; ``python -m tests.fuzz`` runs one for longer."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.figures import RecordFigures
from tests.fuzz.engine import Fuzzer
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS
from tests.profile import scaled, seed

EXAMPLES = scaled(quick=3, check=15, nightly=1000)
#: The lines that each target runs: about 0.3 s of CPU at ``check``, and 8 s at ``nightly``.
WORK = scaled(quick=30_000, check=200_000, nightly=4_000_000)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES)
@given(st.data())
def test_no_bytes_break_a_property(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    body = data.draw(st.sampled_from(target.seeds) | st.binary(max_size=200))
    target.run(mutated(body, data.draw(st.randoms(use_true_random=False)), target.seeds))


@pytest.mark.parametrize("name", TARGETS)
def test_no_mutation_that_reaches_new_lines_breaks_a_property(name: str, record_property: RecordFigures) -> None:
    fuzzer = Fuzzer(TARGETS[name].run, TARGETS[name].seeds, Random(seed()))
    while fuzzer.work < WORK:
        assert None is fuzzer.step()
    record_property("fuzz", {"inputs": {name: fuzzer.runs}, "lines reached": {name: len(fuzzer.lines)}})


def hard_to_reach(body: bytes) -> None:
    """Fail for one kind of input, which no single mutation of the empty input makes."""
    if body[:1] != b"{":
        return
    if b'"state":"fail"' not in body:
        return
    if b"<html>" in body:
        msg = "planted"
        raise ValueError(msg)


def test_fuzzer_finds_a_planted_fault_and_minimizes_it() -> None:
    fuzzer = Fuzzer(hard_to_reach, [b""], Random(0), traced=__file__)
    failure = next(found for _ in range(50_000) if (found := fuzzer.step()) is not None)

    assert sorted(failure.body) == sorted(b'{"state":"fail"<html>')


def test_same_seed_tries_the_same_inputs() -> None:
    def kept() -> list[bytes]:
        fuzzer = Fuzzer(TARGETS["create"].run, TARGETS["create"].seeds, Random(1))
        for _ in range(100):
            fuzzer.step()
        return fuzzer.inputs

    assert kept() == kept()
