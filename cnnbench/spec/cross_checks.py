"""Checks across sections of an experiment file."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cnnbench.data.adjustments import subset_size
from cnnbench.data.catalog import (
    KNOWN,
    LIST,
    DatasetInfo,
    describe,
    resized_info,
    split_sizes,
)
from cnnbench.data.classes import Classes, ClassRef, label_of, unknown_class
from cnnbench.data.splits import RandomSplit, size_of_validation
from cnnbench.errors import DataError, Issue, did_you_mean, or_list, quoted
from cnnbench.graph.build import use_one_of
from cnnbench.layers import Sample, VectorQuantizer
from cnnbench.layers.base import INPUT, shape_text
from cnnbench.layers.fields import VALUE
from cnnbench.spec.document import KeyPath
from cnnbench.spec.experiment import (
    LAYER_PATTERN,
    LOSSES,
    SOURCES,
    Augment,
    ChannelStatistics,
    DatasetSpec,
    Evaluation,
    LabelNoiseSpec,
    ModelSpec,
    Splits,
    SplitSpec,
    SubsetSpec,
    Task,
    TrainSpec,
    foreign_keys,
)
from cnnbench.spec.metrics import DEFAULT_METRICS, METRICS, names_of
from cnnbench.spec.optimizers import Muon, OneCycle, ParameterGroup

RESERVED_NAMES = (INPUT, "layers", "output", "code_layer", "python", "args", "params", "blocks")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # would break a table or a terminal
_PYTHON_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Parts:
    """The readable parts of an experiment file that may have errors elsewhere.

    Args:
      task: None if missing or invalid, as for the other parts.
      title: any value.
      dataset: without invalid values.
      model: without invalid layers.
      train: without invalid values.
      evaluation: without invalid values.
      layer_names: names of all layers, valid or not.
      has_layers: True if the file has layers of any kind.
    """

    task: Task | None
    title: Any
    dataset: DatasetSpec | None
    model: ModelSpec | None
    train: TrainSpec | None
    evaluation: Evaluation | None
    layer_names: tuple[str, ...]
    has_layers: bool


def issues_between(parts: Parts, info: DatasetInfo | None, data_dir: Path | None) -> list[Issue]:
    """Finds values that contradict other parts of the experiment.

    Args:
      parts: the individually valid values.
      info: its dataset; None if unknown.
      data_dir: folder of prepared datasets, for names that are not built in.
    """
    issues = [*_title_issues(parts.title), *_name_issues(parts.layer_names)]
    if parts.model:
        issues += [*_model_issues(parts.model, parts.has_layers), *_code_issues(parts)]
        issues += _optimizer_issues(parts)
    if parts.train:
        issues += _training_issues(parts.train, parts.task)
        issues += _class_weight_issues(parts, info)
        issues += _pos_weight_issues(parts, info)
        issues += _metric_issues(parts, info)
        issues += _selection_issues(parts.train, parts.task, parts.dataset, info)
    if parts.dataset and parts.task and info:
        issues += _label_issues(parts.dataset, parts.task, info)
    if parts.evaluation and parts.evaluation.augment and parts.task is Task.RECONSTRUCT:
        message = "test-time augmentation is not available for task: reconstruct"
        at = ("evaluation", "augment")
        issues.append(Issue(at, message, "remove it", of_key=True))
    if parts.dataset:
        issues += _source_issues(parts.dataset)
    if parts.dataset and info:
        issues += _split_issues(parts.dataset, info)
    if parts.dataset:
        issues += _adjustment_issues(parts.dataset, parts.task, info)
    if parts.dataset and parts.dataset.normalize:
        issues += _normalize_issues(parts.dataset, parts.task, info)
    if parts.dataset and parts.dataset.normalize_targets:
        issues += _normalize_targets_issues(parts.dataset, parts.task, info)
    if parts.dataset and parts.dataset.augment:
        batch_size = parts.train.batch_size if parts.train else None
        issues += _augment_issues(parts.dataset.augment, batch_size, parts.task, info)
    if parts.dataset and parts.dataset.offline and parts.dataset.name:
        issues += _offline_issues(parts.dataset, parts.dataset.offline, info, data_dir)
    return issues


def dataset_issue(key: str, error: DataError) -> Issue:
    """Issue for an unknown or unsuitable dataset in a key of ``dataset``."""
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(error))
    message, _, remedy = text.rstrip(".").partition("; ")
    return Issue(("dataset", key), message, remedy or f"see {LIST}")


def class_issues(spec: DatasetSpec, info: DatasetInfo) -> Iterator[Issue]:
    """Classes that the dataset does not have, or that are listed twice.

    Args:
      spec: the dataset.
      info: the same with all of its classes.
    """
    if spec.classes is None or info.labels != "class":
        return
    found: set[int] = set()
    for place, ref in _places(spec.classes):
        at = ("dataset", "classes", *place)
        if (label := label_of(ref, info)) is None:
            yield Issue(at, *unknown_class(ref, info))
        elif label in found:
            yield Issue(at, f"class {VALUE} is listed twice", "list it once")
        else:
            found.add(label)


def _places(classes: Classes) -> Iterator[tuple[KeyPath, ClassRef]]:
    """The dataset's classes with their places in `classes`."""
    if not isinstance(classes, Mapping):
        yield from (((place,), ref) for place, ref in enumerate(classes))
        return
    for name, group in classes.items():
        yield from (((name, place), ref) for place, ref in enumerate(group))


