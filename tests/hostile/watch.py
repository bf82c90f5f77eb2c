"""Watch the log for exceptions and secrets, and measure memory."""

from __future__ import annotations

import gc
import logging
import re
import resource
import sys
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from types import ModuleType

from aiohttp.http_exceptions import HttpProcessingError

from kie_async.states import JobState

__all__ = ["Log", "held_by", "resident"]

#: A token, genuine or not, as in a log.
_TOKEN = re.compile(r"kj_[0-9a-f]{32}\.[0-9]+\.[A-Za-z0-9_-]{22}")
_SHARED = (ModuleType, type, AbstractEventLoop, Context, logging.Logger)
_TESTS = ("tests.", "kie_async.testing.")


class Log(logging.Handler):
    """
    Reads every record of every logger.

    Args:
        secrets: Texts that no record of ours may contain, besides tokens.

    Attributes:
        exceptions: Records that have an exception. Errors of aiohttp's parser about invalid HTTP do not count: such
            requests reach no handler.

        leaks: Records of ours that contain a secret.

        counts: The number of records of ours, by level and format string.

        warned: The number of warnings about callbacks, by job and state.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__(logging.DEBUG)
        self.exceptions: list[str] = []
        self.leaks: list[str] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.warned: Counter[tuple[object, object]] = Counter()
        self._secrets = [secret for secret in secrets if secret]

    def emit(self, record: logging.LogRecord) -> None:
        """Check one record."""
        ours = record.name.startswith("kie_async")
        raised = record.exc_info[1] if record.exc_info else None
        if raised is not None and (ours or not isinstance(raised, HttpProcessingError)):
            self.exceptions.append(self.format(record))
        if ours:
            self.counts[record.levelname, str(record.msg)] += 1
            if record.levelno >= logging.WARNING and "a callback for" in str(record.msg) and record.args:
                job_id, *_, state = record.args
                self.warned[job_id, state if isinstance(state, JobState) else None] += 1
            shown = f"{self.format(record)} {record.args}"
            if _TOKEN.search(shown) or any(secret in shown for secret in self._secrets):
                self.leaks.append(shown)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Check all records within the context, down to DEBUG; pytest, which would keep them, does not see them."""
        root = logging.getLogger()
        level, handlers = root.level, [*root.handlers]
        root.handlers[:] = [self]
        root.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            root.setLevel(level)
            root.handlers[:] = handlers


def held_by(root: object) -> int:
    """
    Return the bytes that *root* holds: the sizes of all objects that it refers to, each counted once.

    Shared objects (modules, classes, event loops, contexts) and the test's own do not count, except *root*.
    """
    gc.collect()
    seen = {id(vars(module)) for module in list(sys.modules.values())}
    pending, size = [root], 0
    while pending:
        found = pending.pop()
        of_the_test = type(found).__module__.startswith(_TESTS) and found is not root
        if id(found) in seen or isinstance(found, _SHARED) or of_the_test:
            continue
        seen.add(id(found))
        size += sys.getsizeof(found)
        pending += gc.get_referents(found)
    return size


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
