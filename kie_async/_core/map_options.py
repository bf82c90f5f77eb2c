"""How a run is to go: the options of ``KieClient.map()``, checked; and what follows from them for one row."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from kie_async._numbers import is_integer, is_number, refuse
from kie_async.budget import Budget

if TYPE_CHECKING:
    from kie_async.policy import Limits

__all__ = ["MapOptions", "file_name"]

#: Names of files may have 255 bytes on most systems; some are left for suffixes and for the template.
_LONGEST_NAME = 180
#: What Windows keeps for devices.
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


def file_name(key: str) -> str:
    """
    A key as the name of a file, or as a part of one: no two keys have the same, and none leads to another folder.

    >>> file_name("shot 7"), file_name("../../etc/passwd"), file_name(".."), file_name("Größe")
    ('shot%207', '%2E.%2F..%2Fetc%2Fpasswd', '%2E.', 'Gr%C3%B6%C3%9Fe')
    """
    # "~" sets what we add apart from what the caller wrote.
    name = quote(key, safe="").replace("~", "%7E")
    if name.startswith(".") or _DEVICE.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}~{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return name


@attrs.frozen(kw_only=True)
class MapOptions:
    """
    The options of a run.

    Attributes:
        limits: What the account allows.

        budget: What it may cost, or None.

        stop_after: After how many seconds nothing more is sent, or None.

        save_to: The template of the files' names, or None.

        ordered: Whether outcomes come in the order of the rows.

        retry_failed: How often a request is made again whose task has failed.

        look_ahead: How many rows may be read and not sent.

        window: How many rows may be read whose outcome was not taken.
    """

    limits: Limits
    budget: Budget | None
    stop_after: float | None
    save_to: str | None
    ordered: bool
    retry_failed: int
    look_ahead: int
    window: int

    @classmethod
    def of(
        cls,
        limits: Limits,
        *,
        budget: Budget | None,
        stop_after: float | None,
        save_to: str | None,
        ordered: bool,
        retry_failed: int,
        look_ahead: int | None,
    ) -> MapOptions:
        """
        The plan of these options.

        Raises:
            ConfigurationError: If one of them makes no sense.
        """
        if budget is not None and not isinstance(budget, Budget):
            refuse("map", "budget", budget, "a Budget(credits=…)")
        if stop_after is not None and not (is_number(stop_after, infinite=True) and stop_after >= 0):
            refuse("map", "stop_after", stop_after, "a number of seconds >= 0, or None")
        if not is_integer(retry_failed) or retry_failed < 0:
            refuse("map", "retry_failed", retry_failed, "an integer >= 0")
        if look_ahead is not None and not (is_integer(look_ahead) and look_ahead >= 1):
            refuse("map", "look_ahead", look_ahead, "an integer >= 1, or None")
        if save_to is not None and "{key}" not in save_to:
            refuse("map", "save_to", save_to, 'a path with {key} in it, such as "out/{key}.mp4"')
        ahead = 2 * limits.creates if look_ahead is None else look_ahead
        return cls(
            limits=limits,
            budget=budget,
            stop_after=stop_after,
            save_to=save_to,
            ordered=bool(ordered),
            retry_failed=retry_failed,
            look_ahead=ahead,
            # As many again as may run are left for those that have ended and are fetched, or not taken yet.
            window=2 * limits.in_flight + ahead,
        )

    def files(self, key: str, count: int) -> tuple[Path, ...]:
        """
        Where the files of a row with *count* results go; none without ``save_to``.

        The first has the name that was asked for, the second ``~2`` before the end of it, and so on: no row's files
        can be in the way of another's.
        """
        if self.save_to is None:
            return ()
        first = Path(self.save_to.replace("{key}", file_name(key)))
        return (first, *(first.with_name(f"{first.stem}~{n}{first.suffix}") for n in range(2, count + 1)))
