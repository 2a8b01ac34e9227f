"""The rules of the code base: who imports whom, what the server does not load, file lengths, version floors."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "training", "export", "service")
FOLDERS = (*PACKAGES, "tests", "benchmarks")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules_after(statement: str, **environment: str) -> set[str]:
    """The names in sys.modules of a fresh interpreter that has run `statement` elsewhere."""
    code = f"import sys, json\n{statement}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_imports_go_along_the_datas_way() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


def test_importing_the_packages_and_the_command_loads_no_framework() -> None:
    loaded = modules_after(f"import {', '.join(PACKAGES)}, convscope; convscope.build_app()")
    assert not loaded & {"torch", "torchvision", "onnx", "onnxruntime", "sklearn", "bentoml", "matplotlib", "PIL"}
    assert {name for name in loaded if name.split(".")[0] in PACKAGES} == set(PACKAGES)


def test_the_server_starts_without_torch(tmp_path: Path) -> None:
    loaded = modules_after("import service.app", CONVSCOPE_ARTIFACTS=str(tmp_path))
    assert not loaded & {"torch", "torchvision", "onnx", "sklearn", "matplotlib"}
    assert "service.app" in loaded


def test_images_are_decoded_without_torch() -> None:
    assert "torch" not in modules_after(
        "import models.images.decode, models.graph.node, models.files, models.checkpoint.samples"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_those_of_this_repository(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).resolve() == (ROOT / package / "__init__.py").resolve()


def test_no_file_is_longer_than_400_lines() -> None:
    files = [ROOT / "convscope.py"]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".js", ".css", ".html")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert len(lengths) > 40
    assert {name: count for name, count in lengths.items() if count > 400} == {}


def test_no_test_file_imports_from_another() -> None:
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    imports = re.compile(r"^ *(from|import) tests\.(\w+\.)*test_", re.MULTILINE)
    assert len(texts) > 100
    assert [name for name, text in texts.items() if imports.search(text)] == []


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in found}


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


DEPENDENCIES = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_every_dependency_has_a_floor_at_or_below_its_pin(dependency: str) -> None:
    requirement = Requirement(dependency)
    floors = [Version(clause.version) for clause in requirement.specifier if clause.operator == ">="]
    assert len(floors) == 1
    assert floors[0] <= Version(pins()[normal(requirement.name)])
    assert pins()[normal(requirement.name)] in requirement.specifier


def test_the_wheel_holds_the_packages_and_the_command_alone() -> None:
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == [
        "convscope.py",
        *PACKAGES,
    ]
    assert PROJECT["project"]["scripts"] == {"convscope": "convscope:main"}
