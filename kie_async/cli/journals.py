"""Where the command line keeps its journal."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import attrs

from kie_async import ConfigurationError

__all__ = ["VARIABLE", "JournalFile", "choose"]

#: The environment variable that chooses another file.
VARIABLE = "KIE_JOURNAL"


@attrs.frozen
class JournalFile:
    """
    A journal on disk.

    Attributes:
        path: The file.

        usual: Whether it is the one in the user's state directory.

        option: What a further command must be given to find it; empty where it finds it by itself.
    """

    path: Path
    usual: bool = False
    option: str = ""

    def prepare(self) -> Path:
        """
        The file, in a folder that is there; blocks, so it is a matter for a thread.

        Raises:
            ConfigurationError: If there can be no such folder.
        """
        if self.usual:
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                msg = (
                    f"The journal cannot be kept in {self.path.parent} ({error.strerror}). Nothing was sent: choose"
                    f" another file with --journal or {VARIABLE}, or none with --no-journal."
                )
                raise ConfigurationError(msg) from error
        return self.path


def choose(given: Path | None) -> JournalFile:
    """
    The journal of a command.

    Args:
        given: The file that the user has chosen, by option or by environment; None for the one in the user's state
            directory: ``$XDG_STATE_HOME``, else ``~/.local/state``.
    """
    if given is not None:
        found_anyway = os.environ.get(VARIABLE) == str(given)
        return JournalFile(given, option="" if found_anyway else f" --journal {shlex.quote(str(given))}")
    # By the rules of the variable, a path that is not absolute counts as none.
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        state = Path(os.path.expanduser("~")) / ".local" / "state"  # noqa: PTH111 (Path.home() may raise)
    return JournalFile(state / "kie-async" / "journal.db", usual=True)
