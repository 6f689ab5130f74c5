"""Charts: numbers against NumPy, colors against models of color vision, equal bytes."""

import dataclasses
import io
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image as reader
from matplotlib.figure import Figure

from cnnbench.comparisons.comparison import JUDGED, compare
from cnnbench.comparisons.learning_curves import (
    bands_text,
    costs_text,
    curves,
    curves_text,
    ends,
    last_rows,
)
from cnnbench.comparisons.verdict import Criteria
from cnnbench.report.plots.charts import (
    INK,
    SERIES,
    Chart,
    Shown,
    comparison_picture,
    draw_chart,
    picture,
)
from cnnbench.report.plots.spread import spread
from cnnbench.report.plots.svg import COLORS, inline_svg
from cnnbench.report.plots.text import text_width
from cnnbench.runs.records import RunResult
from cnnbench.statistics.estimates import estimate
from cnnbench.training.metrics.classification import CalibrationBins
from tests.support.paths import ROOT
from tests.support.samples import ENVIRONMENT, make_run, with_record

CSS = (ROOT / "cnnbench" / "report" / "templates" / "report.css").read_text()
TEXT = "{http://www.w3.org/2000/svg}text"


def two(**options: Any) -> tuple[RunResult, RunResult]:
    modified = make_run("modified", "Modified CNN", start=0.9213, run_id="b", **options)
    return make_run(**options), modified


def shown(*runs: RunResult, criteria: Criteria = JUDGED) -> Shown:
    comparison = compare(runs, criteria)
    return Shown(comparison, curves(comparison, runs))


def changed(run: RunResult, **changes: Any) -> RunResult:
    """The run with other values in every epoch."""
    epochs = tuple(dataclasses.replace(epoch, **changes) for epoch in run.epochs)
    return dataclasses.replace(run, epochs=epochs)


def axes_of(chart: Chart, drawn: Shown) -> Any:
    axes = Figure(figsize=(5, 3)).add_axes((0.1, 0.1, 0.6, 0.8))
    draw_chart(axes, chart, drawn)
    return axes


def test_a_curve_is_the_mean_with_the_lowest_and_the_highest_seed() -> None:
    run = make_run(seeds=(0, 3, 8))
    (curve,) = shown(run).curves
    table = np.array([e.metrics["accuracy"] for e in run.epochs]).reshape(3, 3)  # seed, epoch
    assert [value.mean for value in curve.values] == pytest.approx(table.mean(axis=0))
    assert [ends(value)[0] for value in curve.values] == pytest.approx(table.min(axis=0))
    assert [ends(value)[1] for value in curve.values] == pytest.approx(table.max(axis=0))
    times = np.array([e.train_s for e in run.epochs]).reshape(3, 3)
    assert curve.time_s == pytest.approx(times.mean(axis=0).cumsum())


def test_seeds_that_were_trained_together_have_no_times() -> None:
    run = make_run(seeds=(0, 1, 2))
    epochs = (dataclasses.replace(e, at_once=2 if e.seed else 1) for e in run.epochs)
    (curve,) = shown(dataclasses.replace(run, epochs=tuple(epochs))).curves
    assert curve.time_s == pytest.approx(np.cumsum([e.train_s for e in run.epochs if not e.seed]))


def test_without_a_seed_trained_alone_there_is_no_curve_against_time() -> None:
    run = make_run(seeds=(0, 1))
    epochs = (dataclasses.replace(e, at_once=2 if e.epoch == 2 else 1) for e in run.epochs)
    drawn = shown(dataclasses.replace(run, epochs=tuple(epochs)))
    assert drawn.curves[0].time_s is None
    assert drawn.charts() == (Chart.EPOCHS,)


