"""
Tools for tests and trials: a fake of the service with faults and a log of its actions, and virtual time.

Names are imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kie_async.testing.clock import DeadlockError, VirtualLoop, virtual_time
    from kie_async.testing.fake import FakeKie
    from kie_async.testing.faults import Fault
    from kie_async.testing.truth import Truth

__all__ = ["DeadlockError", "FakeKie", "Fault", "Truth", "VirtualLoop", "virtual_time"]

#: The public names of each module.
_NAMES = {"clock": "DeadlockError VirtualLoop virtual_time", "fake": "FakeKie", "faults": "Fault", "truth": "Truth"}
_MODULES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
