"""What `import ft2ray` offers, and what it does not cost."""

import subprocess
import sys

import pytest

import ft2ray


def test_every_public_name_is_there_and_nothing_else():
    for name in ft2ray.__all__:
        assert getattr(ft2ray, name) is not None and name in dir(ft2ray)
    with pytest.raises(AttributeError, match="no attribute 'lign'"):
        ft2ray.lign  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_ray():
    code = "import sys, ft2ray; print(sorted({'torch', 'ray', 'numpy', 'pydantic'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
