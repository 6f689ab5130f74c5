"""Comparisons as one HTML page that needs no other file and runs no script."""

import textwrap
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

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
from cnnbench.comparisons.verdict import Verdict
from cnnbench.comparisons.verdict_text import sentence, size
from cnnbench.formatting import clean, count_text, enumeration, epochs_text, seconds_text
from cnnbench.layers.base import shape_text
from cnnbench.report.comparison import cost_grid, every_verdict, grid, notes, warning_lines
from cnnbench.report.layer_table import layer_cells, part_cells
from cnnbench.report.plots import charts
from cnnbench.report.plots.charts import Chart, Shown
from cnnbench.report.plots.diagram import diagram, outline_diagram
from cnnbench.report.plots.diagram_picture import diagram_picture
from cnnbench.report.plots.png import kernel_sheet, photograph, read_png
from cnnbench.report.plots.svg import inline_svg
from cnnbench.report.run_artifacts import RunArtifacts
from cnnbench.runs.records import RunResult, SeedSummary
from cnnbench.spec.diff import differences
from cnnbench.spec.metrics import heading, metric_text, words
from cnnbench.system import commands

if TYPE_CHECKING:
    from cnnbench.analysis.confusion import Kernels, Mistake


class HtmlTable(NamedTuple):
    """A table: what it shows, its headers, its lines; the first cell of a line is its header."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


class Plate(NamedTuple):
    """A picture of pixels: its address, its size on the page, its words, its caption."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str


class Drawing(NamedTuple):
    """A drawn picture: the `svg` element, its caption, the table behind it."""

    svg: str
    caption: str
    grid: HtmlTable | None = None


class Matrix(NamedTuple):
    """A confusion matrix: a sentence on it, and the shade (0 to 1) and count of each cell."""

    summary: str
    classes: Sequence[str]
    rows: Sequence[Sequence[tuple[int, float]]]


class RunSection(NamedTuple):
    """Section of the page on one run: pictures, mistakes, its file, what is missing.

    `changes` is what sets it apart from the first network that is drawn; None for that one.
    """

    label: str
    architecture: Drawing | None
    changes: Sequence[str] | None
    kernels: Sequence[Plate]
    matrix: Matrix | None
    mistakes: Sequence[Plate]
    reconstructions: Plate | None
    latent: Plate | None
    source: str
    judged: str
    remarks: Sequence[str]


class Pictures(NamedTuple):
    """The pictures of a comparison and the tables behind them."""

    differences: Drawing | None
    curves: Sequence[Drawing]
    curves_grid: HtmlTable
    costs: Sequence[Drawing]
    costs_grid: HtmlTable
    bands: str
    parts: Sequence[RunSection]
    seeds: HtmlTable
    environment: HtmlTable


class Section(NamedTuple):
    """One comparison on the page; `verdicts` are findings and sentences."""

    anchor: str
    heading: str
    verdicts: Sequence[tuple[str, str]]
    table: HtmlTable
    expenses: HtmlTable | None
    remarks: Sequence[str]
    doubts: Sequence[str]
    notes: Sequence[str]
    contradictions: Sequence[str]
    pictures: Pictures | None = None


def table_page(comparisons: Sequence[Comparison]) -> str:
    """Verdicts and tables.

    Args:
      comparisons: at least one.
    """
    return _render([_section(comparison, number) for number, comparison in enumerate(comparisons)])


def report_page(
    comparisons: Sequence[Comparison], runs: Sequence[RunResult], artifacts: Sequence[RunArtifacts]
) -> str:
    """Verdicts, tables, charts, and what there is to see of every run.

    Runs that stand beside others come first.

    Args:
      comparisons: at least one.
      runs: what they are made of.
      artifacts: of every run.
    """
    sections = []
    ordered = sorted(comparisons, key=lambda comparison: not comparison.verdicts)
    for number, comparison in enumerate(ordered):
        section = _section(comparison, number)
        pictures = _pictures(section.anchor, comparison, runs, artifacts)
        sections.append(section._replace(pictures=pictures))
    return _render(sections)


