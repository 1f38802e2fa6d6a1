"""What `import ft2ray` offers, and what it does not cost."""

import ast
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import ft2ray

README = Path(__file__).parents[1] / "README.md"


def test_every_public_name_is_there_and_nothing_else():
    for name in ft2ray.__all__:
        assert getattr(ft2ray, name) is not None and name in dir(ft2ray)
    with pytest.raises(AttributeError, match="no attribute 'lign'"):
        ft2ray.lign  # noqa: B018


def test_type_checkers_see_the_same_names():
    assert resources.files("ft2ray").joinpath("py.typed").is_file()
    tree = ast.parse(Path(ft2ray.__file__).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {alias.asname: node.module for node in typed.body for alias in node.names}
    assert found == {**ft2ray._HOMES, "errors": "ft2ray"}


def test_the_readme_names_what_is_there():
    (line,) = re.findall(r"`from ft2ray import ([^`]+)`", README.read_text())
    assert {"Run", "align", "load_config", "load_critic", "load_generator", "load_policy"} == set(
        line.split(", ")
    )
    assert set(line.split(", ")) < set(ft2ray.__all__)


def test_importing_the_package_imports_neither_torch_nor_ray():
    code = "import sys, ft2ray; print(sorted({'torch', 'ray', 'numpy', 'pydantic'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
