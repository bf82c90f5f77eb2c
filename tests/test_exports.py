"""Test the public names: they exist, they are documented, and they have the agreed signatures."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

import kie_async
import kie_async.testing
from kie_async import errors

PACKAGES = [kie_async, kie_async.testing]
EXPORTS = [(package, name) for package in PACKAGES for name in package.__all__ if name != "__version__"]

#: The parameters of public callables, in order: of functions, methods and constructors.
SIGNATURES = {
    "KieClient": (
        "api_key, *, base_url, upload_url, limits, account, retry, journal, callback_url, webhook_key, download_hosts,"
        " allow_networks, download_headers, on_event, session_factory, trust_env, local_files"
    ),
    "KieClient.generate": "request, *, key, timeout",
    "KieClient.submit": "request, *, key, wait",
    "KieClient.map": "requests, *, budget, stop_after, save_to, ordered, retry_failed, look_ahead, share",
    "KieClient.estimate": "request",
    "KieClient.spent": "requests, *, price",
    "KieClient.job": "job_id, *, own_only",
    "KieClient.jobs": "*, unfinished",
    "KieClient.recover": "*, adopt_key",
    "KieClient.forget": "*, before",
    "KieClient.credits": "",
    "KieClient.upload": "source",
    "KieClient.statistics": "",
    "KieClient.aclose": "drain",
    "KieClient.drain_on_sigterm": "",
    "Job.wait": "timeout",
    "Job.status": "",
    "Job.info": "",
    "Job.updates": "",
    "Job.resolve": "task_id",
    "Job.resubmit": "*, allow_duplicate",
    "Job.abandon": "",
    "Run.stop": "",
    "Run.summary": "",
    "Run.aclose": "drain",
    "Callbacks.handle": "path, headers, body",
    "Callbacks.admits": "path",
    "Callbacks.asgi_app": "",
    "Callbacks.aiohttp_routes": "path",
    "Generation.save": "path",
    "Limits": "*, creates, window, in_flight, polls_per_second",
    "RetryPolicy": (
        "*, server_error_attempts, on_server_error, unsent_timeout, maintenance_timeout, in_doubt_timeout, max_age"
    ),
    "SqliteJournal": "path, store_inputs",
    "PostgresJournal": "dsn, schema, store_inputs",
    "Budget": "*, credits, price, spent, name",
    "Estimate": "*, credits, basis, source, upper_bound",
    "ListPrice": "*, credits, upper_bound, as_of",
    "Event": "*, name, job_id, task_id, detail",
    "KieError": "message, *, job_id, task_id",
    "APIError": "message, *, code, service_message, job_id, task_id",
    "SubmitInDoubtError": "message, *, job, job_id, task_id",
}

#: The fields of public values, in order.
FIELDS = {
    "JobInfo": "job_id state model created_at updated_at task_id key credits error duplicates origin",
    "Statistics": (
        "jobs submitting waiting_for_slot waiting_for_token sending in_flight tokens_in_use watched confirming waiters"
        " loop_tasks polls callbacks confirmations duplicate_records other_workers in_flight_elsewhere"
    ),
    "TaskRecord": (
        "task_id state model result_urls result fail_code fail_message created_at completed_at cost_time progress"
        " credits raw"
    ),
}

#: Names before 0.1.0; none of them exists any more.
OLD_NAMES = {
    "kie_async": "ApiError RateLimitedError ServiceError JobSummary",
    "KieClient": "attach",
    "Job": "refresh summary",
    "JobInfo": "id",
    "KieError": "intent_id again",
    "Generation": "intent_id",
    "RetryPolicy": "unsent_patience maintenance_patience in_doubt_hold",
    "Statistics": "looks tokens_lent children late_records",
    "EventName": "SUSPECT LATE_RECORD UNKNOWN WITHDRAWN",
    "JobState": "UNKNOWN WITHDRAWN",
}


def id_of(value: object) -> str:
    """Return a parameter's id in the report."""
    return value.__name__ if isinstance(value, ModuleType) else str(value)


def names_for_type_checkers(package: ModuleType) -> set[str]:
    """Return the names that a package imports under ``if TYPE_CHECKING``."""
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


