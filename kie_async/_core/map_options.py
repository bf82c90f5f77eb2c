"""The options of ``KieClient.map()``, validated, and the names of a row's files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import quote

import attrs

from kie_async._media import SUFFIX, numbered_paths
from kie_async._numbers import is_integer, is_number, refuse
from kie_async.budget import Budget
from kie_async.policy import Limits

__all__ = ["MapOptions", "file_name"]

#: Most systems allow file names of 255 bytes; the rest is left for suffixes and for the template.
_LONGEST_NAME = 180
#: The names that Windows reserves for devices.
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


def file_name(key: str) -> str:
    """
    Return a key as a file name, or as a part of one: unique for each key, and never a path to another folder.

    >>> file_name("shot 7"), file_name("../../etc/passwd"), file_name(".."), file_name("Größe")
    ('shot%207', '%2E.%2F..%2Fetc%2Fpasswd', '%2E.', 'Gr%C3%B6%C3%9Fe')
    """
    # "~" marks what is added to the key, so a "~" of the key itself is quoted.
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

    Args:
        limits: The limits of the account.

        budget: The budget, or None.

        stop_after: The time after which nothing more is sent, in seconds, or None.

        save_to: The template of the file names, or None.

        ordered: True if outcomes are delivered in the order of the rows.

        retry_failed: The number of retries of a request whose task has failed.

        look_ahead: The number of rows that may be read and not sent; None for twice ``limits.creates``.

        share: True if the workers of one journal share the rows of the table.

    Raises:
        ConfigurationError: If an option is invalid.
    """

    limits: Limits
    budget: Budget | None = None
    stop_after: float | None = None
    save_to: str | None = None
    ordered: bool = False
    retry_failed: int = 0
    look_ahead: int | None = None
    share: bool = False

    def __attrs_post_init__(self) -> None:
        """Validate the options."""
        if self.budget is not None and not isinstance(self.budget, Budget):
            refuse("map", "budget", self.budget, "a Budget(credits=…)")
        if self.stop_after is not None and not (is_number(self.stop_after, infinite=True) and self.stop_after >= 0):
            refuse("map", "stop_after", self.stop_after, "a number of seconds >= 0, or None")
        if not is_integer(self.retry_failed) or self.retry_failed < 0:
            refuse("map", "retry_failed", self.retry_failed, "an integer >= 0")
        if self.look_ahead is not None and not (is_integer(self.look_ahead) and self.look_ahead >= 1):
            refuse("map", "look_ahead", self.look_ahead, "an integer >= 1, or None")
        if self.share and self.ordered:
            refuse("map", "ordered", self.ordered, "False with share=True, since other workers yield rows between")
        if self.share and self.budget is not None and self.budget.name is None:
            refuse("map", "budget", self.budget, "a Budget with a name with share=True, so that all workers share it")
        if self.save_to is not None and ("{key}" not in self.save_to or SUFFIX in self.save_to.removesuffix(SUFFIX)):
            expected = 'a path with {key} in it, and {suffix} at most at its end, such as "out/{key}.mp4"'
            refuse("map", "save_to", self.save_to, expected)

    @property
    def most_unsent(self) -> int:
        """The number of rows that may be read and not sent."""
        return 2 * self.limits.creates if self.look_ahead is None else self.look_ahead

    @property
    def most_untaken(self) -> int:
        """The number of rows that may be read and whose outcome was not taken."""
        # Twice the tasks in flight: as many rows again may have ended and be downloading, or wait for the caller.
        return 2 * self.limits.in_flight + self.most_unsent

    def files(self, key: str, count: int) -> tuple[Path, ...]:
        """
        Return the paths of a row's *count* files; none without ``save_to``.

        The first path is the one that was asked for, the second has ``~2`` before its suffix, and so on. The paths of
        two rows never collide. A path may end with ``SUFFIX``.
        """
        if self.save_to is None or not count:
            return ()
        return numbered_paths(Path(self.save_to.replace("{key}", file_name(key))), count, mark="~")
