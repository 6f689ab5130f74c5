"""Comparisons as one HTML page: a single file that loads nothing.

It runs no script, except the one that sorts the tables of sweeps.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from operator import add
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from cnnbench.comparisons.comparability import machine_text
from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.learning_curves import (
    Curve,
    bands_text,
    costs_text,
    course_metric,
    course_title,
    curves,
    curves_text,
    ends,
    last_rows,
    runs_of,
)
from cnnbench.comparisons.timing_warnings import summary
from cnnbench.comparisons.verdict import Verdict
from cnnbench.comparisons.verdict_text import sentence, size
from cnnbench.formatting import clean, count_text, enumeration, epochs_text, seconds_text
from cnnbench.layers.base import shape_text
from cnnbench.report.columns import TableOptions
from cnnbench.report.comparison import cost_grid, every_verdict, grid, notes
from cnnbench.report.layer_table import layer_cells, part_cells
from cnnbench.report.plots import charts
from cnnbench.report.plots.charts import Chart, Shown
from cnnbench.report.plots.diagram import STYLES, diagram, outline_diagram
from cnnbench.report.plots.diagram_picture import diagram_picture
from cnnbench.report.plots.png import kernel_sheet, photograph, read_png
from cnnbench.report.plots.svg import inline_svg
from cnnbench.report.run_artifacts import RunArtifacts
from cnnbench.report.side_by_side import MOST, SideRow, side_by_side
from cnnbench.report.sweeps.section import SweepSection, policy, script, template
from cnnbench.runs.records import Direction, EngineRecord, Environment, RunResult, SeedSummary
from cnnbench.spec.diff import Differences, differences, marked
from cnnbench.spec.loader import Loaded
from cnnbench.spec.metrics import heading, metric_text, words
from cnnbench.system import commands

if TYPE_CHECKING:
    from cnnbench.analysis.confusion import Kernels, Mistake
    from cnnbench.training.metrics.classification import CalibrationBins

_OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*")


class HtmlTable(NamedTuple):
    """A table: caption, headers and rows; the first cell of a row is its header."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


