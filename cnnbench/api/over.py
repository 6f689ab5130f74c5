"""`cnnbench.compare_over`: verdicts at several values of a key."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.api.compare import ComparisonResult
from cnnbench.api.criteria import require_alpha, require_test
from cnnbench.api.frames import require_pandas
from cnnbench.api.messages import names_parameters, warn_all
from cnnbench.api.notebook import over_html
from cnnbench.api.requests import over_text
from cnnbench.api.selection import RunLike, named_runs, number_text, printed
from cnnbench.cli.over import read_over
from cnnbench.comparisons.over.points import OverComparison, PointRow
from cnnbench.comparisons.over.points import compare_over as compare_groups
from cnnbench.comparisons.samples import Pairing
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import parse_effect
from cnnbench.errors import UsageError
from cnnbench.report.over.files import csv_over, json_over, over_lines
from cnnbench.report.over.latex import latex_over
from cnnbench.report.over.table import markdown_over, terminal_over
from cnnbench.runs.over import Over, OverRuns, arms_of_folders, find_over, over_of, parse_over
from cnnbench.runs.records import RunResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class OverResult:
    """The same experiments compared at several values of a key.

    Args:
      comparison: everything that was computed.
    """

    comparison: OverComparison

    @property
    def verdict(self) -> str:
        """What the verdicts on each experiment but the baseline say together, a line each."""
        return "\n".join(self.comparison.sentences)

    @property
    def rows(self) -> tuple[PointRow, ...]:
        """A row for each value and experiment but the baseline, with its `verdict`."""
        return self.comparison.rows

    @property
    def results(self) -> dict[str, ComparisonResult]:
        """The comparison at each value; its verdicts are adjusted for all values."""
        own = zip(self.comparison.values, self.comparison.comparisons, strict=True)
        return {value: ComparisonResult(each) for value, each in own}

    def to_frame(self) -> "pd.DataFrame":
        """Returns the rows of ``--format csv``, unrounded.

        Raises:
          UsageError: pandas is not installed.
        """
        return require_pandas("to_frame").DataFrame(over_lines(self.comparison))

    def to_csv(self) -> str:
        """Returns what ``--format csv`` prints."""
        return csv_over(self.comparison)

    def to_json(self) -> str:
        """Returns what ``--format json`` prints."""
        return json_over(self.comparison)

    def to_markdown(self) -> str:
        """Returns what ``--format md`` prints."""
        return markdown_over(self.comparison)

    def to_latex(self) -> str:
        """Returns what ``--format latex`` prints."""
        return latex_over(self.comparison)

    def __str__(self) -> str:
        return printed([terminal_over(self.comparison)])

    def __repr__(self) -> str:
        return f"<OverResult: {self.verdict}>"

    def _repr_html_(self) -> str:
        return over_html(self.comparison)


@names_parameters()
def compare_over(
    *runs: RunLike | Iterable[RunLike],
    over: str | Mapping[str, Iterable[object]],
    baseline: str | None = None,
    metric: str | None = None,
    alpha: float = 0.05,
    min_effect: float | str = 0,
    test: Pairing | None = None,
    results_dir: str | Path = "results",
) -> OverResult:
    """Compares experiments at each value of a key, as ``cnnbench compare --over`` does.

    Args:
      *runs: two or more experiments by name, file, or tag; or results of ``run(..., over=...)``.
      over: the key with its values, ``{"train_examples": [1000, 2000]}`` or
        ``"train_examples=1000,2000"``, or the key alone for all values that the runs have.
      baseline: as in `compare`, and so are the others.
      metric: the metric of the verdicts.
      alpha: significance level of all values together.
      min_effect: the smallest difference that matters.
      test: ``"unpaired"`` or ``"paired"``.
      results_dir: folder of all results.

    Raises:
      UsageError: a run is not found, a criterion is invalid, or the experiments have no such key.
      IncomparableError: a run is missing, or runs cannot be compared.
    """
    require_alpha(alpha)
    require_test(test)
    criteria = Criteria(baseline, metric, alpha, parse_effect(number_text(min_effect)), test=test)
    items = named_runs(runs, "name experiments that were trained")
    wanted = parse_over(over_text(over) or "")
    found = _found(items, wanted, Path(results_dir))
    if len(found.arms) < 2:
        message = "over: compares experiments at each value"
        raise UsageError(f"{message}; name two, or compare the runs of one with compare(runs).")
    groups = read_over(found, wanted, Path(results_dir))
    warn_all(found.warnings)
    return OverResult(compare_groups(found.key, found.values, groups, criteria))


def _found(items: Sequence[RunLike], wanted: Over, results_dir: Path) -> OverRuns:
    """Finds the runs at each value.

    Raises:
      UsageError: results and names are mixed, or results have no folder.
    """
    results = [item for item in items if isinstance(item, RunResult)]
    if not results:
        return find_over([str(item) for item in items], wanted, results_dir)
    paths = [run.path for run in results if run.path]
    if len(paths) != len(items):
        raise UsageError("runs: names and results are mixed; write names only, or results only.")
    return over_of(arms_of_folders(paths), wanted)
