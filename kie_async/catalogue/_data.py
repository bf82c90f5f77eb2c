"""The facts about the models of the endpoint, read from ``models.json`` on first use."""

from __future__ import annotations

import json
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast
from zipimport import zipimporter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kie_async.records import JSON

__all__ = ["model_facts", "models"]


@cache
def models() -> Mapping[str, Mapping[str, JSON]]:
    """Return the facts about each model, by its name; the file is read once, in about 5 ms."""
    # Read as an import on first use reads a module: the event loop waits for it once.
    path = str(Path(__file__).with_name("models.json"))
    own: object = __spec__.loader  # knows the way into an archive
    loader = own if isinstance(own, zipimporter) else SourceFileLoader(__name__, path)
    data = loader.get_data(path)
    listed = cast("list[dict[str, JSON]]", json.loads(data)["models"])
    return MappingProxyType({cast("str", facts["model"]): facts for facts in listed})


def model_facts(name: str) -> Mapping[str, JSON] | None:
    """
    Return the facts about a model, or None.

    >>> model_facts("kling/v2-1-pro")["vendor"]
    'kling'
    """
    return models().get(name)