class Plate(NamedTuple):
    """A raster image: data URI, size in CSS pixels, alternative text and caption."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str


class MistakePlate(NamedTuple):
    """A misclassified image: data URI, size in CSS pixels, alternative text, classes, details."""

    uri: str
    width: int
    height: int
    alt: str
    classes: str
    details: Sequence[str]


class Drawing(NamedTuple):
    """A vector image: the `svg` element, its caption, its data as a table, and a note below."""

    svg: str
    caption: str
    grid: HtmlTable | None = None
    note: str = ""


class Matrix(NamedTuple):
    """A confusion matrix: a summary, the count and shade (0 to 1) of each cell, recall by class."""

    summary: str
    classes: Sequence[str]
    rows: Sequence[Sequence[tuple[int, float]]]
    recalls: Sequence[str]


class RunSection(NamedTuple):
    """Everything the page shows of one run besides its numbers.

    Args:
      label: the run's name in tables.
      architecture: the network; None if it cannot be read.
      drawn: True if the drawing is visible, False if it is folded away.
      changes: (kind, text) of each difference from the baseline; None for the baseline itself.
      kernels: of the layers that read the image.
      matrix: its confusion matrix.
      mistakes: misclassified test images with the highest loss.
      reconstructions: of an autoencoder.
      latent: latent space of an autoencoder.
      worst: test images with the highest loss, for targets and several labels.
      source: the resolved experiment file.
      judged: the seeds behind `matrix` and `mistakes`.
      remarks: what is missing, and why.
    """

    label: str
    architecture: Drawing | None
    drawn: bool
    changes: Sequence[tuple[str, str]] | None
    kernels: Sequence[Plate]
    matrix: Matrix | None
    mistakes: Sequence[MistakePlate]
    reconstructions: Plate | None
    latent: Plate | None
    worst: Plate | None
    source: str
    judged: str
    remarks: Sequence[str]


class Pictures(NamedTuple):
    """Charts of a comparison, the tables behind them, and a section for each run."""

    differences: Drawing | None
    curves: Drawing
    costs: Sequence[Drawing]
    calibration: Drawing | None
    calibration_notes: Sequence[str]
    tuning: Sequence[Plate]
    curves_grid: HtmlTable
    costs_grid: HtmlTable
    parts: Sequence[RunSection]
    seeds: HtmlTable
    environment: HtmlTable


class Section(NamedTuple):
    """One comparison on the page.

    Args:
      anchor: its id.
      heading: networks and dataset.
      about: the experiment in a few words: images, seeds, epochs, device and dates.
      verdicts: finding and sentence of each.
      labels: names of the networks, in the order of the columns of `side`.
      side: the networks side by side; empty if they are too many.
      table: first and last epochs.
      expenses: costs.
      remarks: what else to know before believing the numbers.
      warning_summary: all timing warnings in one line; empty if there are none.
      warnings: the timing warnings.
      notes: how the numbers were obtained.
      contradictions: runs that should agree and do not.
      end: time of the final values, in words.
      pictures: None on a page of tables.
    """

    anchor: str
    heading: str
    about: str
    verdicts: Sequence[tuple[str, str]]
    labels: Sequence[str]
    side: Sequence[SideRow]
    table: HtmlTable
    expenses: HtmlTable | None
    remarks: Sequence[str]
    warning_summary: str
    warnings: Sequence[str]
    notes: Sequence[str]
    contradictions: Sequence[str]
    end: str
    pictures: Pictures | None = None


class OverSection(NamedTuple):
    """Comparisons of the same experiments at several values of a key, together.

    Args:
      heading: the experiments and the key.
      verdicts: finding and sentence of each experiment but the baseline.
      remarks: further sentences.
      picture: the differences.
      table: a row for each value and experiment.
      datasets: ranks and means over datasets; None for another key.
      notes: how the numbers were obtained.
    """

    heading: str
    verdicts: Sequence[tuple[str, str]]
    remarks: Sequence[str]
    picture: Drawing
    table: HtmlTable
    datasets: HtmlTable | None
    notes: Sequence[str]


def table_page(comparisons: Sequence[Comparison]) -> str:
    """Renders verdicts and tables.

    Args:
      comparisons: at least one.
    """
    return rendered_page([bare_section(each, number) for number, each in enumerate(comparisons)])


def report_page(
    comparisons: Sequence[Comparison],
    runs: Sequence[RunResult],
    artifacts: Sequence[RunArtifacts],
    *,
    title: str = "",
    author_notes: str = "",
    sweeps: Sequence[SweepSection] = (),
) -> str:
    """Renders verdicts, charts, tables and everything else there is to see of every run.

    Comparisons of several runs come first.

    Args:
      comparisons: at least one.
      runs: the runs compared.
      artifacts: of every run.
      title: of the page; the networks and the dataset if empty.
      author_notes: HTML of the author's notes, which must be safe.
      sweeps: those that the runs were trained for.
    """
    ordered = sorted(comparisons, key=lambda comparison: not comparison.verdicts)
    sections = [report_section(each, i, runs, artifacts) for i, each in enumerate(ordered)]
    return rendered_page(sections, title, author_notes, sweeps=sweeps)


def report_section(
    comparison: Comparison,
    number: int,
    runs: Sequence[RunResult],
    artifacts: Sequence[RunArtifacts],
) -> Section:
    """One comparison with everything there is to see of its runs.

    Args:
      comparison: the comparison.
      number: its place on the page.
      runs: the runs compared, and others.
      artifacts: of every run.
    """
    section = bare_section(comparison, number)
    pictures = _pictures(section.anchor, comparison, runs, artifacts)
    side = side_by_side(comparison) if len(section.labels) <= MOST else ()
    return section._replace(pictures=pictures, side=side)


def rendered_page(
    sections: Sequence[Section],
    title: str = "",
    author_notes: str = "",
    over: OverSection | None = None,
    sweeps: Sequence[SweepSection] = (),
) -> str:
    """Renders a page.

    Args:
      sections: one for each comparison.
      title: of the page; what is compared if empty.
      author_notes: HTML of the author's notes, which must be safe.
      over: what the comparisons say together, if they are the same at several values of a key.
      sweeps: below the comparisons.
    """
    import jinja2

    from cnnbench._version import __version__

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,  # titles come from users' files
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["options"] = _options
    first = [over] if over else sections
    headings = "; ".join(section.heading for section in first)
    verdicts = " ".join(text for section in first for _, text in section.verdicts)
    code = script() if sweeps else ""
    return environment.get_template("report.html.j2").render(
        title=clean(title) or textwrap.shorten(headings, 120, placeholder=" ..."),
        titled=bool(title),
        description=textwrap.shorten(verdicts, 300, placeholder=" ..."),
        author_notes=author_notes,
        over=over,
        sections=sections,
        sweeps=sweeps,
        script=code,
        policy=policy(code),
        version=__version__,
    )


def _options(text: str) -> str:
    """The text as HTML whose command-line options are not broken over two lines."""
    return _OPTION.sub(r'<span class="option">\g<0></span>', escape(text))


def bare_section(comparison: Comparison, number: int) -> Section:
    """One comparison with verdicts and tables only.

    Args:
      comparison: the comparison.
      number: its place on the page.
    """
    headers, *rows = grid(comparison, wide=True)
    expenses = (found[0], found[1:]) if (found := cost_grid(comparison)) else None
    labels = [clean(row.label) for row in last_rows(comparison)]
    some = f"{len(labels)} networks" if len(labels) > 3 else enumeration(labels)
    metric = words(comparison.shown_metric)
    warned = summary(comparison.warnings, metric, costs=True, details="")
    return Section(
        anchor=f"c{number + 1}",
        heading=f"{some} on {comparison.dataset.name}",
        about=" · ".join(_about(comparison)),
        verdicts=_verdicts(comparison),
        labels=labels,
        side=(),
        table=HtmlTable(f"{heading(comparison.shown_metric)} and time", headers, rows),
        expenses=HtmlTable("Costs", *expenses) if expenses else None,
        remarks=[clean(remark) for remark in comparison.remarks],
        warning_summary=warned[:1].upper() + warned[1:],
        warnings=[clean(warning.text) for warning in comparison.warnings],
        notes=notes(comparison, wide=True, look=TableOptions(verbose=True)),
        contradictions=[*map(clean, comparison.contradictions)],
        end=comparison.end,
    )


def _about(comparison: Comparison) -> Iterator[str]:
    """Images, seeds, epochs, devices and dates of the runs."""
    runs = [row.run for row in last_rows(comparison)]
    yield clean(comparison.dataset.title)
    yield _numbers((len(run.seeds) for run in runs), "seed")
    yield _numbers((run.epochs for run in runs), "epoch")
    yield enumeration([*map(clean, comparison.devices)])
    dates = sorted(f"{run.started_at:%Y-%m-%d}" for run in runs)
    yield " to ".join(dict.fromkeys((dates[0], dates[-1])))


def _numbers(values: Iterable[int], noun: str) -> str:
    """A range of whole numbers.

    >>> _numbers([1], "seed"), _numbers([6, 6], "seed"), _numbers([6, 3], "epoch")
    ('1 seed', '6 seeds', '3 to 6 epochs')
    """
    known = sorted(set(values))
    span = " to ".join(dict.fromkeys((str(known[0]), str(known[-1]))))
    return f"{span} {noun}{'' if known[-1] == 1 else 's'}"


def _verdicts(comparison: Comparison) -> list[tuple[str, str]]:
    """The finding in a word or two, and its sentence."""
    if judged := every_verdict(comparison):
        return [(verdict.finding.value, sentence(verdict)) for verdict in judged]
    row = last_rows(comparison)[0]
    value = metric_text(comparison.metric, row.value.mean)
    reached = f"{clean(row.label)} reaches {words(comparison.shown_metric)} {value}"
    text = f"{reached} after {epochs_text(row.epoch)}. A verdict needs a second run."
    return [("single run", text)]


def _pictures(
    anchor: str,
    comparison: Comparison,
    runs: Sequence[RunResult],
    artifacts: Sequence[RunArtifacts],
) -> Pictures:
    labeled = [(row.label, run) for row, run in runs_of(comparison, runs)]
    known = {(a.label, a.run.record.name, a.run.record.run_id): a for a in artifacts}
    own = [known[label, run.record.name, run.record.run_id] for label, run in labeled]
    shown = Shown(comparison, curves(comparison, runs), tuple(map(_all_seeds, own)))
    drawings = {chart: _chart(chart, shown, anchor) for chart in shown.charts()}
    calibration = drawings.pop(Chart.CALIBRATION, None)
    return Pictures(
        differences=drawings.pop(Chart.DIFFERENCES, None),
        curves=drawings.pop(Chart.EPOCHS),
        costs=list(drawings.values()),
        calibration=calibration,
        calibration_notes=_calibration_notes(own),
        tuning=tuning_plates(own),
        curves_grid=curves_grid(shown.curves, comparison),
        costs_grid=costs_grid(comparison),
        parts=_parts(own, anchor, comparison),
        seeds=seeds_grid(labeled, comparison.metric),
        environment=environment_grid(labeled),
    )


def _chart(chart: Chart, shown: Shown, anchor: str) -> Drawing:
    name = f"{anchor}-{chart.name.lower().replace('_', '-')}"
    svg = inline_svg(charts.picture([chart], shown, "svg"), name, _words_of(chart, shown), 1.2)
    match chart:
        case Chart.DIFFERENCES:
            table, note = differences_grid(shown.comparison), _reading(shown.comparison)
            return Drawing(svg, shown.title(chart), table, note)
        case Chart.EPOCHS:
            return Drawing(svg, shown.title(chart), note=bands_text(shown.curves))
        case Chart.CALIBRATION:
            return Drawing(svg, shown.title(chart), calibration_grid(shown))
    return Drawing(svg, shown.title(chart))


def _reading(comparison: Comparison) -> str:
    """How to read the chart of differences."""
    side = "Right" if comparison.direction is Direction.HIGHER else "Left"
    base = clean(comparison.verdicts[0].baseline)
    return f"Small points: the same seed in both networks. {side} of zero is better than {base}."


def _words_of(chart: Chart, shown: Shown) -> str:
    """A chart's content in words, for screen readers."""
    match chart:
        case Chart.EPOCHS | Chart.TIME:
            return curves_text(shown.curves, shown.comparison, by_time=chart is Chart.TIME)
        case Chart.EPOCH_COST | Chart.PARAMETERS:
            return costs_text(shown.comparison, by_time=chart is Chart.EPOCH_COST)
        case Chart.DIFFERENCES:
            return " ".join(map(_differences_text, shown.comparison.verdicts))
        case Chart.CALIBRATION:
            rows = (", ".join(row) for row in calibration_grid(shown).rows)
            return f"Network, confidence, accuracy, test images: {'; '.join(rows)}."


