"""The figures that tests record are added up over all tests, and shown and written at the end of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.figures import Figures, add_figures, flatten

#: Two files, so that two processes run them.
RECORDING = """
def test_one(record_property):
    record_property("simulation", {"seeds": 2, "faults": {"reset": %d, "only %d": 1}})
    record_property("busiest", 20)
    record_property("odd", {"text": "many"})

def test_two(record_property):
    record_property("simulation", {"seeds": 3})
    assert %d == 1
"""
CONFTEST = """
from pathlib import Path
from tests.figures import RunFigures

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunFigures(Path(__file__).with_name("build") / "figures.json"))
"""


def test_figures_of_all_processes_are_added_up(tmp_path: Path) -> None:
    """Those of a test that failed, too."""
    for number in (1, 2):
        (tmp_path / f"test_{number}.py").write_text(RECORDING % (number, number, number))
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    written = json.loads((tmp_path / "build" / "figures.json").read_text())

    assert {"passed": 3, "failed": 1} == written["tests"], ran.stdout
    assert {"simulation": {"seeds": 10, "faults": {"reset": 3, "only 1": 1, "only 2": 1}}} == written["figures"]
    assert {"date", "commit", "size", "seed"} <= written.keys()
    shown = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert 2 == sum("expected a number" in line for line in shown)
    assert {"tests: passed 3", "simulation: seeds 10", "simulation: faults: reset 3"} <= set(shown)


@pytest.mark.parametrize("pair", [(1, {"a": 1}), ({"a": 1}, 1), (None, "many"), ({"a": 1}, {"a": [1]})])
def test_figures_that_cannot_be_added_are_refused(pair: tuple[Figures | None, Figures]) -> None:
    with pytest.raises(TypeError, match="expected a number"):
        add_figures(*pair)


figures = st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3)


@given(st.lists(st.dictionaries(st.sampled_from("de"), figures, max_size=2)))
def test_sum_has_all_that_was_recorded(recorded: list[dict[str, dict[str, int]]]) -> None:
    total: Figures = {}
    for each in recorded:
        total = add_figures(total, each)

    assert isinstance(total, dict)
    assert sum(number for _, number in flatten(total)) == sum(
        number for each in recorded for _, number in flatten(each)
    )
