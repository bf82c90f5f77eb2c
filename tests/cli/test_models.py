"""The command ``models``: the list, the page of a model, and an example that can be sent."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from kie_async.catalogue import MODELS, request_class
from kie_async.cli.model_fields import fields_of_model, parse_field_options
from kie_async.cli.models import example_command
from tests.catalogue.samples import FACTS
from tests.cli.helpers import CAT, run_cli

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTH = 80


@pytest.mark.parametrize(
    ("arguments", "name"), [(["kling"], "models-kling.txt"), (["kling/v2-1-pro"], "models-kling-v2-1-pro.txt")]
)
def test_output_at_80_columns(arguments: list[str], name: str) -> None:
    result = run_cli("models", *arguments, COLUMNS=str(WIDTH))

    assert (0, (SNAPSHOTS / name).read_text()) == (result.code, result.out)
    assert [] == [line for line in result.out.splitlines() if len(line) > WIDTH]


def test_list_has_each_kling_model_with_kind_price_and_date() -> None:
    shown = run_cli("models", "kling").out
    facts = [each for name, each in FACTS.items() if name in MODELS and each["vendor"] == "kling"]

    assert len(facts) == 19
    for each in facts:
        [line] = [line for line in shown.splitlines() if line.split()[:1] == [each["model"]]]
        assert [each["model"], each["kind"], each["fields_seen"]] == line.split()
    assert len(facts) == len(re.findall(r"credits an? \w+ \(\d{4}-\d\d-\d\d\)", " ".join(shown.split())))


def test_all_models_are_listed_without_a_text() -> None:
    result = run_cli("models")
    names = [line.split()[0] for line in result.out.splitlines() if not line.startswith(" ")]

    assert (sorted(MODELS), 0) == (names, result.code)
    assert [] == [line for line in result.out.splitlines() if len(line) > WIDTH]
    assert "147 models." in result.err


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_is_shown_with_fields_values_price_and_date(model: str) -> None:
    result = run_cli("models", model)
    words = " ".join(result.out.split())
    facts, found = FACTS[model], request_class(model)
    assert found is not None
    assert [] == [line for line in result.out.splitlines() if len(line) > WIDTH]
    assert found.AS_OF in words
    for rule in found.field_rules():
        about = facts["fields"].get(rule.wire, {})
        assert f"--{rule.name.replace('_', '-')} " in words
        assert [] == [
            value for value in about.get("enum", []) if not isinstance(value, bool) and str(value) not in words
        ]
        for limit in ("min", "max", "max_length", "max_items", "max_mb"):
            assert str(about.get(limit, "")) in words
    if facts["price"]:
        assert f"Price by the list of {facts['price']['date']}" in words
        rates = facts["price"]["rates"]
        assert [] == [rate for rate in rates if f"{rate['credits']:g} credits a" not in words]
    else:
        assert "The price is not listed." in words


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_example_is_a_valid_request(model: str) -> None:
    words = example_command(model)
    fields = fields_of_model(model)
    assert fields is not None
    values, problems = parse_field_options(fields, words[4:], {}, others=[])
    # The files need not exist: URLs stand for them.
    urls = {name: online(value) if fields.rules[name].rule.media else value for name, value in values.items()}

    assert ["kie-async", "generate", "--model", model] == words[:4]
    assert [] == problems
    assert [] == fields.build(urls).problems()


def online(value: object) -> object:
    """Return URLs in place of the names of files."""
    return [online(item) for item in value] if isinstance(value, list) else f"https://example.com/{value}"


def test_example_runs(tmp_path: Path) -> None:
    words = [str(CAT) if word == "image.png" else word for word in example_command("kling/v2-1-pro")]

    assert 0 == run_cli(*words[1:], "--fake", "-o", str(tmp_path)).code


def test_class_name_and_words_find_a_model() -> None:
    named, found = run_cli("models", "Kling21Pro"), run_cli("models", "KLING v2-1-pro")

    assert named.out.startswith("kling/v2-1-pro\n")
    assert found.out.startswith("kling/v2-1-pro  ")
    assert "1 model." in found.err


def test_typo_names_the_nearest_model() -> None:
    result = run_cli("models", "kling/v2-1-prp")

    assert (2, "") == (result.code, result.out)
    assert "did you mean 'kling/v2-1-pro'?" in result.err


def test_model_as_json() -> None:
    [line] = run_cli("models", "kling/v2-1-pro", "--json").out.splitlines()
    shown = json.loads(line)
    duration = next(field for field in shown["fields"] if field["name"] == "duration")

    assert ["kling/v2-1-pro", "Kling21Pro", "image-to-video"] == [shown[name] for name in ("model", "class", "kind")]
    assert {"name": "duration", "wire": "duration", "required": False, "allowed": "5 or 10", "default": "5"} == duration
    assert shlex.join(example_command("kling/v2-1-pro")) == shown["example"]
    assert 19 == len(run_cli("models", "kling", "--json").out.splitlines())