def _adjustment_issues(
    spec: DatasetSpec, task: Task | None, info: DatasetInfo | None
) -> Iterator[Issue]:
    """Subset, imbalance and label noise, with the classes of the experiment."""
    if spec.classes is not None and len(spec.classes) < 2 and task is Task.CLASSIFY:
        yield Issue(("dataset", "classes"), "there is only one class", "use at least two")
    if spec.label_noise and task is Task.RECONSTRUCT:
        message = f"label_noise is not available for task: {task}, which does not use labels"
        yield Issue(("dataset", "label_noise"), message, "remove it", of_key=True)
    has_classes = task is None or task.labels == "class"
    if task and not has_classes:
        yield from _class_key_issues(spec, task)
    if spec.random_split and spec.random_split.varies and has_classes:
        yield from _unequal_draw_issues(spec, spec.random_split)
    if spec.subset:
        yield from _subset_issues(spec, spec.subset, info)
    if spec.imbalance and spec.imbalance.order and info and has_classes:
        yield from _order_issues(spec.imbalance.order, info)
    if spec.label_noise and has_classes:
        yield from _noise_issues(spec.label_noise, info)


def _unequal_draw_issues(spec: DatasetSpec, split: RandomSplit) -> Iterator[Issue]:
    """Draws of seeds with images of their own that would differ in the number of images."""
    by_class = spec.subset and spec.subset.per_class
    key = ("imbalance",) if spec.imbalance else ("subset", "per_class") if by_class else ()
    if not key:
        return
    by = "folds" if split.folds else "by_seed"
    want = f"with split.{by}, {key[-1]} requires the same class sizes for every seed"
    at: KeyPath = ("dataset", "split", "stratified")
    if not split.stratified:
        yield Issue(at, f"{want}, which only a stratified split has", "remove it", of_key=True)
    elif spec.imbalance and spec.train_examples is not None:
        at = ("dataset", "train_examples")
        message = f"{want}, which the first images do not have"
        yield Issue(at, message, "use subset instead", of_key=True)
    elif spec.imbalance and spec.subset and not (by_class or spec.subset.stratified):
        at = ("dataset", "subset", "stratified")
        yield Issue(at, f"{want}, which only a stratified subset has", "remove it", of_key=True)


def _class_key_issues(spec: DatasetSpec, task: Task) -> Iterator[Issue]:
    """Keys that need one class per image."""
    keys = [("classes",), ("imbalance",), ("label_noise",), ("subset", "per_class")]
    for key in keys:
        value: Any = spec
        for name in key:
            value = value and getattr(value, name)
        if value:
            message = f"{key[-1]} is not available for task: {task}, whose images have no class"
            yield Issue(("dataset", *key), message, "remove it", of_key=True)