def _all_seeds(shown: RunArtifacts) -> "CalibrationBins | None":
    """The bins of all seeds together; None if they are unknown."""
    if not shown.calibration:
        return None
    first, *others = shown.calibration
    for bins in others:
        first = type(first)(*map(add, first, bins))
    return first


def _calibration_notes(own: Sequence[RunArtifacts]) -> list[str]:
    """How to read the reliability diagram, and the calibration error of each run."""
    errors = [
        f"{clean(a.label)} {metric_text('ece', fmean(bins.error for bins in a.calibration))}"
        for a in own
        if a.calibration
    ]
    return [
        f"Expected calibration error, mean over seeds: {enumeration(errors)}.",
        "Test images of all seeds in 15 bins by confidence, the probability of the predicted class;"
        " the larger a marker, the more images.",
        "On the dashed line, confidence equals accuracy. Below it, the network is overconfident.",
    ]


def _differences_text(verdict: Verdict) -> str:
    each = [size(verdict.metric, difference).split()[0] for difference in verdict.differences]
    seeds = f"by seed {enumeration(each)}" if each else "no seed in common"
    mean = size(verdict.metric, verdict.difference)
    pair = f"{clean(verdict.label)} minus {clean(verdict.baseline)}"
    return f"{pair}: mean {words(verdict.metric)} {mean}, {seeds}."


