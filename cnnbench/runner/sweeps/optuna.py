"""Trials proposed by Optuna's TPE sampler from earlier results."""

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cnnbench.errors import UsageError
from cnnbench.runner.sweeps.space import SweepAxis, TrialValues
from cnnbench.spec.sweeps import Range, rounded
from cnnbench.system import commands

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Scored = tuple[TrialValues, float]
"""Values and loss of a finished trial; the loss is infinite if it diverged."""


def require_optuna() -> None:
    """Checks that Optuna is installed, without the slow import.

    Raises:
      UsageError: it is not installed.
    """
    if find_spec("optuna") is None:
        install = commands.pip_install("cnnbench[optuna]")
        message = f"--sampler optuna: Optuna is not installed; run {install}"
        raise UsageError(f"{message}, or remove --sampler.")


def _optuna() -> Any:
    """Optuna, silenced.

    Raises:
      UsageError: it is not installed.
    """
    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def propose(
    axes: Sequence[SweepAxis],
    seeds: Sequence[int],
    finished: Sequence[Scored],
    running: Sequence[TrialValues] = (),
) -> TrialValues:
    """Proposes the next trial.

    The proposal depends only on the arguments, so an interrupted sweep resumes with the same
    proposals: each call makes a new study and adds the finished trials to it.

    Args:
      axes: the keys.
      seeds: sampler seeds, different for each trial.
      finished: finished trials with losses.
      running: unfinished trials, which TPE avoids.

    Raises:
      UsageError: Optuna is not installed.

    References:
      Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011;
      Watanabe, "Tree-structured Parzen estimator", arXiv 2304.11127, 2023.
    """
    import numpy as np

    optuna = _optuna()
    spaces = {axis.key: _distribution(axis) for axis in axes}
    states = optuna.trial.TrialState
    told: list[tuple[TrialValues, float | None, Any]]
    told = [(point, loss, states.COMPLETE) for point, loss in finished]
    told += [(point, None, states.RUNNING) for point in running]
    seed = int(np.random.SeedSequence(list(seeds)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental features of Optuna
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        study = optuna.create_study(sampler=sampler)
        for point, loss, state in told:
            params = {axis.key: _parameter(axis, point[axis.key]) for axis in axes}
            trial = optuna.trial.create_trial(
                state=state, value=loss, params=params, distributions=spaces
            )
            study.add_trial(trial)
        found = study.ask(spaces).params
    return {axis.key: _text(axis, found[axis.key]) for axis in axes}


def _distribution(axis: SweepAxis) -> "BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    values = axis.values
    if not isinstance(values, Range):
        return CategoricalDistribution(values.values)
    if axis.whole:
        return IntDistribution(math.ceil(values.low), math.floor(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _parameter(axis: SweepAxis, text: str) -> str | int | float:
    """Value of a key as an Optuna parameter."""
    values = axis.values
    if not isinstance(values, Range):
        return text
    if axis.whole:
        return int(text)
    return min(values.high, max(values.low, float(text)))  # it was rounded


def _text(axis: SweepAxis, value: str | float) -> str:
    """Value of a key as override text."""
    if isinstance(value, str) or axis.whole:
        return str(value)
    return rounded(value)
