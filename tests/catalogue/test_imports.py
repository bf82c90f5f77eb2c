"""Naming a class of the catalogue is cheap: it loads one module, and no facts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from statistics import median

import kie_async
from kie_async import catalogue
from tests.profile import scaled

CLIENT = "from kie_async import KieClient, Wan22TurboImageToVideo"
VENDORS = {module.rpartition(".")[2] for module in catalogue._MODULES.values() if ".catalogue." in module}  # noqa: SLF001 (a generated table)


def loaded_by(statement: str) -> set[str]:
    """Return the modules of the catalogue that a new interpreter has loaded after *statement*."""
    command = [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    begin = "kie_async.catalogue."
    return {name.removeprefix(begin) for name in answer.stdout.split() if name.startswith(begin)}


def test_naming_a_class_loads_its_module_only() -> None:
    """The facts are read when a request is checked, and the rules of fields are made then."""
    assert set() == loaded_by(CLIENT)
    assert set() == loaded_by("import kie_async.catalogue; dir(kie_async.catalogue)")
    assert {"kling", "_request", "_data"} == loaded_by("from kie_async.catalogue import Kling21Pro")
    assert {"z_image", "_request", "_data"} == loaded_by("import kie_async.catalogue as c; c.request_class('z-image')")
    make = "from kie_async.catalogue import ZImage; from kie_async.catalogue._data import models"
    assert "_rules" not in loaded_by(f"{make}; ZImage(prompt='A cat'); assert not models.cache_info().currsize")
    assert len(VENDORS) > 20


def cpu(statement: str) -> float:
    """Return the CPU seconds of a new interpreter that runs *statement*, with cached bytecode."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def test_naming_a_class_costs_little() -> None:
    """It adds at most 0.15 of the time of ``import aiohttp`` to that of the client."""
    largest = f"{CLIENT}; from kie_async.catalogue import Kling21Pro"
    programs = ("import aiohttp", CLIENT, largest)
    for program in programs:
        cpu(program)  # the bytecode is written once
    rounds = [[cpu(program) for program in programs] for _ in range(scaled(quick=3, check=3, nightly=15))]

    assert median((naming - client) / aiohttp for aiohttp, client, naming in rounds) <= 0.15


def test_catalogue_works_in_an_archive(tmp_path: Path) -> None:
    """A package on the path may be a zip file, and Python may leave out assertions and docstrings."""
    archive = tmp_path / "kie_async.zip"
    package = Path(kie_async.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for path in [*package.rglob("*.py"), *package.rglob("*.json")]:
            file.write(path, path.relative_to(package.parent))
    program = f"""
import sys
sys.path.insert(0, {str(archive)!r})
sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]  # without editable installations
from kie_async.catalogue import *
request = Kling21Pro(image="https://a.example/x.png", prompt="x")
request.check()
print(request.list_price().credits, sys.modules["kie_async"].__file__.startswith({str(archive)!r}))
"""
    answer = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, cwd=tmp_path)  # noqa: PLW1510 (the output says more)

    assert "50.0 True\n" == answer.stdout, answer.stderr