def _parts(own: Sequence[RunArtifacts], anchor: str, comparison: Comparison) -> list[RunSection]:
    """A section for each run; differences are from the baseline, or from the first that is known.

    Two networks are drawn side by side. Of more, and of equal ones, only the baseline's drawing is
    visible.
    """
    baseline = comparison.verdicts[0].baseline if comparison.verdicts else None
    known = sorted((a for a in own if a.loaded), key=lambda a: a.label != baseline)
    found = {a.label: differences(_loaded(known[0]), _loaded(a)) for a in known[1:]}
    marks = {label: each.marks for label, each in found.items()}
    visible = {a.label for a in known[:1]}
    if len(known) == len(own) == 2:
        base, other = known
        if base.plan and other.plan:
            marks[base.label], _ = marked([base.plan, other.plan])
        if any(marks.values()) or not (base.plan and other.plan):
            visible.add(other.label)
    return [
        _part(
            a,
            f"{anchor}-n{i}",
            found.get(a.label),
            marks.get(a.label, {}),
            drawn=a.label in visible,
        )
        for i, a in enumerate(own)
    ]


def _part(
    shown: RunArtifacts,
    name: str,
    found: Differences | None,
    marks: Mapping[str, str],
    *,
    drawn: bool,
) -> RunSection:
    picture = shown.reconstructions
    judged = shown.judged[0] if shown.judged else shown.seed
    named = shown.run.record.dataset.class_name
    return RunSection(
        label=clean(shown.label),
        architecture=architecture(shown, name, marks),
        drawn=drawn,
        changes=_changes(found.lines) if found else None,
        kernels=[kernels_plate(shown, kernels) for kernels in shown.kernels],
        matrix=matrix(shown),
        mistakes=[mistake_plate(mistake, named) for mistake in shown.mistakes],
        reconstructions=reconstructions_plate(shown, picture) if picture else None,
        latent=latent_plate(shown, shown.latent) if shown.latent else None,
        worst=worst_plate(shown, shown.worst) if shown.worst else None,
        source=shown.loaded.text.decode("utf-8", "replace") if shown.loaded else "",
        judged=f"{len(shown.judged)} seeds" if shown.judged[1:] else f"seed {judged}",
        remarks=shown.remarks,
    )