def _subset_issues(
    spec: DatasetSpec, subset: SubsetSpec, info: DatasetInfo | None
) -> Iterator[Issue]:
    at = ("dataset", "subset")
    if (subset.size is None) == (subset.per_class is None):
        both = "neither size nor per_class" if subset.size is None else "both size and per_class"
        yield Issue(at, f"there is {both}", "specify exactly one of them")
    if spec.train_examples is not None:
        message = "subset and train_examples both choose training images"
        yield Issue(at, message, "remove train_examples, which takes the first images", of_key=True)
    if info is None:
        return
    if isinstance(subset.per_class, dict):
        for ref in subset.per_class:
            if label_of(ref, info) is None:
                yield Issue((*at, "per_class", ref), *unknown_class(ref, info), of_key=True)
    most = _sizes(spec, info)[0]
    if isinstance(subset.size, int) and most and subset.size > most > 0:
        message = f"{subset.size:,} images exceed the {most:,} training images"
        yield Issue(at, message, f"use at most {most}")


def _order_issues(order: Sequence[ClassRef], info: DatasetInfo) -> Iterator[Issue]:
    at = ("dataset", "imbalance", "order")
    labels = [label_of(ref, info) for ref in order]
    for place, (ref, label) in enumerate(zip(order, labels, strict=True)):
        if label is None:
            yield Issue((*at, place), *unknown_class(ref, info))
        elif label in labels[:place]:
            yield Issue((*at, place), f"class {VALUE} is listed twice", "list it once")
    if None not in labels and len(set(labels)) < info.num_classes:
        message = f"lists {len(set(labels))} of {info.num_classes} classes"
        yield Issue(at, message, "list all of them, from the largest to the smallest")


def _noise_issues(noise: LabelNoiseSpec, info: DatasetInfo | None) -> Iterator[Issue]:
    at = ("dataset", "label_noise")
    if noise.kind and noise.to:
        yield Issue((*at, "to"), "there is both kind and to", "remove one of them", of_key=True)
    if info is None or noise.to is None:
        return
    for one, two in noise.to.items():
        labels = [label_of(ref, info) for ref in (one, two)]
        place = (*at, "to", one)
        if labels[0] is None:
            yield Issue(place, *unknown_class(one, info), of_key=True)
        elif labels[1] is None:
            yield Issue(place, *unknown_class(two, info))
        elif labels[0] == labels[1]:
            yield Issue(place, f"{VALUE} is the true class", "use another class")


def _title_issues(title: Any) -> Iterator[Issue]:
    if isinstance(title, str) and _CONTROL.search(title):
        yield Issue(("title",), f"{quoted(title)} is not a single line of text", "write one line")


def _name_issues(names: tuple[str, ...]) -> Iterator[Issue]:
    for name in names:
        at = ("model", "layers", name)
        if name in RESERVED_NAMES:
            message = f"'{name}' is reserved ({'the image' if name == INPUT else 'a key of model'})"
            yield Issue(at, message, "choose another name", of_key=True)
        elif not re.fullmatch(LAYER_PATTERN, name):
            remedy = "start with a letter and use letters, digits, '-' and '_'"
            yield Issue(at, f"{quoted(name)} is not a valid layer name", remedy, of_key=True)


def _model_issues(model: ModelSpec, has_layers: bool) -> Iterator[Issue]:
    if has_layers == bool(model.python):
        both = "both layers and python" if has_layers else "neither layers nor python"
        yield Issue(("model",), f"the model has {both}", "specify exactly one of them")
    if model.python and not _PYTHON_CLASS.fullmatch(model.python):
        message = f"{quoted(model.python)} is not a reference to a class"
        yield Issue(("model", "python"), message, "use package.module:Class")
    if model.args and not model.python:
        message = "args are for Python models only"
        yield Issue(("model", "args"), message, "remove them", of_key=True)
    for key in ("output", "code_layer"):
        if getattr(model, key) and model.python and not has_layers:
            message = "a Python model has no named layers"
            yield Issue(("model", key), message, "remove it", of_key=True)


