"""Both applications keep to their pages, whatever comes: schemathesis, in this process, on a fixed budget."""

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

from ft2ray.serving import critic, generator  # noqa: E402
from ft2ray.serving.settings import CriticServeConfig, GeneratorServeConfig  # noqa: E402
from tests.serving.test_apis import CLIP, InThisProcess, made, scoring  # noqa: E402
from tests.serving.test_apis import api as api_of  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
# Bytes that fit the schema `binary` are rarely a video, and are refused with 422.
MEDIA_ARE_NOT_SCHEMAS = positive_data_acceptance
BUDGET = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


async def judge(view):
    return {"mn": 0.5}, "critic"


@pytest.fixture
def scored(monkeypatch):
    monkeypatch.setenv("FT2RAY_TOKEN", "secret")
    monkeypatch.setattr(critic, "Decoders", InThisProcess)
    api = scoring(CriticServeConfig(stores=("/data",)), judge)
    return schemathesis.openapi.from_asgi("/v1/score/openapi.json", api)


@pytest.fixture
def generated(monkeypatch, tmp_path):
    monkeypatch.setenv("FT2RAY_TOKEN", "secret")
    monkeypatch.setattr(generator, "Decoders", InThisProcess)
    served = GeneratorServeConfig(stores=("/data",), result_store=str(tmp_path))
    api = api_of(served, made(CLIP)[0])
    return schemathesis.openapi.from_asgi("/v1/generate/openapi.json", api)


@pytest.mark.parametrize("page", ["scored", "generated"])
def test_an_application_keeps_to_its_page(page, request):
    operations = [found.ok() for found in request.getfixturevalue(page).get_all_operations()]
    assert operations
    for operation in operations:

        @given(case=operation.as_strategy())
        @BUDGET
        def keeps_to_it(case):
            case.call_and_validate(
                headers={"Authorization": "Bearer secret"}, excluded_checks=[MEDIA_ARE_NOT_SCHEMAS]
            )

        keeps_to_it()