def _loaded(artifacts: RunArtifacts) -> Loaded:
    assert artifacts.loaded is not None
    return artifacts.loaded


def _changes(lines: Sequence[str]) -> list[tuple[str, str]]:
    """The kind of each line of a diff, and the line."""
    kinds = {mark: look.name for mark, look in STYLES.items()}
    return [(kinds.get(line[0], ""), line) for line in lines] or [("", "no differences")]


def curves_grid(curves: Sequence[Curve], comparison: Comparison) -> HtmlTable:
    """Learning curves as a table."""
    metric = course_metric(comparison)
    rows, times = [], [s for curve in curves for s in curve.time_s or ()]
    for curve in curves:
        for number, value in enumerate(curve.values):
            spent = seconds_text(curve.time_s[number], others=times) if curve.time_s else ""
            numbers = (metric_text(metric, v) for v in (value.mean, *ends(value)))
            rows.append((curve.label, str(number + 1), *numbers, spent))
    headers = ("Network", "Epoch", "Mean", "Lowest seed", "Highest seed", "Training time")
    return HtmlTable(course_title(comparison), headers, rows)


def costs_grid(comparison: Comparison) -> HtmlTable:
    """Cost charts as a table."""
    last = last_rows(comparison)
    times = [row.train_s.mean for row in last]
    rows = [
        (
            clean(row.label),
            *(metric_text(comparison.metric, v) for v in (row.value.mean, *ends(row.value))),
            seconds_text(row.train_s.mean, others=times),
            count_text(row.num_params),
        )
        for row in last
    ]
    headers = ("Network", "Mean", "Lowest seed", "Highest seed", "Time per epoch", "Parameters")
    caption = f"{heading(comparison.shown_metric)} {comparison.end}, and its cost"
    return HtmlTable(caption, headers, rows)


