"""
A fuzzer that is guided by coverage: it keeps each input that reaches a new line of the package, and mutates it further.

Python's own tracing is enough here, works on each supported Python, and needs no compiled dependency as atheris does.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import attrs

import kie_async
from tests.fuzz.mutations import mutated

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["Failure", "Fuzzer"]

_PACKAGE = str(Path(kie_async.__file__).parent)
#: The most inputs that minimizing tries.
_MOST_CUTS = 2000
_WORK_OF_A_RUN = 1000


@attrs.frozen
class Failure:
    """
    An input that breaks a property.

    Attributes:
        body: The input.

        error: The error.
    """

    body: bytes
    error: BaseException

    def __str__(self) -> str:
        last = traceback.extract_tb(self.error.__traceback__)[-1]
        return (
            f"{type(self.error).__name__}: {self.error} ({last.filename}:{last.lineno}: {last.line})\n  {self.body!r}"
        )


@attrs.define
class Fuzzer:
    """
    A run of one target; the seed decides all of it.

    Args:
        target: Takes bytes, and raises an error if they break a property.

        seeds: The inputs to begin with.

        rng: Draws the mutations.

        traced: The path of the code whose lines count.

    Attributes:
        inputs: The inputs that have reached new lines, the seeds first.

        lines: The lines that were reached.

        runs: The number of inputs that were tried.

        work: The number of lines that they ran, and a thousand for each input: a measure of time that does not vary.
    """

    target: Callable[[bytes], None]
    seeds: list[bytes]
    rng: Random
    traced: str = _PACKAGE
    inputs: list[bytes] = attrs.field(factory=list, init=False)
    lines: set[tuple[object, int]] = attrs.field(factory=set, init=False)
    runs: int = attrs.field(default=0, init=False)
    work: int = attrs.field(default=0, init=False)

    def step(self) -> Failure | None:
        """Try the next seed, or a mutation of a kept input; return the failure that it causes, minimized."""
        if self.runs < len(self.seeds):
            body = self.seeds[self.runs]
            self.inputs.append(body)
        else:
            # Later inputs have reached what earlier ones have not.
            newest = self.inputs[-20:] if self.rng.random() < 0.5 else self.inputs
            body = mutated(self.rng.choice(newest), self.rng, self.inputs)
        self.runs += 1
        before = len(self.lines)
        error = self._run(body)
        if error is not None:
            return self._minimize(Failure(body, error))
        if len(self.lines) > before and self.runs > len(self.seeds):
            self.inputs.append(body)
        return None

    def _run(self, body: bytes) -> Exception | None:
        self.work += _WORK_OF_A_RUN
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            self.target(body)
        except Exception as error:  # noqa: BLE001 (any error is a finding)
            return error
        finally:
            sys.settrace(before)
        return None

    def _trace(self, frame: FrameType, _event: str, _arg: object) -> Callable[[FrameType, str, Any], Any] | None:
        return self._trace_lines if frame.f_code.co_filename.startswith(self.traced) else None

    def _trace_lines(self, frame: FrameType, event: str, _arg: object) -> Callable[[FrameType, str, Any], Any]:
        if event == "line":
            self.work += 1
            self.lines.add((frame.f_code, frame.f_lineno))
        return self._trace_lines

    def _minimize(self, failure: Failure) -> Failure:
        """Drop parts, halves first, as long as the same error is raised."""
        size, tries = len(failure.body) // 2, 0
        while size and tries < _MOST_CUTS:
            start, found = 0, False
            while start < len(failure.body) and tries < _MOST_CUTS:
                tries += 1
                shorter = failure.body[:start] + failure.body[start + size :]
                error = self._run(shorter)
                if type(error) is type(failure.error) and str(error)[:20] == str(failure.error)[:20]:
                    failure, found = Failure(shorter, error), True
                else:
                    start += size
            size = size if found and size == 1 else size // 2
        return failure