def test_lines_and_bands_are_drawn_where_the_numbers_are() -> None:
    drawn = shown(*two(seeds=(0, 5)))
    axes = axes_of(Chart.TIME, drawn)
    for line, curve in zip(axes.lines, drawn.curves, strict=False):
        assert tuple(line.get_xdata()) == curve.time_s
        assert list(line.get_ydata()) == [value.mean for value in curve.values]
    for band, curve in zip(axes.collections, drawn.curves, strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (
            min(ends(value)[0] for value in curve.values),
            max(ends(value)[1] for value in curve.values),
        )


def test_costs_are_the_numbers_of_the_table() -> None:
    drawn = shown(*two(seeds=(0, 5)))
    rows = last_rows(drawn.comparison)
    for chart, costs in (
        (Chart.EPOCH_COST, [row.train_s.mean for row in rows]),
        (Chart.PARAMETERS, [row.num_params for row in rows]),
    ):
        lines = axes_of(chart, drawn).lines
        marks = [line for line in lines if line.get_markersize() == 8]
        assert [mark.get_xdata()[0] for mark in marks] == costs
        assert [mark.get_ydata()[0] for mark in marks] == [row.value.mean for row in rows]


def test_costs_of_different_magnitude_have_a_logarithmic_axis() -> None:
    standard, modified = two(seeds=(0, 5))
    linear = axes_of(Chart.EPOCH_COST, shown(standard, modified))
    assert linear.get_xscale() == "linear"
    assert linear.get_xlim()[0] == 0
    assert linear.get_xlim()[1] > max(mark.get_xdata()[0] for mark in linear.lines[:-2])
    slow = changed(modified, train_s=100.0)
    assert axes_of(Chart.EPOCH_COST, shown(standard, slow)).get_xscale() == "log"


def test_calibration_is_drawn_by_bin_for_the_runs_that_have_it() -> None:
    bins = CalibrationBins(np.array([0, 8, 2]), np.array([0, 4.0, 1.8]), np.array([0, 2, 2]))
    drawn = dataclasses.replace(shown(*two(seeds=(0, 5))), calibration=(None, bins))
    assert Chart.CALIBRATION in drawn.charts()
    axes = axes_of(Chart.CALIBRATION, drawn)
    diagonal, line, *labels = axes.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    np.testing.assert_allclose(line.get_xydata(), [(0.5, 0.25), (0.9, 1)])
    (marks,) = axes.collections
    few, many = marks.get_offsets()[:, 0].argsort()[::-1]
    assert marks.get_sizes()[many] > marks.get_sizes()[few]
    assert [label.get_color() for label in labels] == [SERIES[1]]
    assert Chart.CALIBRATION not in dataclasses.replace(drawn, calibration=(None, None)).charts()


def test_differences_are_in_points_with_the_least_effect_in_gray() -> None:
    criteria = Criteria(min_effect=Criteria().min_effect._replace(value=0.002))
    drawn = shown(*two(seeds=tuple(range(8))), criteria=criteria)
    axes = axes_of(Chart.DIFFERENCES, drawn)
    assert list(axes.lines[0].get_xdata()) == pytest.approx([1.13] * 8)
    assert axes.get_xlabel() == "accuracy difference vs. Standard CNN (points)"
    runs = [overridden(f"train.batch_size={n}", str(n), seeds=tuple(range(8))) for n in (50, 100)]
    assert axes_of(Chart.DIFFERENCES, shown(*runs)).get_xlabel() == (
        "accuracy difference vs. batch_size=50 (points)"
    )
    assert axes.patches[0].get_x() == pytest.approx(-0.2)


def test_differences_are_of_the_metric_of_the_verdict() -> None:
    axes = axes_of(Chart.DIFFERENCES, shown(*two(seeds=tuple(range(8)), headline="loss")))
    assert list(axes.lines[0].get_xdata()) == pytest.approx([0.0113] * 8)  # of the test losses
    assert axes.get_xlabel() == "test loss difference vs. Standard CNN"


WITHOUT_PREDICTIONS = tuple(chart for chart in Chart if chart is not Chart.CALIBRATION)


def test_charts_that_need_several_runs() -> None:
    assert shown(make_run()).charts() == (Chart.EPOCHS, Chart.TIME)
    assert shown(*two()).charts() == tuple(Chart)[:4]  # one seed: no interval
    assert shown(*two(seeds=(0, 1))).charts() == WITHOUT_PREDICTIONS


def test_alternative_texts() -> None:
    drawn = shown(*two(seeds=(0, 5)))
    assert curves_text(drawn.curves, drawn.comparison, by_time=True) == (
        "Accuracy on the validation images vs. seconds of training. "
        "Standard CNN: from 93.12% (93.00 to 93.25%) to 97.12% (97.00 to 97.25%) after "
        "3 epochs and 20.45 s. "
        "Modified CNN: from 94.25% (94.13 to 94.38%) to 98.26% (98.13 to 98.38%) after "
        "3 epochs and 20.45 s."
    )
    assert costs_text(drawn.comparison, by_time=False) == (
        "Accuracy on the validation images vs. number of parameters. "
        "Standard CNN: 97.12% (97.00 to 97.25%) at 160,362 parameters. "
        "Modified CNN: 98.26% (98.13 to 98.38%) at 160,362 parameters."
    )
    assert bands_text(drawn.curves) == (
        "Lines: mean over 2 seeds. Bands: minimum to maximum over seeds."
    )
    assert bands_text(shown(make_run()).curves) == "Lines: one seed."


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 7, 30])
def test_no_tick_is_between_epochs(epochs: int) -> None:
    run = make_run()
    every = tuple(dataclasses.replace(run.epochs[0], epoch=n + 1) for n in range(epochs))
    drawn = shown(with_record(dataclasses.replace(run, epochs=every), epochs=epochs))
    axes = axes_of(Chart.EPOCHS, drawn)
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)


