"""The lowest declared versions: ``make check-all`` runs this file on them, and on the newest."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async.testing import Fault

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("lowest", ROOT / "tools" / "lowest.py")
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = tool.lowest(PROJECT, "test")


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release, without zeros at its end: 25.4.0 is 25.4."""
    release = re.match(r"\d+(\.\d+)*", version)
    assert release is not None
    return tuple(map(int, re.sub(r"(\.0)+$", "", release[0]).split(".")))


def project(*, dependencies: list[str], extra: list[str], groups: dict[str, list[Any]]) -> dict[str, Any]:
    table = {"dependencies": dependencies, "optional-dependencies": {"extra": extra}}
    return {"project": table, "dependency-groups": groups}


@pytest.mark.parametrize("pin", [pin for pin in PINS if "sys_platform" not in pin])
def test_installed_version_is_one_that_is_declared(pin: str) -> None:
    name, lowest = pin.split("==")

    assert numbers(lowest) <= numbers(metadata.version(name))


def test_each_direct_dependency_is_pinned() -> None:
    """Of the package, of its extras, of the group and of the groups within it; markers stay, extras of others go."""
    more = ["e-f.g>=5; sys_platform != 'win32'"]
    groups: dict[str, list[Any]] = {"test": ["d[x,y]>=4.0.1", {"include-group": "more"}], "more": more}
    given = project(dependencies=["a>=1"], extra=["b>=2.3"], groups=groups)

    assert tool.lowest(given, "test") == ["a==1", "b==2.3", "d==4.0.1", "e-f.g==5; sys_platform != 'win32'"]


@pytest.mark.parametrize(
    "requirement", ["a", "a==1", "a>1", "a~=1.0", "a<2,>=1", "a>=1,<2", "a @ https://a.test/a.whl"]
)
@pytest.mark.parametrize("place", ["dependencies", "extra", "group"])
def test_requirement_without_a_lowest_version_is_refused(requirement: str, place: str) -> None:
    lists = {"dependencies": ["b>=1"], "extra": ["c>=1"], "group": ["d>=1"], place: [requirement]}
    given = project(dependencies=lists["dependencies"], extra=lists["extra"], groups={"test": lists["group"]})

    with pytest.raises(ValueError, match="expected name>=version"):
        tool.lowest(given, "test")


def test_faults_are_positional_as_attrs_has_it() -> None:
    """Before attrs 25.4, ``kw_only`` of a class held for the fields of its bases, too."""
    assert "create" == Fault("create", "reset", nth=1).place


async def test_a_deadline_can_be_an_instant() -> None:
    """``anyio.move_on_at`` came with anyio 4.15."""
    with anyio.move_on_at(anyio.current_time() + 1.0) as scope:
        await anyio.sleep(2.0)

    assert scope.cancelled_caught