def calibration_grid(shown: Shown) -> HtmlTable:
    """The reliability diagram as a table, a row for each bin with images."""
    rows = [
        (
            clean(curve.label),
            metric_text("accuracy", confidence / images),
            metric_text("accuracy", correct / images),
            f"{images:,}",
        )
        for curve, bins in zip(shown.curves, shown.calibration, strict=True)
        for images, confidence, correct in zip(*(bins or ((), (), ())), strict=True)
        if images
    ]
    headers = ("Network", "Mean confidence", "Accuracy", "Test images of all seeds")
    return HtmlTable("Accuracy by confidence", headers, rows)


def differences_grid(comparison: Comparison) -> HtmlTable:
    """Differences from the baseline by seed."""
    rows = [
        (clean(verdict.label), clean(verdict.baseline), str(seed), size(verdict.metric, value))
        for verdict in comparison.verdicts
        for seed, value in zip(verdict.seeds, verdict.differences, strict=True)
    ]
    headers = ("Network", "Baseline", "Seed", "Difference")
    metric = comparison.verdicts[0].metric
    return HtmlTable(f"Difference in {words(metric)} by seed", headers, rows)


def seeds_grid(runs: Sequence[tuple[str, RunResult]], metric: str) -> HtmlTable:
    """Results of each seed."""
    ended = [(label, seed) for label, run in runs if run.summary for seed in run.summary.seeds]
    times = [seed.train_s for _, seed in ended]
    machines = {machine_text(seed.machine) for _, seed in ended if seed.machine}
    several = len(machines) > 1
    rows = [
        (
            clean(label),
            str(seed.seed),
            *_validation_cells(seed, metric),
            metric_text(metric, seed.test[metric]),
            seconds_text(seed.train_s, others=times),
            *[machine_text(seed.machine) if seed.machine else "unknown"] * several,
        )
        for label, seed in ended
    ]
    chosen = any(seed.chosen_epoch for _, seed in ended)
    name = "Last or chosen epoch" if chosen else "Last epoch"
    validation = (name, "Best (epoch)") if any(s.final for _, s in ended) else ()
    headers = ("Network", "Seed", *validation, "Test", "Training time", *["Machine"] * several)
    return HtmlTable(f"{heading(metric)} by seed", headers, rows)


def _validation_cells(seed: SeedSummary, metric: str) -> tuple[str, ...]:
    """The last and the best epoch of a seed; empty without validation images."""
    if not seed.final:
        return ()
    best = seed.best[metric]
    last = metric_text(metric, seed.final[metric])
    return last, f"{metric_text(metric, best.value)} ({best.epoch})"


def architecture(shown: RunArtifacts, name: str, marks: Mapping[str, str]) -> Drawing | None:
    """The network as a drawing and as a table; None if it cannot be read.

    Args:
      shown: its run.
      name: prefix of the ids in the drawing.
      marks: of layers that differ from another network's, as in `spec.diff`.
    """
    network = shown.plan or shown.outline
    if network is None:
        return None
    if shown.plan:
        drawn, of = diagram(shown.plan, marks), "layers"
        layers = [layer_cells(node) for node in shown.plan.nodes]
    elif shown.outline:
        drawn, of = outline_diagram(shown.outline), "submodules"
        layers = [part_cells(part) for part in shown.outline.parts]
    label = clean(shown.label)
    chain = "; ".join(f"{c[0]}: {c[1]} of {c[2]}, output {c[3]}" for c in layers)
    alt = f"{label}: input {shape_text(network.input_shape)}; {chain}."
    svg = inline_svg(diagram_picture([("", drawn)], "svg"), name, alt, 0.72)
    caption = f"{label}: {len(layers)} {of}, {network.num_params:,} parameters"
    headers = ("Layer", "Operation", "Inputs", "Output", "Parameters", "Multiply-adds")
    return Drawing(svg, caption, HtmlTable(f"Layers of {label}", headers, layers))