def test_a_run_that_diverged_is_named_and_marked() -> None:
    good, bad = two(seeds=(0, 1))
    lost = tuple(dataclasses.replace(e, train_loss=math.nan) if e.seed else e for e in bad.epochs)
    all_lost = with_record(changed(bad, train_loss=math.inf), run_id="c")
    drawn = shown(good, dataclasses.replace(bad, epochs=lost), all_lost)
    assert [curve.lost for curve in drawn.curves] == ["", "1 of 2 diverged", "diverged"]
    for chart in (Chart.EPOCHS, Chart.PARAMETERS):
        texts = [text.get_text() for text in axes_of(chart, drawn).texts]
        assert texts[-3:] == [
            "Standard CNN",
            "Modified CNN #1\n1 of 2 diverged",
            "Modified CNN #2\ndiverged",
        ]
    pair = shown(good, changed(bad, train_loss=math.nan, metrics={"accuracy": math.nan}))
    assert "Modified CNN\ndiverged" in [
        text.get_text() for text in axes_of(Chart.DIFFERENCES, pair).texts
    ]
    assert curves_text(pair.curves, pair.comparison, by_time=False).endswith(
        "Modified CNN: from NaN (NaN to NaN) to NaN (NaN to NaN) after 3 epochs; diverged."
    )
    assert b"diverged" in picture(pair.charts(), pair, "svg", title="Two")


def test_values_that_are_not_finite_leave_gaps() -> None:
    standard, modified = two(seeds=(0, 1))
    lost = changed(modified, metrics={"accuracy": math.nan}, validation_loss=math.inf)
    for criteria in (Criteria(), Criteria(metric="loss")):
        drawn = shown(standard, lost, criteria=criteria)
        assert picture(drawn.charts(), drawn, "svg").startswith(b"<?xml")
        assert np.isnan(axes_of(Chart.EPOCHS, drawn).lines[1].get_ydata()).all()
    assert "NaN" in curves_text(drawn.curves, drawn.comparison, by_time=False)


@pytest.mark.parametrize("title", ["$x^2$ & <b>", "Größe 网络 🙂", "two\nlines\x1b[31m", "w" * 80])
def test_any_title_can_be_drawn(title: str) -> None:
    run = make_run(title=title, seeds=(0, 1))
    for form in ("svg", "png"):
        content = comparison_picture(compare([run]), [run], form)
        assert content == comparison_picture(compare([run]), [run], form)
    texts = {"".join(e.itertext()) for e in ElementTree.fromstring(content_svg(run)).iter(TEXT)}
    assert any(text[:4] == title[:4] or text[:3] == "two" for text in texts)


def content_svg(run: RunResult) -> bytes:
    return comparison_picture(compare([run]), [run], "svg")


def test_a_picture_is_the_same_each_time_and_names_every_run() -> None:
    runs = two(seeds=tuple(range(6)))
    content = comparison_picture(compare(runs), runs, "svg")
    assert content == comparison_picture(compare(runs), runs, "svg")
    assert b"<dc:date>" not in content
    root = ElementTree.fromstring(content)
    texts = ["".join(element.itertext()) for element in root.iter(TEXT)]
    assert texts.count("Modified CNN") == texts.count("Standard CNN") + 1 == 5
    assert {shown(*runs).title(chart) for chart in WITHOUT_PREDICTIONS} <= set(texts)
    assert {"Accuracy vs. time per epoch", "Accuracy vs. parameters"} <= set(texts)
    assert any(text.startswith("Verdict: Modified CNN is more accurate than") for text in texts)


def test_a_png_is_white_behind_and_not_empty() -> None:
    runs = two(seeds=(0, 1))
    pixels = reader.imread(io.BytesIO(comparison_picture(compare(runs), runs, "png")))
    assert tuple(pixels[0, 0]) == (1, 1, 1, 1)
    blue = tuple(int(SERIES[0][i : i + 2], 16) for i in (1, 3, 5))
    assert ((pixels[..., :3] * 255).round() == blue).all(axis=-1).sum() > 100


