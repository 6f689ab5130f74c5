"""`cnnbench.compare`: runs side by side, with a verdict on each."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.api.criteria import require_alpha, require_test
from cnnbench.api.frames import require_pandas
from cnnbench.api.messages import names_parameters, warn_all
from cnnbench.api.notebook import comparisons_html
from cnnbench.api.selection import RunLike, named_runs, number_text, printed, read_runs
from cnnbench.cli.commands.compare import side_by_side
from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.comparison import compare as compare_runs
from cnnbench.comparisons.merge import all_seeds
from cnnbench.comparisons.samples import Pairing
from cnnbench.comparisons.verdict import Criteria, Verdict
from cnnbench.comparisons.verdict_text import parse_effect, sentence
from cnnbench.report.comparison import every_verdict, markdown, terminal_table
from cnnbench.report.csv_json import csv_rows, csv_text, json_text
from cnnbench.report.latex import latex

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class ComparisonResult:
    """Runs side by side; `print` shows what ``cnnbench compare`` prints.

    Errors in runs and criteria are raised by `compare`, before there is a result; of the methods,
    only `to_frame` raises an error (without pandas).

    Args:
      comparison: everything that was computed.
    """

    comparison: Comparison

    @property
    def verdict(self) -> str:
        """The verdict on each run but the baseline, a sentence per line; empty for one run."""
        return "\n".join(map(sentence, self.verdicts))

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts as values: `finding`, `difference`, `interval`, `p` and more."""
        return every_verdict(self.comparison)

    def to_frame(self) -> "pd.DataFrame":
        """Returns the rows of ``--format csv``, unrounded: first and last epoch of each run.

        Raises:
          UsageError: pandas is not installed.
        """
        return require_pandas("to_frame").DataFrame(csv_rows(self.comparison))

    def to_csv(self) -> str:
        """Returns what ``--format csv`` prints."""
        return csv_text([self.comparison])

    def to_json(self) -> str:
        """Returns what ``--format json`` prints."""
        return json_text([self.comparison])

    def to_markdown(self) -> str:
        """Returns what ``--format md`` prints."""
        return markdown([self.comparison], wide=True)

    def to_latex(self) -> str:
        """Returns what ``--format latex`` prints."""
        return latex([self.comparison])

    def __str__(self) -> str:
        return printed([terminal_table([self.comparison], wide=True)])

    def __repr__(self) -> str:
        runs = ", ".join(dict.fromkeys(row.label for row in self.comparison.rows))
        return f"<ComparisonResult: {self.verdict or runs}>"

    def _repr_html_(self) -> str:
        return comparisons_html([self.comparison], wide=True)


@names_parameters()
def compare(  # noqa: PLR0913 - one parameter per option
    *runs: RunLike | Iterable[RunLike],
    baseline: str | None = None,
    metric: str | None = None,
    alpha: float = 0.05,
    min_effect: float | str = 0,
    target: float | str | None = None,
    test: Pairing | None = None,
    anytime: bool = False,
    results_dir: str | Path = "results",
) -> ComparisonResult:
    """Compares runs, as ``cnnbench compare`` does.

    Args:
      *runs: results of `run`, or names, tags, RUN-IDs or folders; by default the newest run of
        each experiment that can be compared.
      baseline: name, title or RUN-ID of the run that the others are compared with; the first by
        default.
      metric: the metric of the verdict, such as ``"loss"`` or ``"test_accuracy"``.
      alpha: significance level.
      min_effect: the smallest difference that matters: a number in the metric's unit, or
        ``"0.1pp"`` (percentage points) or ``"2%"`` (of the baseline).
      target: also report the training time until the metric reaches this value: 0.98 or ``"98%"``.
      test: ``"unpaired"``, a permutation test of the seeds of both runs, or ``"paired"``, a
        sign-flip test of the differences of equal seeds; unpaired by default. Seeds that share
        training images (``folds``, ``by_seed``) have their own test.
      anytime: combine all runs of each experiment, and judge by a test that is valid after any
        number of seeds.
      results_dir: folder of all results.

    Raises:
      UsageError: a run is not found, a criterion is invalid, or the arguments are empty.
      CnnbenchError: a run cannot be read, or the runs cannot be compared.
    """
    require_alpha(alpha)
    require_test(test)
    effect = parse_effect(number_text(min_effect))
    wanted = None if target is None else number_text(target)
    criteria = Criteria(baseline, metric, alpha, effect, wanted, test, anytime)
    folder = Path(results_dir)
    items = named_runs(runs, "call compare() without runs to use the newest ones")
    if items:
        found, texts = read_runs(items, folder)
        found = tuple(all_seeds(found, folder)) if anytime else found
        comparison = compare_runs(found, criteria)
    else:
        (comparison,), selection = side_by_side(None, criteria, folder)
        texts = selection.warnings
    warn_all(texts)
    return ComparisonResult(comparison)