def _code_issues(parts: Parts) -> Iterator[Issue]:
    name = parts.model.code_layer if parts.model and parts.has_layers else None
    if name is None:
        return
    at = ("model", "code_layer")
    if parts.task is not None and parts.task is not Task.RECONSTRUCT:
        message = "only task: reconstruct has a code layer"
        yield Issue(at, message, "remove it", of_key=True)
    elif name not in parts.layer_names:
        hint = did_you_mean(name, parts.layer_names)
        yield Issue(at, f"unknown layer {quoted(name)}{hint}", use_one_of(parts.layer_names))


def suits(task: Task, info: DatasetInfo) -> bool:
    """True if the images of a dataset are labeled as a task requires."""
    return task is Task.RECONSTRUCT or info.labels == task.labels


def _label_issues(dataset: DatasetSpec, task: Task, info: DatasetInfo) -> Iterator[Issue]:
    """A dataset by name, or a folder per class, whose labels do not suit the task."""
    if suits(task, info):
        return
    at = ("dataset", next(key for key in SOURCES if getattr(dataset, key) is not None))
    if info.labels == "multilabel":
        message = f"{info.name} has several labels per image ({info.num_classes} in all)"
        yield Issue(at, message, "use task: multilabel")
        return
    needs = {"targets": "numbers as targets", "multilabel": "several labels per image"}
    message = f"{info.name} has one class per image, but task: {task} needs {needs[task.labels]}"
    yield Issue(at, message, "use task: classify, or your own data with arrays")


def _training_issues(train: TrainSpec, task: Task | None) -> Iterator[Issue]:
    if task and train.loss and train.loss not in LOSSES[task]:
        message = f"loss '{train.loss}' is not available for task: {task}"
        yield Issue(("train", "loss"), message, f"use {or_list(LOSSES[task])}")
    if train.clip and (train.clip.norm is None) == (train.clip.value is None):
        both = "neither norm nor value" if train.clip.norm is None else "both norm and value"
        yield Issue(("train", "clip"), f"there is {both}", "specify exactly one of them")
    if train.label_smoothing and task not in {None, Task.CLASSIFY}:
        message = f"label_smoothing is not available for task: {task}"
        yield Issue(("train", "label_smoothing"), message, "remove it", of_key=True)
    schedule = train.schedule
    if not isinstance(schedule, OneCycle) and schedule.warmup_epochs >= train.epochs:
        message = f"a warmup of {VALUE} epochs takes all {train.epochs} epochs"
        place = ("train", "schedule", "warmup_epochs")
        yield Issue(place, message, f"use less than {train.epochs}")


def _class_weight_issues(parts: Parts, info: DatasetInfo | None) -> Iterator[Issue]:
    weights = parts.train.class_weights if parts.train else None
    if weights is None:
        return
    at = ("train", "class_weights")
    layers = parts.model.layers if parts.model else {}
    terms = [name for name, op in layers.items() if isinstance(op, Sample | VectorQuantizer)]
    if parts.task not in {None, Task.CLASSIFY}:
        message = "class_weights are only available for the loss cross_entropy"
        yield Issue(at, f"{message}, not for task: {parts.task}", "remove them", of_key=True)
    elif terms:
        message = f"class_weights are not available with layer '{terms[0]}', which adds to the loss"
        yield Issue(at, message, "remove one of them", of_key=True)
    elif info and isinstance(weights, tuple) and len(weights) != info.num_classes:
        number = "1 weight" if len(weights) == 1 else f"{len(weights):,} weights"
        message = f"{number}, but {info.name} has {info.num_classes:,} classes"
        yield Issue(at, message, "use one weight per class, or balanced")


