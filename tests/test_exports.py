"""The public names: what is listed is there, what is there is listed, and all of it is documented."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import kie_async
import kie_async.testing
from kie_async import errors

PACKAGES = [kie_async, kie_async.testing]
EXPORTS = [(package, name) for package in PACKAGES for name in package.__all__ if name != "__version__"]


def id_of(value: object) -> str:
    """How a parameter is shown."""
    return value.__name__ if isinstance(value, ModuleType) else str(value)


def named_for_type_checkers(package: ModuleType) -> set[str]:
    """What a package's file imports under ``if TYPE_CHECKING``."""
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text())
    return {
        alias.asname or alias.name
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


@pytest.mark.parametrize(("package", "name"), EXPORTS, ids=id_of)
def test_every_listed_name_can_be_imported_and_is_documented(package: ModuleType, name: str) -> None:
    """Names are looked up on first use; a wrong home would show only there."""
    value: object = getattr(package, name)

    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__doc__
        assert value.__module__.startswith("kie_async.")
        assert name in import_module(value.__module__).__all__


@pytest.mark.parametrize("package", PACKAGES, ids=id_of)
def test_type_checkers_see_what_programs_see(package: ModuleType) -> None:
    """The names are written twice, for the two of them."""
    assert named_for_type_checkers(package) == set(package.__all__) - {"__version__"}


@pytest.mark.parametrize("package", PACKAGES, ids=id_of)
def test_no_name_is_listed_twice(package: ModuleType) -> None:
    """That they are sorted is the linter's business."""
    assert len(set(package.__all__)) == len(package.__all__)


@pytest.mark.parametrize("package", PACKAGES, ids=id_of)
def test_dir_shows_the_public_names(package: ModuleType) -> None:
    """Lazy names can be completed at a prompt."""
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("package", PACKAGES, ids=id_of)
def test_what_is_not_listed_is_not_there(package: ModuleType) -> None:
    """An unknown name fails as it does in any module."""
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Nothing'"):
        package.Nothing  # noqa: B018  # the lookup is the test


def test_every_error_is_public_and_descends_from_one_root() -> None:
    """One ``except KieError`` catches all, and each can be caught by name."""
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
    }

    assert defined <= set(errors.__all__)
    assert set(errors.__all__) <= set(kie_async.__all__)
    assert all(issubclass(getattr(errors, name), errors.KieError) for name in defined)


@pytest.mark.parametrize(("package", "name"), EXPORTS, ids=id_of)
def test_every_public_method_is_documented(package: ModuleType, name: str) -> None:
    """A reference page is made of docstrings."""
    value: object = getattr(package, name)
    members = vars(value) if inspect.isclass(value) else {}
    bare = [
        member
        for member, function in members.items()
        if not member.startswith("_")
        and (inspect.isroutine(function) or isinstance(function, property | classmethod | staticmethod))
        and not inspect.getdoc(function)
    ]

    assert bare == []
