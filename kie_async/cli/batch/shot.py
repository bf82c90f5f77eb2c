"""What comes of a row of a table: a shot that is ready to be sent, or the flaws that it has."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kie_async import JSON, Problem, Request
from kie_async.requests.images import LocalImage

__all__ = ["Flaw", "Shot"]


@attrs.frozen
class Flaw:
    """
    Something wrong with a table.

    Attributes:
        table: The table, as the user calls it.

        line: The line, counted from 1; in a folder, the place of the image.

        problem: The column, the value, and what is allowed.
    """

    table: str
    line: int
    problem: Problem

    def __str__(self) -> str:
        return f"{self.table}:{self.line}: {self.problem}"


@attrs.frozen(kw_only=True)
class Shot:
    """
    One row, ready to be sent.

    Attributes:
        line: The line on which it begins.

        key: Its name: the table's, or one made of its image's name and its content.

        request: The request.

        input_hash: The SHA-256 of its model and input, images by content.

        fields: What the service is told besides images, in its own names.

        source: The image as the table has it: a path or a URL; None where there is none.

        image: The image, where it is a local one, as it was when the row was read.
    """

    line: int
    key: str
    request: Request
    input_hash: str
    fields: Mapping[str, JSON] = attrs.field(repr=False)
    source: str | None = None
    image: LocalImage | None = attrs.field(default=None, repr=False)
