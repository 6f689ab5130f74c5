"""Rules that tie one part of an experiment to another."""

import re
from collections.abc import Iterator
from pathlib import Path

from cnnbench.catalog import DatasetInfo, describe
from cnnbench.errors import DataError, Flaw, listing
from cnnbench.layers import INPUT
from cnnbench.optimizers import Cosine
from cnnbench.shapes import shape_text
from cnnbench.spec import LOSSES, METRICS, NAME_PATTERN, Experiment

RESERVED_NAMES = (INPUT, "layers", "output", "python", "args")
_PYTHON_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def experiment_flaws(
    experiment: Experiment, info: DatasetInfo, data_dir: Path | None
) -> list[Flaw]:
    """Everything in an experiment that contradicts another part of it.

    Args:
      experiment: valid value by value.
      info: what is known of its dataset.
      data_dir: where datasets outside the built-in table are looked up.
    """
    return [
        *_model_flaws(experiment),
        *_training_flaws(experiment, info),
        *_dataset_flaws(experiment, info),
        *_offline_flaws(experiment, info, data_dir),
    ]


def _model_flaws(experiment: Experiment) -> Iterator[Flaw]:
    model = experiment.model
    if bool(model.layers) == bool(model.python):
        both = "both layers and python" if model.layers else "neither layers nor python"
        yield Flaw(("model",), f"the model has {both}", "write one of the two")
    if model.python and not _PYTHON_CLASS.fullmatch(model.python):
        message = f"'{model.python}' does not name a class"
        yield Flaw(("model", "python"), message, "write package.module:Class")
    if model.args and not model.python:
        yield Flaw(("model", "args"), "args belong to a Python model", "remove them")
    for name in model.layers:
        at = ("model", "layers", name)
        if name in RESERVED_NAMES:
            meaning = "the image" if name == INPUT else "a key of model"
            yield Flaw(at, f"'{name}' is the name of {meaning}", "choose another name")
        elif not re.fullmatch(NAME_PATTERN, name):
            remedy = "start with a letter and use letters, digits, '-' and '_'"
            yield Flaw(at, f"'{name}' cannot name a layer", remedy)


def _training_flaws(experiment: Experiment, info: DatasetInfo) -> Iterator[Flaw]:
    train, task = experiment.train, experiment.task
    if train.loss and train.loss not in LOSSES[task]:
        message = f"'{train.loss}' is no loss for task: {task}"
        yield Flaw(("train", "loss"), message, f"write {listing(LOSSES[task])}")
    for i, metric in enumerate(train.metrics or ()):
        if metric not in METRICS[task]:
            message = f"'{metric}' is no metric for task: {task}"
            yield Flaw(("train", "metrics", i), message, f"write {listing(METRICS[task])}")
        elif metric == "top5_accuracy" and info.num_classes <= 5:
            message = f"top5_accuracy is always 1 with {info.num_classes} classes"
            yield Flaw(("train", "metrics", i), message, "remove it")
    schedule = train.schedule
    if isinstance(schedule, Cosine) and schedule.warmup_epochs >= train.epochs:
        at = ("train", "schedule", "warmup_epochs")
        message = f"a warm-up of {schedule.warmup_epochs:g} epochs fills all {train.epochs}"
        yield Flaw(at, message, f"write a number below {train.epochs}")


def _dataset_flaws(experiment: Experiment, info: DatasetInfo) -> Iterator[Flaw]:
    spec = experiment.dataset
    splits = spec.splits
    at = ("dataset", "splits")
    used = (splits.train or 1) + (splits.validation or 1)
    if info.num_train and used > info.num_train:
        message = (
            f"train and validation need {used:,} images, and {info.name} has {info.num_train:,}"
        )
        yield Flaw(at, message, "write smaller splits, or leave them out")
    if splits.test and info.num_test and splits.test > info.num_test:
        message = f"{splits.test:,} are more than the {info.num_test:,} test images of {info.name}"
        yield Flaw((*at, "test"), message, f"write at most {info.num_test}")
    if spec.train_examples and splits.train and spec.train_examples > splits.train:
        message = f"{spec.train_examples:,} are more than the {splits.train:,} training images"
        yield Flaw(("dataset", "train_examples"), message, f"write at most {splits.train}")


def _offline_flaws(
    experiment: Experiment, info: DatasetInfo, data_dir: Path | None
) -> Iterator[Flaw]:
    name = experiment.dataset.offline
    if name is None:
        return
    at = ("dataset", "offline")
    try:
        stand_in = describe(name, data_dir)
    except DataError as error:
        message, _, remedy = str(error).rstrip(".").partition("; ")
        yield Flaw(at, message, remedy)
        return
    if (stand_in.shape, stand_in.num_classes) != (info.shape, info.num_classes):
        message = (
            f"{name} ({shape_text(stand_in.shape)}, {stand_in.num_classes} classes) cannot stand in"
            f" for {info.name} ({shape_text(info.shape)}, {info.num_classes} classes)"
        )
        yield Flaw(at, message, "name a dataset of the same shape and classes, or remove it")
