"""Runs that reconstruct, judged by what their code is worth to a linear classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cnnbench.compare.comparability import Finished
from cnnbench.compare.statistics import Estimate, estimate
from cnnbench.compare.verdict import ANY, Arm, Criteria, Verdict, judge

CODE = "code_accuracy"


def code_estimate(run: Finished) -> Estimate | None:
    """The accuracy over seeds; None where there is no code."""
    values = _values(run)
    return estimate(values.values()) if values else None


def code_verdicts(
    runs: Sequence[Finished], samples: Sequence[Arm], rules: Criteria
) -> tuple[Verdict, ...]:
    """A verdict for each run but the baseline; none where one of them has no code.

    Args:
      runs: those that stand side by side.
      samples: what else each of them is judged by.
      rules: how; a least effect in the unit of a loss means nothing here.
    """
    values = list(map(_values, runs))
    if not all(values):
        return ()
    codes = [
        sample._replace(values=own, epoch_s={}) for sample, own in zip(samples, values, strict=True)
    ]
    effect = rules.min_effect if rules.min_effect.kind == "relative" else ANY
    return judge(codes, CODE, replace(rules, min_effect=effect), higher=True)


def _values(run: Finished) -> Mapping[int, float]:
    """By seed; empty unless all are known."""
    known = {
        seed.seed: seed.code_accuracy
        for seed in run.summary.seeds
        if seed.code_accuracy is not None
    }
    return known if len(known) == len(run.summary.seeds) else {}
