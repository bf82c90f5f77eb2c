"""What a row of a table is known by: the caller's key, or one of its content and of how often that has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kie_async._io.mapping.row import Row
from kie_async._keys import DefaultKeys
from kie_async._settings import check_key
from kie_async.errors import ConfigurationError

if TYPE_CHECKING:
    from kie_async._io.mapping.row_source import Given
    from kie_async._io.submitting.intake import Intake
    from kie_async.requests.base import Request

__all__ = ["RowKeys"]


class RowKeys:
    """
    Names the rows of one table, in its order.

    Args:
        intake: Checks requests.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._default_keys = DefaultKeys()

    def row(self, given: Given, index: int) -> Row:
        """What was given, as a row; without a key of the caller's it is called by its place until it is identified."""
        key: str | None
        request: Request
        match given:
            case tuple((key, request)):
                pass
            case _:
                key, request = None, given
        return Row(index=index, key=f"row {index + 1}" if key is None else str(key), own_key=key, request=request)

    async def identify(self, row: Row) -> None:
        """
        Check what a row asks for, and give it its identity and its key.

        Raises:
            KieError: If the request or the key is no good.
        """
        check_key(row.own_key)
        _check_row(row)
        await self._intake.check(row.request)
        row.identity = await self._intake.identify(row.request)
        if row.own_key is None:
            row.key = self._default_keys.next_key(row.identity)

    async def name(self, row: Row) -> None:
        """
        Give a row its key alone: of one that the caller has named, no image is read.

        Raises:
            KieError: If the request or the key is no good, as far as that was looked at.
        """
        if row.own_key is None:
            await self.identify(row)
        else:
            check_key(row.own_key)


def _check_row(row: Row) -> None:
    if row.own_key is None and isinstance(row.request, tuple):
        msg = (
            f"Row {row.index + 1} is a tuple of {len(row.request)}: a row is a request, or a pair of a key and a"
            " request. Nothing was sent for it; give one of these."
        )
        raise ConfigurationError(msg)
