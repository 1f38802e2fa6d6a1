import xml.etree.ElementTree as ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.evaluation.charts import MAX_POINTS, heat_map, histogram, interval_chart, line_chart, nice_ticks


def parsed(svg):
    return ElementTree.fromstring(str(svg).split("</svg>")[0] + "</svg>")


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_inside_and_are_few(low, span):
    ticks = nice_ticks(low, low + span)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-6 * span <= ticks[0] and ticks[-1] <= low + span + 1e-6 * span


def test_long_curves_are_thinned_and_gaps_left_out():
    points = [(step, float("nan") if step == 7 else np.sin(step / 50)) for step in range(2000)]
    svg = parsed(line_chart("loss", {"mn": points}))
    path = next(e for e in svg if e.tag == "path").attrib["d"]
    assert path.count("L") == MAX_POINTS - 1 and "nan" not in path


def test_a_line_of_one_point_is_a_mark_and_an_empty_one_nothing():
    svg = parsed(line_chart("loss", {"mn": [(2, 0.5)], "ls": [(1, 0.4), (2, 0.6)], "vq": []}))
    assert [e.tag for e in svg if "line s" in e.attrib.get("class", "")] == ["circle", "path"]
    mark, path = (next(e for e in svg if e.tag == tag) for tag in ("circle", "path"))
    assert path.attrib["d"].split(" L")[1].split()[0] == mark.attrib["cx"], "both at step 2"


def test_names_from_outside_are_escaped():
    evil = '<img src=x onerror="alert(1)">'
    for svg in (
        line_chart(evil, {evil: [(0, 1.0)], "b": [(0, 1.0)]}),
        interval_chart(evil, [(evil, 0.1, [0.0, 0.2], "improved")]),
        histogram(evil, [0.5]),
    ):
        assert "<img" not in str(svg)
        parsed(svg)


def test_intervals_that_do_not_exist_are_not_drawn():
    svg = parsed(interval_chart("x", [("a", 0.1, None, "not shown"), ("b", None, None, "not shown")]))
    assert not [e for e in svg if "bar" in e.attrib.get("class", "")]
    assert len([e for e in svg if e.tag == "circle"]) == 1
    assert "not measured" in "".join(svg.itertext())


def test_an_empty_log_says_so():
    assert "Nothing was logged" in line_chart("loss", {"mn": []})


def test_heat_map_colours_by_distance_from_the_average():
    weights = np.array([[1 / 3, 0.5], [0.2, 1 / 3]])
    cells = [e for e in parsed(heat_map("gate", weights, [0.2, 0.9], 1 / 3, 0.2)) if e.tag == "rect"]
    strengths = [(c.attrib["class"], float(c.attrib["fill-opacity"])) for c in cells]
    # rows are layers, columns run from noise (t = 0.9) to the clean end
    assert [round(s, 2) for _, s in strengths] == [0.67, 0.0, 0.0, 0.83]
    assert strengths[0][0] == "less" and strengths[3][0] == "more"


def test_histogram_counts_everything():
    text = str(histogram("scores", [0.01, 0.02, 0.99, 1.0]))
    assert "0.00 to 0.05: 2" in text and "0.95 to 1.00: 2" in text
