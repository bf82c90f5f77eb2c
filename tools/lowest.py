"""Print the lowest declared version of each dependency, as constraints for pip: ``python tools/lowest.py GROUP``."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,.-]+\])?>=(?P<lowest>[\w.]+)(?P<marker>\s*;.*)?")


def lowest(project: dict[str, Any], group: str) -> list[str]:
    """
    Return a pin for each dependency of the package, of its extras and of a dependency group.

    Args:
        project: The content of a ``pyproject.toml``.

        group: The name of the group.

    Raises:
        ValueError: A requirement does not have the form ``name>=version``.
    """
    metadata = project["project"]
    extras = metadata["optional-dependencies"].values()
    requirements = [*metadata["dependencies"], *(requirement for extra in extras for requirement in extra)]
    return [_pin(requirement) for requirement in [*requirements, *_group(project["dependency-groups"], group)]]


def _group(groups: dict[str, list[Any]], name: str) -> Iterator[str]:
    """Return the requirements of a group and of the groups that it includes."""
    for requirement in groups[name]:
        if isinstance(requirement, str):
            yield requirement
        else:
            yield from _group(groups, requirement["include-group"])


def _pin(requirement: str) -> str:
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        msg = f"Invalid requirement {requirement!r}: expected name>=version, whose lowest version can be installed."
        raise ValueError(msg)
    return f"{match['name']}=={match['lowest']}{match['marker'] or ''}"


if __name__ == "__main__":
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    print(*lowest(tomllib.loads(text), sys.argv[1]), sep="\n")