def test_eight_runs_have_colors_and_markers_of_their_own() -> None:
    runs = [make_run(f"n{i}", f"N{i}", run_id=f"r{i}") for i in range(8)]
    for chart in (Chart.EPOCHS, Chart.PARAMETERS):
        lines = axes_of(chart, shown(*runs)).lines
        styles = [(line.get_color(), line.get_marker()) for line in lines]
        styles = [style for style in styles if style[1] not in {"None", None, ""}]
        assert len({color for color, _ in styles}) == len({mark for _, mark in styles}) == 8
        assert len(set(styles)) == 8


def test_labels_say_what_differs() -> None:
    titles = [f"A network that has quite a long name, number {i}" for i in range(3)]
    runs = [make_run(f"n{i}", title, run_id=f"r{i}") for i, title in enumerate(titles)]
    texts = [text.get_text() for text in axes_of(Chart.EPOCHS, shown(*runs)).texts]
    assert texts[-3:] == ["... number 0", "... number 1", "... number 2"]
    rates = ("0.1", "0.25")
    runs = [overridden(f"train.optimizer.learning_rate={rate}", rate) for rate in rates]
    texts = [text.get_text() for text in axes_of(Chart.EPOCHS, shown(*runs)).texts]
    assert texts[-2:] == ["learning_rate=0.1", "learning_rate=0.25"]
    title = b"Standard CNN: 2 runs on mnist"
    assert title in comparison_picture(compare(runs), runs, "svg")
    runs[1] = with_record(runs[1], title="Other")
    texts = [text.get_text() for text in axes_of(Chart.EPOCHS, shown(*runs)).texts]
    assert texts[-2:] == ["Standard CNN", "Other"]


def test_parentheses_of_a_title_are_not_overrides() -> None:
    rates = ("0.1", "0.25")
    runs = [overridden(f"train.optimizer.learning_rate={rate}", rate) for rate in rates]
    runs = [with_record(run, title="CNN (wide, 2 x 64)") for run in runs]
    texts = [text.get_text() for text in axes_of(Chart.EPOCHS, shown(*runs)).texts]
    assert texts[-2:] == ["learning_rate=0.1", "learning_rate=0.25"]
    title = b"CNN (wide, 2 x 64): 2 runs on mnist"
    assert title in comparison_picture(compare(runs), runs, "svg")
    runs = [make_run(kind, f"CNN ({kind})", run_id=kind) for kind in ("deep", "wide")]
    texts = [text.get_text() for text in axes_of(Chart.EPOCHS, shown(*runs)).texts]
    assert texts[-2:] == ["CNN (deep)", "CNN (wide)"]
    assert b"CNN (deep) and CNN (wide) on mnist" in comparison_picture(compare(runs), runs, "svg")


def overridden(word: str, run_id: str, **options: Any) -> RunResult:
    environment = dataclasses.replace(ENVIRONMENT, command=(*ENVIRONMENT.command, word))
    return with_record(make_run(**options), run_id=run_id, environment=environment)


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (3, 1), (5, 2), (8, 1)])
def test_titles_are_not_cut(count: int, lines: int) -> None:
    titles = [f"Network number {i}" for i in range(1, count + 1)]
    runs = [make_run(f"n{i}", title, run_id=f"r{i}") for i, title in enumerate(titles)]
    root = ElementTree.fromstring(comparison_picture(compare(runs), runs, "svg"))
    width = float(root.attrib["width"].removesuffix("pt"))
    head = [e for e in root.iter(TEXT) if "14px" in e.attrib["style"]]
    words = ["".join(e.itertext()) for e in head]
    whole = f"{', '.join(titles[:-1])} and {titles[-1]}" if count > 1 else titles[0]
    if count == 8:
        whole = "Network number 1 and 7 other runs"
    assert (" ".join(words), len(words)) == (f"{whole} on mnist", lines)
    assert all(72 * text_width(line, 14, bold=True) < width - 20 for line in words)


def test_twelve_runs_are_distinguishable_and_their_labels_do_not_touch() -> None:
    titles = [f"A network with a long name, number {i}" for i in range(12)]  # two lines each
    runs = [make_run(f"n{i}", title, run_id=f"r{i}") for i, title in enumerate(titles)]
    drawn = shown(*runs)
    looks = {(ln.get_color(), ln.get_linestyle()) for ln in axes_of(Chart.EPOCHS, drawn).lines[:12]}
    assert len(looks) == 12
    root = ElementTree.fromstring(picture([Chart.EPOCHS], drawn, "svg"))
    lines = [e for e in root.iter(TEXT) if (e.text or "").startswith("A network with")]
    heights = sorted(float(e.attrib["transform"].split()[1].rstrip(")")) for e in lines)
    assert len(heights) == 12
    assert min(np.diff(heights)) > 2 * 9  # two lines of nine points each


