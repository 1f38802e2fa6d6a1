"""A mistake ends the job at once, on the cluster that is there; what may pass is tried again."""

import subprocess

import pytest

from tests.cluster.conftest import CLUSTER


def attempts(tmp_path, *codes: int, most: int = 4) -> tuple[int, int]:
    """Exit code and number of attempts of a command that ends with `codes`, one after the other."""
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    command = 'read code < codes; sed -i 1d codes; echo "$code" >> tried; exit "$code"'
    done = subprocess.run(
        ["sh", str(CLUSTER / "attempts.sh"), "sh", "-c", command],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "FT2RAY_PAUSE_SECONDS": "0", "FT2RAY_ATTEMPTS": str(most)},
    )
    return done.returncode, len((tmp_path / "tried").read_text().split())


@pytest.mark.parametrize("code", [0, 1, 2])
def test_success_mistakes_and_bugs_are_not_repeated(tmp_path, code):
    assert attempts(tmp_path, code, 0) == (code, 1)


@pytest.mark.parametrize("code", [75, 137])
def test_what_may_pass_is_tried_again(tmp_path, code):
    assert attempts(tmp_path, code, code, 0) == (0, 3)


def test_but_not_for_ever(tmp_path):
    assert attempts(tmp_path, 75, 75, 75, 75, most=3) == (75, 3)


def test_a_mistake_after_a_lost_store_is_not_repeated(tmp_path):
    assert attempts(tmp_path, 75, 2, 0) == (2, 2)
