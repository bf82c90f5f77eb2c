"""The size of the package and the number of files that one call enters stay within their bounds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("measure", ROOT / "tools" / "measure.py")
assert _spec is not None
assert _spec.loader is not None
measure = importlib.util.module_from_spec(_spec)
sys.modules["measure"] = measure
_spec.loader.exec_module(measure)


def test_package_stays_small() -> None:
    """A new file needs a life of its own, and a long function is two."""
    size = measure.measure_size(ROOT / "kie_async")

    assert size.files <= 190
    # 700 lines are the command line of the catalogue: its list, and the texts of options and cells by field.
    assert size.code_lines <= 24_740
    assert size.statements <= 21_700
    assert size.longest_file <= 640
    assert size.longest_function <= 96


@pytest.mark.parametrize(("by_map", "bound"), [(False, 46), (True, 62)], ids=["generate", "map row"])
async def test_call_enters_few_files(*, by_map: bool, bound: int) -> None:
    """A reader who follows one call through the code opens few files."""
    assert len(await measure.files_entered(by_map=by_map)) <= bound