def _render(sections: Sequence[Section]) -> str:
    import jinja2

    from cnnbench._version import __version__

    def read(name: str) -> str:
        return (files("cnnbench.report") / "templates" / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,  # titles come from users' files
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = "; ".join(section.heading for section in sections)
    return environment.get_template("report.html.j2").render(
        title=textwrap.shorten(title, 120, placeholder=" ..."),
        sections=sections,
        version=__version__,
    )


def _section(comparison: Comparison, number: int) -> Section:
    headers, *rows = grid(comparison, wide=True)
    doubts = warning_lines(comparison)
    expenses = (found[0], found[1:]) if (found := cost_grid(comparison)) else None
    labels = [clean(row.label) for row in last_rows(comparison)]
    some = f"{len(labels)} networks" if len(labels) > 3 else enumeration(labels)
    metric = heading(comparison.shown_metric)
    return Section(
        anchor=f"c{number + 1}",
        heading=f"{some} on {comparison.dataset.name}",
        verdicts=_verdicts(comparison),
        table=HtmlTable(f"{metric} and time", headers, rows),
        expenses=HtmlTable("Costs", *expenses) if expenses else None,
        remarks=[clean(remark) for remark in comparison.remarks],
        doubts=doubts,
        notes=[note for note in notes(comparison, wide=True) if note not in doubts],
        contradictions=[*map(clean, comparison.contradictions)],
    )


def _verdicts(comparison: Comparison) -> list[tuple[str, str]]:
    """What was found, in a word or two, and its sentence."""
    if judged := every_verdict(comparison):
        return [(verdict.finding.value, sentence(verdict)) for verdict in judged]
    row = last_rows(comparison)[0]
    value = metric_text(comparison.metric, row.value.mean)
    reached = f"{clean(row.label)} reaches {words(comparison.shown_metric)} {value}"
    return [
        (
            "one run",
            f"{reached} after {epochs_text(row.epoch)}; there is nothing to judge it beside.",
        )
    ]


def _pictures(
    anchor: str,
    comparison: Comparison,
    runs: Sequence[RunResult],
    artifacts: Sequence[RunArtifacts],
) -> Pictures:
    shown = Shown(comparison, curves(comparison, runs))
    drawings = {chart: _chart(chart, shown, anchor) for chart in shown.charts()}
    labelled = [(row.label, run) for row, run in runs_of(comparison, runs)]
    known = {(e.label, e.run.record.name, e.run.record.run_id): e for e in artifacts}
    own = [known[label, run.record.name, run.record.run_id] for label, run in labelled]
    return Pictures(
        differences=drawings.get(Chart.DIFFERENCES),
        curves=[drawings[c] for c in (Chart.EPOCHS, Chart.TIME) if c in drawings],
        curves_grid=curves_grid(shown.curves, comparison),
        costs=[drawings[c] for c in (Chart.EPOCH_COST, Chart.PARAMETERS) if c in drawings],
        costs_grid=costs_grid(comparison),
        bands=bands_text(shown.curves),
        parts=_parts(own, anchor, comparison),
        seeds=seeds_grid(labelled, comparison.metric),
        environment=environment_grid(labelled),
    )


def _chart(chart: Chart, shown: Shown, anchor: str) -> Drawing:
    name = f"{anchor}-{chart.name.lower().replace('_', '-')}"
    svg = inline_svg(charts.picture([chart], shown, "svg"), name, _words_of(chart, shown), 1.2)
    if chart is Chart.DIFFERENCES:
        return Drawing(svg, chart.value, differences_grid(shown.comparison))
    return Drawing(svg, chart.value)


def _words_of(chart: Chart, shown: Shown) -> str:
    """What a chart shows."""
    match chart:
        case Chart.EPOCHS | Chart.TIME:
            return curves_text(shown.curves, shown.comparison, by_time=chart is Chart.TIME)
        case Chart.EPOCH_COST | Chart.PARAMETERS:
            return costs_text(shown.comparison, by_time=chart is Chart.EPOCH_COST)
        case Chart.DIFFERENCES:
            return " ".join(map(_differences_text, shown.comparison.verdicts))


def _differences_text(verdict: Verdict) -> str:
    each = [size(verdict.metric, difference).split()[0] for difference in verdict.differences]
    seeds = f"seed by seed {enumeration(each)}" if each else "no seed in common"
    mean = size(verdict.metric, verdict.difference)
    pair = f"{clean(verdict.label)} minus {clean(verdict.baseline)}"
    return f"{pair}: {words(verdict.metric)} {mean} in the mean, {seeds}."


def _parts(own: Sequence[RunArtifacts], anchor: str, comparison: Comparison) -> list[RunSection]:
    """The baseline's network is drawn; of the others it is said what differs from it."""
    baseline = comparison.verdicts[0].baseline if comparison.verdicts else None
    drawn = sorted((e for e in own if e.loaded), key=lambda e: e.label != baseline)
    base = drawn[0] if drawn else None
    return [_part(e, f"{anchor}-n{i}", base) for i, e in enumerate(own)]


def _part(shown: RunArtifacts, name: str, base: RunArtifacts | None) -> RunSection:
    picture, found = shown.reconstructions, None
    if base and base.loaded and shown.loaded and shown is not base:
        found = differences(base.loaded, shown.loaded)
    marks = found.marks if found else {}
    judged = shown.judged[0] if shown.judged else shown.seed
    return RunSection(
        label=clean(shown.label),
        architecture=architecture(shown, name, marks),
        changes=(found.lines or ("nothing",)) if found else None,
        kernels=[kernels_plate(shown, kernels) for kernels in shown.kernels],
        matrix=matrix(shown),
        mistakes=[mistake_plate(mistake) for mistake in shown.mistakes],
        reconstructions=reconstructions_plate(shown, picture) if picture else None,
        latent=latent_plate(shown, shown.latent) if shown.latent else None,
        source=shown.loaded.text.decode("utf-8", "replace") if shown.loaded else "",
        judged=f"{len(shown.judged)} seeds" if shown.judged[1:] else f"seed {judged}",
        remarks=shown.remarks,
    )


def curves_grid(curves: Sequence[Curve], comparison: Comparison) -> HtmlTable:
    """Every point of learning curves."""
    metric = course_metric(comparison)
    rows, times = [], [s for curve in curves for s in curve.time_s or ()]
    for curve in curves:
        for number, value in enumerate(curve.values):
            spent = seconds_text(curve.time_s[number], beside=times) if curve.time_s else ""
            numbers = (metric_text(metric, v) for v in (value.mean, *ends(value)))
            rows.append((curve.label, str(number + 1), *numbers, spent))
    headers = ("Type", "Epoch", "Mean", "Lowest seed", "Highest seed", "Training so far")
    return HtmlTable(course_title(comparison), headers, rows)


def costs_grid(comparison: Comparison) -> HtmlTable:
    """Every mark of the charts of costs."""
    last = last_rows(comparison)
    times = [row.train_s.mean for row in last]
    rows = [
        (
            clean(row.label),
            *(metric_text(comparison.metric, v) for v in (row.value.mean, *ends(row.value))),
            seconds_text(row.train_s.mean, beside=times),
            count_text(row.num_params),
        )
        for row in last
    ]
    headers = (
        "Type",
        "Mean",
        "Lowest seed",
        "Highest seed",
        "Time of the last epoch",
        "Parameters",
    )
    caption = f"{heading(comparison.shown_metric)} after the last epoch, and what it costs"
    return HtmlTable(caption, headers, rows)


def differences_grid(comparison: Comparison) -> HtmlTable:
    """Every seed's difference."""
    rows = [
        (clean(verdict.label), clean(verdict.baseline), str(seed), size(verdict.metric, value))
        for verdict in comparison.verdicts
        for seed, value in zip(verdict.seeds, verdict.differences, strict=True)
    ]
    headers = ("Type", "Beside", "Seed", "Difference")
    metric = comparison.verdicts[0].metric
    return HtmlTable(f"Differences of {words(metric)}, by seed", headers, rows)


def seeds_grid(runs: Sequence[tuple[str, RunResult]], metric: str) -> HtmlTable:
    """How every seed ended."""
    ended = [(label, seed) for label, run in runs if run.summary for seed in run.summary.seeds]
    times = [seed.train_s for _, seed in ended]
    rows = [
        (
            clean(label),
            str(seed.seed),
            *_validation_cells(seed, metric),
            metric_text(metric, seed.test[metric]),
            seconds_text(seed.train_s, beside=times),
        )
        for label, seed in ended
    ]
    validation = ("Last epoch", "Best (epoch)") if any(s.final for _, s in ended) else ()
    headers = ("Type", "Seed", *validation, "Test", "Training, all epochs")
    return HtmlTable(f"{heading(metric)} of every seed", headers, rows)


def _validation_cells(seed: SeedSummary, metric: str) -> tuple[str, ...]:
    """The last and the best epoch of a seed; none without validation images."""
    if not seed.final:
        return ()
    best = seed.best[metric]
    return metric_text(
        metric, seed.final[metric]
    ), f"{metric_text(metric, best.value)} ({best.epoch})"


def architecture(shown: RunArtifacts, name: str, marks: Mapping[str, str]) -> Drawing | None:
    """The network as a drawing, and as a table; None where it could not be read.

    Args:
      shown: its run.
      name: begins the ids of the drawing.
      marks: of layers that differ from the first network's.
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
    chain = "; ".join(f"{c[0]} reads {c[2]}: {c[1]}, gives {c[3]}" for c in layers)
    alt = f"{label}: an image of {shape_text(network.input_shape)} goes in. {chain}."
    svg = inline_svg(diagram_picture([("", drawn)], "svg"), name, alt, 0.66)
    caption = f"{label}: {len(layers)} {of}, {network.num_params:,} parameters"
    headers = ("Layer", "Operation", "Inputs", "Output", "Parameters", "Multiply-adds")
    return Drawing(svg, caption, HtmlTable(f"Layers of {label}", headers, layers))


def kernels_plate(shown: RunArtifacts, kernels: "Kernels") -> Plate:
    """The kernels of one layer."""
    picture, largest = kernel_sheet(kernels.images)
    count, height, width, channels = kernels.images.shape
    some = f"the first {count} of {kernels.total}" if count < kernels.total else f"all {count}"
    caption = f"{clean(shown.label)}, {kernels.layer}: {some} kernels of {height}x{width}"
    caption += f", seed {shown.seed}"
    low, high = float(kernels.images.min()), float(kernels.images.max())
    weights = f"weights from {low:.2g} to {high:.2g}"
    scale = "in colour" if channels == 3 else f"blue is {-largest:.2g}, white 0, red {largest:.2g}"
    alt = f"{caption}, {weights}; {scale}."
    return Plate(picture.uri, picture.width, picture.height, alt, f"{caption}; {scale}.")


def mistake_plate(mistake: "Mistake") -> Plate:
    """One image that the network gets wrong."""
    picture = photograph(mistake.image)
    caption = f"{mistake.label}, taken for {mistake.answer}"
    alt = f"Test image {mistake.number} of class {mistake.label}"
    scale = max(1, 56 // picture.width)
    votes = f"{mistake.wrong} of {mistake.seeds} seeds, " if mistake.seeds > 1 else ""
    detail = f"{votes}{100 * mistake.probability:.1f}%, loss {mistake.loss:.2f}"
    size = scale * picture.width, scale * picture.height
    return Plate(picture.uri, *size, alt, f"{caption} ({detail})")


def reconstructions_plate(shown: RunArtifacts, content: bytes) -> Plate:
    """Inputs above outputs, as the run wrote them."""
    picture, summary = read_png(content), shown.run.summary
    tests = [seed.test["loss"] for seed in summary.seeds] if summary else []
    loss = f" Test loss {metric_text('loss', tests[0])} (first seed)." if tests else ""
    caption = f"{clean(shown.label)}: test images above, what the network makes of them below."
    alt = f"Two lines of images. {caption}{loss}"
    return Plate(picture.uri, picture.width, picture.height, alt, caption + loss)


def latent_plate(shown: RunArtifacts, content: bytes) -> Plate:
    """What the code can do, as `plots.image_grid` draws it."""
    picture = read_png(content)
    caption = f"{clean(shown.label)}, seed {shown.seed}: what its code can do."
    alt = f"Lines of images, each with its title. {caption}"
    return Plate(picture.uri, picture.width, picture.height, alt, caption)


def matrix(shown: RunArtifacts) -> Matrix | None:
    """The confusion matrix; cells of mistakes are the darker the more there are."""
    counts = shown.confusion
    if counts is None:
        return None
    mistakes = counts.copy()
    for number in range(len(counts)):
        mistakes[number, number] = 0
    most = max(1, int(mistakes.max()))
    label, answer = divmod(int(mistakes.argmax()), len(counts))
    wrong, total, seeds = int(mistakes.sum()), int(counts.sum()), len(shown.judged)
    of = f"{seeds} seeds, {total // seeds:,} test images each" if seeds > 1 else f"{total:,} images"
    summary = f"{wrong:,} of {total:,} answers are wrong ({100 * wrong / total:.2f}%; {of})"
    if wrong:
        times = int(mistakes[label, answer])
        summary += f", most often {label} taken for {answer}: {times} times"
    rows = [
        [(int(n), 0.0 if i == j else n / most) for j, n in enumerate(line)]
        for i, line in enumerate(counts)
    ]
    return Matrix(f"{summary}.", [str(number) for number in range(len(counts))], rows)


def environment_grid(runs: Sequence[tuple[str, RunResult]]) -> HtmlTable:
    """Machine, versions and commands of every run, a column each."""
    facts = [_facts(run) for _, run in runs]
    rows = [(name, *(fact[name] for fact in facts)) for name in facts[0]]
    headers = ("Run", *(clean(label) for label, _ in runs))
    return HtmlTable("Where and how the runs were made", headers, rows)


def _facts(run: RunResult) -> dict[str, str]:
    record, env = run.record, run.record.environment
    packages = ("cnnbench", "python", "jax", "jaxlib", "flax", "optax", "numpy")
    commit = (
        f"{env.commit[:12]}{' with local changes' if env.dirty else ''}" if env.commit else "none"
    )
    engine, timing = record.engine, record.timing
    return {
        "Folder": f"{record.name}/{record.run_id}",
        "Started": f"{record.started_at:%Y-%m-%d %H:%M} UTC",
        "Training": f"{epochs_text(record.epochs)} in batches of {record.batch_size:,}",
        "Seeds": ", ".join(map(str, record.seeds)),
        "Processor": clean(env.processor),
        "CPUs": str(env.num_cpus),
        "Device": clean(f"{env.num_devices} x {env.device} ({env.device_kind})"),
        "System": clean(env.platform),
        "Engine": f"{engine.form}, asked for {engine.requested}" if engine else "unknown",
        "Compilation": seconds_text(timing.compile_s) if timing else "unknown",
        "Whole run": seconds_text(timing.total_s) if timing else "unknown",
        "Versions": ", ".join(f"{name} {getattr(env, name)}" for name in packages),
        "Git commit": commit,
        "Command": commands.command_line(record.command),
        "Digest of data": record.dataset.digest.removeprefix("sha256:")[:16],
    }