def _pos_weight_issues(parts: Parts, info: DatasetInfo | None) -> Iterator[Issue]:
    weights = parts.train.pos_weight if parts.train else None
    if weights is None:
        return
    at = ("train", "pos_weight")
    if parts.task not in {None, Task.MULTILABEL}:
        message = f"pos_weight is only available for several labels, not for task: {parts.task}"
        classes = parts.task is Task.CLASSIFY
        remedy = "use class_weights" if classes else "remove it"
        yield Issue(at, message, remedy, of_key=True)
    elif (
        info
        and info.labels == "multilabel"
        and isinstance(weights, tuple)
        and len(weights) != info.num_classes
    ):
        number = "1 weight" if len(weights) == 1 else f"{len(weights):,} weights"
        labels = "1 label" if info.num_classes == 1 else f"{info.num_classes:,} labels"
        message = f"{number}, but {info.name} has {labels}"
        yield Issue(at, message, "use one weight per label, or balanced")


def _optimizer_issues(parts: Parts) -> Iterator[Issue]:
    """Settings that need the layers of the network, which a Python model does not name."""
    if parts.train is None or parts.model is None or parts.has_layers or not parts.model.python:
        return
    optimizer = parts.train.optimizer
    if parts.train.groups:
        message = "a Python model has no named layers"
        yield Issue(("train", "groups"), message, "remove it", of_key=True)
    if isinstance(optimizer, Muon) and optimizer.last_layer == "adamw":
        message = "the last layer of a Python model is not known, so that adamw cannot train it"
        yield Issue(
            ("train", "optimizer", "last_layer"), message, "set train.optimizer.last_layer to muon"
        )


def group_issues(groups: Sequence[ParameterGroup], trained: Mapping[str, bool]) -> Iterator[Issue]:
    """Groups without effect, and patterns that match no trained layer.

    Args:
      groups: the parameter groups.
      trained: True for each layer that has trained parameters, by name.
    """
    taken: set[str] = set()
    for number, group in enumerate(groups):
        at = ("train", "groups", number)
        if group.learning_rate is None and group.weight_decay is None:
            yield Issue(at, "the group has no effect", "add learning_rate or weight_decay")
        matching = [name for name in trained if group.matches(name)]
        own = [name for name in matching if trained[name]]
        yield from _pattern_issues(group, at, trained)
        if own and taken.issuperset(own):
            message = (
                "all layers of this group belong to earlier groups, the first of which applies"
            )
            yield Issue((*at, "layers"), message, "remove the group, or move it up")
        taken.update(own)


def _pattern_issues(
    group: ParameterGroup, at: KeyPath, trained: Mapping[str, bool]
) -> Iterator[Issue]:
    for number, pattern in enumerate(group.layers):
        place = (*at, "layers", number) if len(group.layers) > 1 else (*at, "layers")
        found = [name for name in trained if fnmatchcase(name, pattern)]
        if not found:
            hint = did_you_mean(pattern, [*trained, *_stages(trained)])
            if not hint and any(name.startswith(pattern) for name in trained):
                hint = f" (did you mean '{pattern}*'?)"
            yield Issue(place, f"no layer matches {quoted(pattern)}{hint}", use_one_of(trained))
        elif not any(trained[name] for name in found):
            message = f"no layer that matches {quoted(pattern)} has trained parameters"
            names = [name for name in trained if trained[name]]
            yield Issue(place, message, use_one_of(names))


def _stages(names: Iterable[str]) -> list[str]:
    """Patterns for all layers of a call of a block, from the layers' paths.

    >>> _stages(["stem", "stage1.0.conv", "stage1.1.conv"])
    ['stage1.*', 'stage1.0.*', 'stage1.1.*']
    """
    paths = [name.split(".") for name in names]
    parts = (".".join([*path[:end], "*"]) for path in paths for end in range(1, len(path)))
    return list(dict.fromkeys(parts))