def find_public(path: str) -> Any:
    """Return a public object by its path, such as ``KieClient.map``."""
    value: Any = kie_async
    for name in path.split("."):
        value = value if name == "kie_async" else getattr(value, name)
    return value


def public_methods(value: object) -> list[tuple[str, Any]]:
    """Return the public functions that a class defines, including the getters of properties."""
    members = vars(value) if inspect.isclass(value) else {}
    functions = {
        name: member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        for name, member in members.items()
        if not name.startswith("_")
    }
    return [(name, function) for name, function in functions.items() if inspect.isfunction(function)]


@pytest.mark.parametrize(("package", "name"), EXPORTS, ids=id_of)
def test_every_listed_name_exists_and_is_documented(package: ModuleType, name: str) -> None:
    """Names are imported on first use, so a wrong module would be found late."""
    value: object = getattr(package, name)

    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__doc__
        assert value.__module__.startswith("kie_async.")
        assert name in import_module(value.__module__).__all__


@pytest.mark.parametrize("package", PACKAGES, ids=id_of)
def test_type_checkers_see_the_same_names(package: ModuleType) -> None:
    assert names_for_type_checkers(package) == set(package.__all__) - {"__version__"}


@pytest.mark.parametrize("package", PACKAGES, ids=id_of)
def test_no_name_is_listed_twice(package: ModuleType) -> None:
    assert len(set(package.__all__)) == len(package.__all__)


@pytest.mark.parametrize("package", PACKAGES, ids=id_of)
def test_dir_lists_the_public_names(package: ModuleType) -> None:
    """Lazy names can be completed at a prompt."""
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("package", PACKAGES, ids=id_of)
def test_unknown_names_raise_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Nothing'"):
        package.Nothing  # noqa: B018  # the lookup is the test


def test_every_error_is_public_and_a_kie_error() -> None:
    """``except KieError`` catches all errors, and each can be caught by its name."""
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
    """The docstrings of the client's methods name all arguments."""
    for method, function in public_methods(getattr(package, name)):
        text = inspect.getdoc(function)
        assert text, f"{name}.{method} has no docstring"
        arguments = [argument for argument in inspect.signature(function).parameters if argument != "self"]
        assert package is not kie_async or all(re.search(rf"\b{argument}\b", text) for argument in arguments), (
            f"{name}.{method}: {arguments}"
        )


@pytest.mark.parametrize("path", SIGNATURES)
def test_public_signatures(path: str) -> None:
    parameters = [str(item).partition("=")[0].partition(":")[0].strip() for item in _parameters(find_public(path))]

    assert SIGNATURES[path] == ", ".join(parameters)


def _parameters(function: Any) -> list[inspect.Parameter | str]:
    """Return the parameters without ``self``, with ``*`` before the first keyword-only one."""
    found: list[inspect.Parameter | str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        found.append(parameter)
    return found


@pytest.mark.parametrize("path", SIGNATURES)
def test_public_signatures_name_no_private_type(path: str) -> None:
    """A private Protocol in a signature would be a promise about its methods."""
    text = str(inspect.signature(find_public(path)))

    assert not re.search(r"\b(Journal|LiveJob|Engine\w*|Transport|\w*Store)\b", text)


@pytest.mark.parametrize("name", FIELDS)
def test_public_fields(name: str) -> None:
    assert FIELDS[name].split() == [field.name for field in attrs.fields(getattr(kie_async, name))]


@pytest.mark.parametrize("path", OLD_NAMES)
def test_old_names_are_gone(path: str) -> None:
    owner = find_public(path)
    fields = {field.name for field in attrs.fields(owner)} if attrs.has(owner) else set()

    assert not [name for name in OLD_NAMES[path].split() if hasattr(owner, name) or name in fields]


def test_errors_and_results_have_a_job_id() -> None:
    """Every public object calls the id of its job ``job_id``; the handle's own is ``Job.id``."""
    for name in ("JobInfo", "Generation", "Done", "Failed", "InDoubt", "Skipped", "Event"):
        assert "job_id" in {field.name for field in attrs.fields(getattr(kie_async, name))}, name
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, Exception):
            assert "job_id" in inspect.signature(kind).parameters, name