def kernels_plate(shown: RunArtifacts, kernels: "Kernels") -> Plate:
    """Kernels of one layer."""
    picture, largest = kernel_sheet(kernels.images)
    count, height, width, channels = kernels.images.shape
    some = f"first {count} of {kernels.total}" if count < kernels.total else str(count)
    caption = f"{clean(shown.label)}, {kernels.layer}: {some} kernels ({height}x{width})"
    caption += f", seed {shown.seed}"
    low, high = float(kernels.images.min()), float(kernels.images.max())
    weights = f"weights from {low:.2g} to {high:.2g}"
    scale = "in color" if channels == 3 else f"blue is {-largest:.2g}, white 0, red {largest:.2g}"
    alt = f"{caption}, {weights}; {scale}."
    return Plate(picture.uri, picture.width, picture.height, alt, caption)


def mistake_plate(mistake: "Mistake", name: Callable[[int], str] = str) -> MistakePlate:
    """A misclassified image.

    Args:
      mistake: the image, its label and its prediction.
      name: name of a class by its label.
    """
    picture = photograph(mistake.image)
    label, answer = name(mistake.label), name(mistake.answer)
    alt = f"Test image {mistake.number} of class {label}, predicted as class {answer}"
    scale = max(1, 56 // picture.width)
    size = scale * picture.width, scale * picture.height
    details = [f"p = {100 * mistake.probability:.1f}%", f"loss {mistake.loss:.2f}"]
    if mistake.seeds > 1:
        details.append(f"{mistake.wrong}/{mistake.seeds} seeds")
    return MistakePlate(picture.uri, *size, alt, f"{label} \N{RIGHTWARDS ARROW} {answer}", details)


def reconstructions_plate(shown: RunArtifacts, content: bytes) -> Plate:
    """Inputs above outputs, as the run saved them."""
    picture, summary = read_png(content), shown.run.summary
    tests = [seed.test["loss"] for seed in summary.seeds] if summary else []
    loss = f" Test loss {metric_text('loss', tests[0])} (first seed)." if tests else ""
    caption = f"{clean(shown.label)}: test images (top) and their reconstructions (bottom)."
    alt = f"Two rows of images. {caption}{loss}"
    return Plate(picture.uri, picture.width, picture.height, alt, caption + loss)


def tuning_plates(own: Sequence[RunArtifacts]) -> list[Plate]:
    """The trials of `run --tune`, once for all runs that they chose."""
    labels: dict[bytes, list[str]] = {}
    for shown in own:
        if shown.tuning:
            labels.setdefault(shown.tuning, []).append(clean(shown.label))
    return [_tuning_plate(content, names) for content, names in labels.items()]


def _tuning_plate(content: bytes, labels: Sequence[str]) -> Plate:
    picture = read_png(content)
    caption = f"Trials of the tuning before {enumeration(labels)}, and the expected best of k."
    alt = f"Curves of the validation metric by tuned value and by number of trials. {caption}"
    return Plate(picture.uri, picture.width // 2, picture.height // 2, alt, caption)


def worst_plate(shown: RunArtifacts, content: bytes) -> Plate:
    """Test images with the highest loss, as `plots.contact_sheet` draws them."""
    picture, count = read_png(content), len(shown.judged)
    whose = f"mean over {count} seeds" if count > 1 else f"seed {shown.judged[0]}"
    caption = f"{clean(shown.label)}, {whose}: test images with the highest loss."
    alt = f"Images, each above its true and its predicted values. {caption}"
    return Plate(picture.uri, picture.width, picture.height, alt, caption)


def latent_plate(shown: RunArtifacts, content: bytes) -> Plate:
    """The latent space, as `plots.image_grid` draws it."""
    picture = read_png(content)
    caption = f"{clean(shown.label)}, seed {shown.seed}: latent space."
    alt = f"Rows of images, each with a title. {caption}"
    return Plate(picture.uri, picture.width, picture.height, alt, caption)


def matrix(shown: RunArtifacts) -> Matrix | None:
    """The confusion matrix; the more errors in a cell, the darker it is."""
    counts = shown.confusion
    if counts is None:
        return None
    mistakes = counts.copy()
    for number in range(len(counts)):
        mistakes[number, number] = 0
    most = max(1, int(mistakes.max()))
    name = shown.run.record.dataset.class_name
    label, answer = divmod(int(mistakes.argmax()), len(counts))
    wrong, total, seeds = int(mistakes.sum()), int(counts.sum()), len(shown.judged)
    over = f", {seeds} seeds x {total // seeds:,} test images" if seeds > 1 else ""
    summary = f"{wrong:,} of {total:,} predictions are wrong ({100 * wrong / total:.2f}%{over})"
    if wrong:
        times = int(mistakes[label, answer])
        summary += (
            f"; most common: {name(label)} predicted as {name(answer)} ({count_text(times)}x)"
        )
    rows = [
        [(int(n), 0.0 if i == j else n / most) for j, n in enumerate(line)]
        for i, line in enumerate(counts)
    ]
    recalls = [
        metric_text("accuracy", line[i] / line.sum(), 1) if line.any() else ""
        for i, line in enumerate(counts)
    ]
    return Matrix(f"{summary}.", [name(number) for number in range(len(counts))], rows, recalls)


def environment_grid(runs: Sequence[tuple[str, RunResult]]) -> HtmlTable:
    """Hardware, versions and commands, a column for each run."""
    facts = [_facts(run) for _, run in runs]
    rows = [(name, *(fact[name] for fact in facts)) for name in facts[0]]
    headers = ("Run", *(clean(label) for label, _ in runs))
    return HtmlTable("Environment", headers, rows)


def _engine_text(engine: EngineRecord) -> str:
    """The form of an engine, the value of `--engine`, and why `auto` chose it."""
    reason = f"; {engine.reason}" if engine.reason else ""
    return f"{engine.form} (requested: {engine.requested}{reason})"


def _cpus_text(env: Environment) -> str:
    """Number of CPUs of a run, and which they were if it was restricted to some."""
    names = enumeration([str(core) for core in env.cores])
    return f"{env.num_cpus} (only {names})" if env.cores else str(env.num_cpus)


def _facts(run: RunResult) -> dict[str, str]:
    record, env = run.record, run.record.environment
    packages = ("cnnbench", "python", "jax", "jaxlib", "flax", "optax", "numpy")
    commit = (
        f"{env.commit[:12]}{' with uncommitted changes' if env.dirty else ''}"
        if env.commit
        else "none"
    )
    engine, timing = record.engine, record.timing
    return {
        "Folder": f"{record.name}/{record.run_id}",
        "Started": f"{record.started_at:%Y-%m-%d %H:%M} UTC",
        "Training": f"{record.epochs_text}, batch size {record.batch_size:,}",
        "Seeds": ", ".join(map(str, record.seeds)),
        "Processor": clean(env.processor),
        "CPUs": _cpus_text(env),
        "Device": clean(f"{env.num_devices} x {env.device} ({env.device_kind})"),
        "System": clean(env.platform),
        "Engine": _engine_text(engine) if engine else "unknown",
        "Compilation": seconds_text(timing.compile_s) if timing else "unknown",
        "Total time": seconds_text(timing.total_s) if timing else "unknown",
        "Versions": ", ".join(f"{name} {getattr(env, name)}" for name in packages),
        "Git commit": commit,
        "Command": commands.command_line(record.command),
        "Data digest": record.dataset.digest.removeprefix("sha256:")[:16],
    }