def _metric_issues(parts: Parts, info: DatasetInfo | None) -> Iterator[Issue]:
    task, metrics = parts.task, (parts.train and parts.train.metrics) or ()
    layers = parts.model.layers if parts.model else None
    for i, metric in enumerate(metrics):
        at, objection = ("train", "metrics", i), METRICS[metric].objection
        if metric in metrics[:i]:
            yield Issue(at, f"duplicate metric '{metric}'", "remove one")
        elif task and task not in METRICS[metric].tasks:
            message = f"metric '{metric}' is not available for task: {task}"
            yield Issue(at, message, f"use {or_list(names_of(task))}")
        elif objection and (found := objection(layers, info)):
            yield Issue(at, *found)


def _selection_issues(
    train: TrainSpec, task: Task | None, dataset: DatasetSpec | None, info: DatasetInfo | None
) -> Iterator[Issue]:
    """Early stopping and restored epochs, which need validation images and a reported metric."""
    stopping = train.early_stopping
    chosen: dict[tuple[str, ...], str] = {}
    if stopping:
        chosen["train", "early_stopping", "metric"] = stopping.metric
    if train.restore_best:
        chosen["train", "restore_best"] = train.restore_best
    reported = DEFAULT_METRICS[task] if task else ()
    known = ("loss", *(reported if train.metrics is None else train.metrics))
    for at, metric in chosen.items():
        if dataset and lacks_validation(dataset, info):
            message = f"{at[1]} needs validation images, and there are none"
            key = "split" if dataset.random_split else "splits"
            yield Issue(at[:2], message, f"set dataset.{key}.validation, or remove {at[1]}")
        elif task and metric not in (*known, *names_of(task)):
            message = f"metric '{metric}' is not available for task: {task}"
            yield Issue(at, message, f"use {or_list(known)}")
        elif task and metric not in known:
            message = f"metric '{metric}' is not in train.metrics"
            yield Issue(at, message, f"add it there, or use {or_list(known)}")


def lacks_validation(dataset: DatasetSpec, info: DatasetInfo | None) -> bool:
    """True if there are no validation images, as far as the file says."""
    if dataset.random_split:
        return not (dataset.random_split.folds or dataset.random_split.validation)
    number = dataset.splits.validation
    if info and number is None and info.num_validation is not None:
        return info.num_validation == 0
    return (_sizes(dataset, info)[1] if info and number is None else number) == 0


def _augment_issues(
    spec: Augment, batch_size: int | None, task: Task | None, info: DatasetInfo | None
) -> Iterator[Issue]:
    at = ("dataset", "augment")
    for key in ("random_erasing", "mixup", "cutmix"):
        if getattr(spec, key) and task is Task.RECONSTRUCT:
            message = f"{key} is not available for task: reconstruct"
            yield Issue((*at, key), message, "remove it", of_key=True)
    for key in ("mixup", "cutmix"):
        if getattr(spec, key) and task is Task.REGRESS:
            message = f"{key} mixes labels, and is not available for task: regress"
            yield Issue((*at, key), message, "remove it", of_key=True)
    if spec.mixes and batch_size == 1:
        key = "mixup" if spec.mixup else "cutmix"
        message = f"{key} needs at least 2 images per batch"
        yield Issue((*at, key), message, "raise train.batch_size", of_key=True)
    if info is None:
        return
    least = min(info.shape[:2])
    crop, moved = spec.random_crop, spec.random_translation
    sizes = [("random_translation", "pixels", moved.pixels)] if moved else []
    sizes += [("random_crop", "padding", crop.padding)] if crop else []
    for name, key, size in sizes:
        if size >= least:
            message = f"{VALUE} pixels are too many for images of {shape_text(info.shape)}"
            yield Issue((*at, name, key), message, f"use at most {least - 1}")


def _normalize_issues(
    spec: DatasetSpec, task: Task | None, info: DatasetInfo | None
) -> Iterator[Issue]:
    at = ("dataset", "normalize")
    if task is Task.RECONSTRUCT:
        message = "normalize is not available for task: reconstruct, whose target is the image"
        yield Issue(at, message, "remove it, and use pixel_scale", of_key=True)
        return
    if spec.pixel_scale not in {256.0, 255.0}:
        message = "pixel_scale has no effect with normalize, which scales pixels to [0, 1]"
        yield Issue(("dataset", "pixel_scale"), message, "remove it", of_key=True)
    if isinstance(spec.normalize, ChannelStatistics) and info:
        yield from _statistics_issues(at, spec.normalize, info, "channel", info.shape[-1])


