"""The epoch a seed stops after, and the epoch whose weights are tested and stored."""

import math
from collections.abc import Sequence

from cnnbench.runs.records import Direction, EpochRecord
from cnnbench.runs.summary import best_value
from cnnbench.spec.experiment import TrainSpec
from cnnbench.spec.metrics import higher_is_better


def selects(train: TrainSpec) -> bool:
    """True if the validation images decide on the last or on the chosen epoch."""
    return bool(train.early_stopping or train.restore_best)


def is_stopped(train: TrainSpec, epochs: Sequence[EpochRecord]) -> bool:
    """True if a seed has stopped early, by the rule of Keras and PyTorch Lightning.

    A value counts as an improvement if it is better than the last improvement by more than
    `min_delta`.

    Args:
      train: the training settings.
      epochs: records of the seed so far, in order.
    """
    rule = train.early_stopping
    if rule is None:
        return False
    sign = 1 if higher_is_better(rule.metric) else -1
    best, waited = -math.inf, 0
    for epoch in epochs:
        value = sign * epoch.validation(rule.metric)
        if value > best + rule.min_delta:
            best, waited = value, 0
        else:
            waited += 1
    return waited >= rule.patience


def is_active(train: TrainSpec, epochs: Sequence[EpochRecord]) -> bool:
    """True unless the seed has diverged or stopped early."""
    return not epochs or (epochs[-1].finite and not is_stopped(train, epochs))


def chosen_epoch(train: TrainSpec, epochs: Sequence[EpochRecord]) -> int:
    """The epoch whose weights are tested and stored: the last or, with `restore_best`, the best.

    The first of equal ones is the best. The weights of a diverged seed are its last.

    Args:
      train: the training settings.
      epochs: at least one record of the seed so far, in order.
    """
    if train.restore_best is None or not epochs[-1].finite:
        return epochs[-1].epoch
    higher = higher_is_better(train.restore_best)
    direction = Direction.HIGHER if higher else Direction.LOWER
    return best_value(epochs, train.restore_best, direction).epoch
