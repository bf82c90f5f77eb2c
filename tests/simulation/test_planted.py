"""The planted bugs are found; see ``planted``."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests import profile
from tests.figures import RecordFigures
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.planted import PAGE, ROOT, change_source, find, known_seeds, table

#: The number of planted bugs that are looked for at sizes other than nightly.
_SAMPLE = 10
#: The CPU seconds that a seed of these takes at most.
_CHEAP = 0.6
_BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


def _chosen() -> list[Mutant]:
    if profile.size() is profile.Size.NIGHTLY:
        return list(MUTANTS)
    cheap = [name for name, found in known_seeds().items() if found.cpu <= _CHEAP * found.seeds]
    return [_BY_NAME[name] for name in Random(profile.seed()).sample(cheap, _SAMPLE)]


@pytest.mark.parametrize("mutant", _chosen(), ids=lambda mutant: mutant.name)
def test_planted_bug_is_found(mutant: Mutant, record_property: RecordFigures) -> None:
    """Each planted bug is found within its number of seeds; those of a sample by the seeds that have found them."""
    record_property("planted bugs", {"planted": 1})
    nightly = profile.size() is profile.Size.NIGHTLY
    found = find(mutant, first=0 if nightly else known_seeds()[mutant.name].seed)
    assert found is not None, f"{mutant.name} survives {mutant.within} seeds"
    record_property("planted bugs", {"found": 1})


def test_every_planted_bug_can_be_planted() -> None:
    for mutant in MUTANTS:
        for module, changes in mutant.changes.items():
            source = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text()
            compile(change_source(source, changes), module, "exec")


def test_text_that_the_package_has_not_once_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="occurs 0 times"):
        change_source("a = 1\n", [("b", "c")])
    with pytest.raises(ValueError, match="occurs 2 times"):
        change_source("a = a\n", [("a", "c")])


def test_documentation_shows_how_each_planted_bug_was_found() -> None:
    found = known_seeds()
    assert list(_BY_NAME) == list(found)
    assert table(found) in PAGE.read_text()


def test_what_is_kept_of_a_fault_names_no_folder_of_a_machine() -> None:
    assert 'File "/' not in "".join(found.violation for found in known_seeds().values())


def test_at_least_thirty_bugs_are_planted() -> None:
    assert len(_BY_NAME) == len(MUTANTS) >= 30