@given(
    st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(0.01, 0.1)), min_size=1, max_size=9),
)
def test_labels_do_not_overlap_and_stay_inside(labels: Sequence[tuple[float, float]]) -> None:
    wanted, sizes = [place for place, _ in labels], [size for _, size in labels]
    found = spread(wanted, sizes)
    order = sorted(range(len(found)), key=found.__getitem__)
    for one, other in itertools.pairwise(order):
        assert found[other] - found[one] >= (sizes[one] + sizes[other]) / 2 - 1e-9
    assert all(found[i] + sizes[i] / 2 <= 1 + 1e-9 for i in order)
    assert all(found[i] - sizes[i] / 2 >= -1e-9 for i in order)


def linear(color: str) -> np.ndarray:
    """Linear RGB of a color, from the definition of sRGB."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    light = sorted(float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


def theme(number: int) -> dict[str, str]:
    """The colors of the page: 0 for light mode, 1 for dark mode, 2 for print."""
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#\w+)", blocks[number]))


@pytest.mark.parametrize("number", [0, 1])
def test_colors_can_be_seen(number: int) -> None:
    colors = theme(number)
    for name in ("ink", "soft", "link", "better", "worse"):
        for ground in ("paper", "card"):
            assert contrast(colors[name], colors[ground]) >= 4.5, name
    for ground in ("wrong", "right"):
        assert contrast(colors["ink"], colors[ground]) >= 4.5, ground
    for i in range(len(SERIES)):
        assert contrast(colors[f"series-{i}"], colors["paper"]) >= 3


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency", 2009: no red cones, no green cones.
PROTANOPIA = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)
DEUTERANOPIA = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB, under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = np.clip(xyz @ rgb, 0, None) / (0.9505, 1.0, 1.089)
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("sight", [np.eye(3), np.array(PROTANOPIA), np.array(DEUTERANOPIA)])
def test_eight_runs_differ_for_color_blind_people_too(number: int, sight: np.ndarray) -> None:
    """A difference of 2.3 is just noticeable (Mahy et al. 1994); markers differ as well."""
    colors = theme(number)
    seen = [lab(np.clip(sight @ linear(colors[f"series-{i}"]), 0, 1)) for i in range(8)]
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - other) > 20


def test_the_page_has_the_colors_of_the_pictures() -> None:
    by_day, paper = theme(0), theme(2)
    assert [by_day[f"series-{i}"] for i in range(len(SERIES))] == list(SERIES)
    assert [paper[f"series-{i}"] for i in range(len(SERIES))] == list(SERIES)
    assert by_day["ink"] == INK
    for variable in set(COLORS.values()) - {"none"}:
        assert variable.removeprefix("var(--").removesuffix(")") in theme(1)


def test_pictures_in_a_page_have_words_and_ids_of_their_own() -> None:
    drawn = shown(*two(seeds=(0, 1)))
    words = 'says "more" than <others>'
    pictures = [
        inline_svg(picture([chart], drawn, "svg"), f"p{i}", words, 2.0)
        for i, chart in enumerate((Chart.EPOCHS, Chart.EPOCHS))
    ]
    for number, text in enumerate(pictures):
        root = ElementTree.fromstring(text)
        assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", words)
        assert root.attrib["style"] == "width: 922px"
        ids = {e.attrib["id"] for e in root.iter() if "id" in e.attrib}
        used = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", text))
        assert ids
        assert used == ids
        assert all(name.startswith(f"p{number}-") for name in ids)
        assert not set(re.findall(r"#[0-9a-f]{6}\b", text))
        assert "font-family: sans-serif" in text or "px sans-serif" in text
        assert not [e for e in root.iter() if e.tag.endswith(("style", "metadata", "title"))]


def test_the_range_of_one_lost_seed_is_unknown() -> None:
    assert np.isnan(ends(estimate([0.9, math.nan]))).all()


def test_the_ninth_run_has_the_first_color_with_other_dashes() -> None:
    runs = [with_record(make_run(f"n{i}", f"N{i}"), run_id=f"r{i}") for i in range(9)]
    lines = axes_of(Chart.EPOCHS, shown(*runs)).lines
    assert lines[0].get_color() == lines[8].get_color()
    assert lines[0].get_linestyle() != lines[8].get_linestyle()
