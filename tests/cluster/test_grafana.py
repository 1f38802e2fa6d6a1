"""The dashboard draws every metric of a run, and none that nobody reports."""

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import ray.serve

from ft2ray.observe.metrics import METRICS

SERIES = {"Counter": [""], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}


@pytest.fixture(scope="module")
def dashboard() -> dict:
    return json.loads(
        (Path(__file__).parents[2] / "cluster" / "components" / "monitoring" / "grafana.json").read_text()
    )


def exported(name: str, kind: str) -> set[str]:
    """The names under which Ray shows a metric to Prometheus."""
    if kind == "Counter" and not name.endswith("_total"):
        name += "_total"
    return {f"ray_{name}{ending}" for ending in SERIES[kind]}


def of_serve() -> dict[str, str]:
    """All metrics that the installed Ray Serve makes, from its source: name -> kind."""
    found = {}
    for file in Path(ray.serve.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                kind = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if kind in SERIES and isinstance(node.args[0].value, str):
                    found[node.args[0].value] = kind
    return found


def panels(dashboard: dict) -> list[dict]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def kept(expression: str) -> set[str]:
    """The labels that a query keeps."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"by \((.*?)\)", expression)))) - {"le"}


def drawn(dashboard: dict) -> set[str]:
    expressions = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    return {name for text in expressions for name in re.findall(r"\bray_\w+", text)}


def test_every_metric_of_a_run_is_drawn(dashboard):
    missing = [name for name, (kind, *_) in METRICS.items() if not exported(name, kind) & drawn(dashboard)]
    assert not missing


def test_nothing_is_drawn_that_nobody_reports(dashboard):
    ours = {name: kind for name, (kind, *_) in METRICS.items()}
    assert "serve_deployment_queued_queries" in of_serve(), "Serve's metrics are not found in its source"
    known = set().union(*(exported(name, kind) for name, kind in (ours | of_serve()).items()))
    assert drawn(dashboard) <= known, drawn(dashboard) - known


def test_labels_in_use_are_labels_of_the_metric(dashboard):
    for panel in panels(dashboard):
        for target in panel["targets"]:
            for name, (_, _, tags) in METRICS.items():
                if f"ray_{name}" in target["expr"]:
                    assert kept(target["expr"]) <= set(tags), target["expr"]


def test_legends_name_labels_that_the_query_keeps(dashboard):
    for panel in panels(dashboard):
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept(target["expr"]), target


def test_panels_are_told_apart_and_do_not_overlap(dashboard):
    ids = Counter(panel["id"] for panel in dashboard["panels"])
    assert max(ids.values()) == 1
    cells = Counter(
        (x, y)
        for grid in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    )
    assert max(cells.values()) == 1 and max(x for x, _ in cells) < 24
    for panel in panels(dashboard):
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_source_of_the_figures_is_asked_for_not_fixed(dashboard):
    (variable,) = dashboard["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert {panel["datasource"]["uid"] for panel in panels(dashboard)} == {"${datasource}"}