def _normalize_targets_issues(
    spec: DatasetSpec, task: Task | None, info: DatasetInfo | None
) -> Iterator[Issue]:
    at = ("dataset", "normalize_targets")
    if task not in {None, Task.REGRESS}:
        message = f"normalize_targets is only available for task: regress, not for task: {task}"
        yield Issue(at, message, "remove it", of_key=True)
        return
    found = spec.normalize_targets
    if isinstance(found, ChannelStatistics) and info and info.labels == "targets":
        yield from _statistics_issues(at, found, info, "target", info.num_classes)


def _statistics_issues(
    at: KeyPath, found: ChannelStatistics, info: DatasetInfo, kind: str, number: int
) -> Iterator[Issue]:
    """Other numbers of means or standard deviations than one or one per channel or target."""
    for key in ("mean", "std"):
        size = len(getattr(found, key))
        if size not in {1, number}:
            have = f"1 {kind}" if number == 1 else f"{number} {kind}s"
            message = f"{size} values, but {info.name} has {have}"
            yield Issue((*at, key), message, f"use one value per {kind}, or one for all")


def _source_issues(spec: DatasetSpec) -> Iterator[Issue]:
    given = [key for key in SOURCES if getattr(spec, key) is not None]
    if not given:
        remedy = (
            "add 'name: ...' (of a dataset), or 'folder: ...' or 'arrays: ...' (your own images)"
        )
        yield Issue(("dataset",), "'name' is missing", remedy)
        return
    if len(given) > 1:
        message = f"has {' and '.join(given)}"
        yield Issue(("dataset",), message, "specify exactly one of them")
        return
    for key in foreign_keys(given[0]):
        if getattr(spec, key) != DatasetSpec.model_fields[key].default:
            message = f"{key} is not available with {given[0]}"
            yield Issue(("dataset", key), message, "remove it", of_key=True)
    if spec.folder and spec.keys and spec.labels is None:
        message = "keys are columns of a table, and a folder per class has none"
        yield Issue(("dataset", "keys"), message, "add labels: FILE.csv, or remove it", of_key=True)
    if spec.split:
        yield from _random_split_issues(spec, spec.split)


def _random_split_issues(spec: DatasetSpec, split: SplitSpec) -> Iterator[Issue]:
    """Keys of a random split that contradict each other, or have no effect."""
    at = ("dataset", "split")
    if spec.name and "test" in split.model_fields_set:
        message = f"{spec.name} has test images of its own"
        yield Issue((*at, "test"), message, "remove test, or set splits.test", of_key=True)
    if split.folds:
        for key in ("validation", "by_seed"):
            if key in split.model_fields_set and getattr(split, key):
                message = f"{key} has no effect with folds, which determine the validation images"
                yield Issue((*at, key), message, f"remove {key} or folds", of_key=True)
    elif split.by_seed and not split.validation:
        message = "by_seed without validation images has no effect"
        yield Issue((*at, "by_seed"), message, "remove it, or raise validation", of_key=True)
    if spec.random_split:
        for key, instead in (("train", "use train_examples"), ("validation", "remove it or split")):
            if getattr(spec.splits, key) is not None:
                message = f"splits.{key} contradicts split, which divides the training images"
                yield Issue(("dataset", "splits", key), message, instead, of_key=True)


def _split_issues(spec: DatasetSpec, info: DatasetInfo) -> Iterator[Issue]:
    splits = spec.splits
    limits, excess = _limits(info), False
    for key, limit in limits.items():
        wanted = getattr(splits, key)
        if wanted and limit and wanted > limit:
            excess = True
            message = f"{VALUE} images requested, but {info.name} has {limit:,} for this split"
            yield Issue(("dataset", "splits", key), message, f"use at most {limit}")
    num_train, num_validation = _sizes(spec, info)
    by_number = not excess and spec.random_split is None
    if num_train is not None and num_validation is not None and by_number:
        yield from _overlap(splits, num_train, num_validation, info)
    if spec.train_examples and num_train and spec.train_examples > num_train > 0:
        message = f"{VALUE} exceeds the {num_train:,} training images"
        yield Issue(("dataset", "train_examples"), message, f"use at most {num_train}")


