"""The command ``upload``: images become URLs, for the input of any model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kie_async.cli.exit_codes import Exit
from kie_async.cli.options import JsonOption
from kie_async.cli.running import run
from kie_async.cli.session import Session

__all__ = ["carry_out", "upload"]


async def carry_out(session: Session, files: Sequence[Path]) -> Exit:
    """
    Upload images, one after the other, and write each URL as soon as it is known.

    Args:
        session: The command's session.

        files: The images.

    Raises:
        KieError: If one of them cannot be uploaded; those before it were.
    """
    async with session.client() as kie:
        for file in files:
            url = await kie.upload(file)
            session.output.result(url, {"file": str(file), "url": url})
    return Exit.DONE


def upload(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JPEG, PNG or WebP, at most 10 MB each.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Upload images and print their URLs; it costs nothing, and the service keeps them for three days."""
    run(context, lambda session: carry_out(session, files), as_json=as_json)