def _limits(info: DatasetInfo) -> dict[str, int | None]:
    limits: dict[str, int | None]
    limits = {"train": info.num_train, "validation": info.num_train, "test": info.num_test}
    if info.num_train is not None and info.num_validation is not None:
        train, validation = info.num_train - info.num_validation, info.num_validation
        return limits | {"train": train, "validation": validation}
    return limits


def _sizes(spec: DatasetSpec, info: DatasetInfo) -> tuple[int | None, int | None]:
    """Images for training, and for validation if they share a pool; None if unknown."""
    pool = info.num_train
    if pool and spec.name and (split := spec.random_split):
        number = size_of_validation(split, pool)
        return pool - number, number
    if pool and info.name in KNOWN and not info.num_validation:
        return split_sizes(spec.splits.model_dump(exclude_none=True), pool)
    return spec.splits.train or _limits(info)["train"], None


def _num_train(spec: DatasetSpec, info: DatasetInfo) -> int:
    """Number of training images; 0 if unknown."""
    number, subset = spec.train_examples or _sizes(spec, info)[0] or 0, spec.subset
    if spec.imbalance or (subset and isinstance(subset.per_class, dict)):
        return 0
    if subset is None or (number == 0 and isinstance(subset.size, float)):
        return number
    if isinstance(subset.per_class, int):
        return subset.per_class * info.num_classes
    return subset_size(subset.size or 0, number)


def last_batch(parts: Parts, info: DatasetInfo) -> int:
    """Images of the incomplete last batch that is trained; 0 if there is none or unknown."""
    if parts.train is None or parts.dataset is None or parts.train.drop_last:
        return 0
    number = _num_train(parts.dataset, info)
    return number % min(parts.train.batch_size, number) if number > 0 else 0


def _overlap(splits: Splits, train: int, validation: int, info: DatasetInfo) -> Iterator[Issue]:
    """Training and validation splits that do not fit into the training images."""
    pool = info.num_train or 0
    if train < 1:
        message = f"{VALUE} validation images leave none of {info.name}'s {pool:,} for training"
        yield Issue(("dataset", "splits", "validation"), message, f"use at most {pool - 1}")
    elif validation < 1 and splits.validation is None:
        message = f"{VALUE} training images leave none of {info.name}'s {pool:,} for validation"
        remedy = f"add validation: 0 to train without validation images, or use at most {pool - 1}"
        yield Issue(("dataset", "splits", "train"), message, remedy)
    elif train + validation > pool:
        message = (
            f"{train:,} training and {validation:,} validation images exceed"
            f" the {pool:,} training images of {info.name}"
        )
        remedy = "use smaller splits, or validation: 0 to train without validation images"
        yield Issue(("dataset", "splits"), message, remedy)


def _offline_issues(
    spec: DatasetSpec, name: str, info: DatasetInfo | None, data_dir: Path | None
) -> Iterator[Issue]:
    at = ("dataset", "offline")
    try:
        fallback = resized_info(describe(name, data_dir), spec.form)
        info = spec.describe_source(data_dir) if info else None
    except DataError as error:
        yield dataset_issue("offline", error)
        return
    if info and _kind(fallback) != _kind(info):
        message = f"{fallback.name} ({_kind(fallback)}) cannot replace {info.name} ({_kind(info)})"
        remedy = "choose a dataset with the same shape and number of classes, or remove it"
        yield Issue(at, message, remedy)
    elif lacking := next(class_issues(spec, fallback), None):
        remedy = "choose a dataset with the same classes, or use their numbers"
        yield Issue(at, lacking.message, remedy)


def _kind(info: DatasetInfo) -> str:
    return f"{shape_text(info.shape)}, {info.labels_text}"
