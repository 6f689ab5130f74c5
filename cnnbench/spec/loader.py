"""Loads and validates an experiment file with its parents and command-line overrides.

All errors are found before anything is compiled: every part of the file is
checked as far as its values can be read.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.classes import narrowed
from cnnbench.data.scaling import (
    BRIGHTEST,
    balanced_pos_weight,
    balanced_weights,
    channel_statistics,
    target_statistics,
)
from cnnbench.errors import DataError, Diagnostic, Issue, Location, SpecError, quoted
from cnnbench.graph.build import build_plan
from cnnbench.graph.geometry import activation_of
from cnnbench.graph.plan import Goal, Plan, outputs_goal, reconstruct_goal
from cnnbench.layers import OPERATIONS, Flatten, LayerOp, Reshape, Softmax
from cnnbench.layers.base import INPUT, Shape
from cnnbench.layers.conv import OWNERS_KEYS
from cnnbench.layers.fields import VALUE, Model
from cnnbench.spec.blocks import Expansion, expand
from cnnbench.spec.cross_checks import (
    Parts,
    class_issues,
    dataset_issue,
    group_issues,
    issues_between,
    last_batch,
    suits,
)
from cnnbench.spec.document import Document, KeyPath, dotted, dump_document
from cnnbench.spec.experiment import (
    AUTO,
    BALANCED,
    SOURCES,
    ChannelStatistics,
    DatasetSpec,
    Evaluation,
    Experiment,
    ModelSpec,
    Task,
    TrainSpec,
)
from cnnbench.spec.inheritance import Causes, anchored, merge, override, read_layers, sort_overrides
from cnnbench.spec.pydantic_messages import issues_of
from cnnbench.spec.sweeps import FileSweep, read_sweep_section, split_sweep

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LAYER: TypeAdapter[LayerOp] = TypeAdapter(LayerOp)
_Section = TypeVar("_Section", bound=Model)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A validated experiment.

    Args:
      experiment: the full specification.
      plan: its network; None for a Python model.
      info: image shape and classes of its dataset.
      text: the file as the user wrote it.
      places: source locations of `model` and its keys.
      blocks: the block and the number of repetitions (0 without `repeat`) of each call in
        `model.layers`, by its name.
      changed: layers and repetitions of blocks that are changed or removed by their path.
      sweep: `sweep` of the file, which is no part of the experiment; None without it.
    """

    experiment: Experiment
    plan: Plan | None
    info: DatasetInfo
    text: bytes
    places: Mapping[KeyPath, Location]
    blocks: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    sweep: FileSweep | None = None

    def place(self, key: str) -> Location:
        """Location of the value of a key of `model`, or of a part of it, or else of `model`."""
        found = [place for at, place in self.places.items() if at[:2] == ("model", key)]
        return (found or [self.places[("model",)]])[0]

    def with_statistics(self, images: "NDArray[np.uint8]", labels: "NDArray[Any]") -> "Loaded":
        """The experiment with the numbers for `auto` and `balanced`.

        Args:
          images: the training images, (n, height, width, channels).
          labels: their labels, (n,), or targets or labels, (n, k).

        Raises:
          DataError: a channel or target is constant, a class has no images, or a label has none
            or all.
        """
        dataset, train = self.experiment.dataset, self.experiment.train
        if dataset.normalize == AUTO:
            mean, std = channel_statistics(images)
            found = ChannelStatistics(mean=mean, std=std)
            dataset = dataset.model_copy(update={"normalize": found})
        if dataset.normalize_targets == AUTO:
            mean, std = target_statistics(labels, self.info.classes)
            found = ChannelStatistics(mean=mean, std=std)
            dataset = dataset.model_copy(update={"normalize_targets": found})
        if train.class_weights == BALANCED:
            weights = balanced_weights(labels, self.info.num_classes)
            train = train.model_copy(update={"class_weights": weights})
        if train.pos_weight == BALANCED:
            weights = balanced_pos_weight(labels, self.info.classes)
            train = train.model_copy(update={"pos_weight": weights})
        update = {"dataset": dataset, "train": train}
        return replace(self, experiment=self.experiment.model_copy(update=update))

    def resolved(self) -> str:
        """The experiment as YAML with all defaults written out; loading it gives the same one."""
        data = self.experiment.model_dump(mode="json")
        if split := data["dataset"]["split"]:  # without keys that have no effect
            without = ["test"] * bool(data["dataset"]["name"]) + ["validation"] * bool(
                split["folds"]
            )
            data["dataset"]["split"] = {k: v for k, v in split.items() if k not in without}
        for layer in data["model"]["layers"].values():
            if layer.get("tie"):
                for key in OWNERS_KEYS:
                    del layer[key]
        return dump_document(data)


def load_experiment(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    data_dir: Path | None = None,
    known: DatasetInfo | None = None,
) -> Loaded:
    """Loads and validates an experiment file without importing JAX.

    Args:
      path: the file.
      overrides: ``key=value`` with dotted paths, as in ``train.epochs=5``.
      data_dir: folder of prepared datasets, for names that are not built in.
      known: metadata of the dataset, in case that this machine does not have it any more.

    Raises:
      SpecError: lists all errors with their locations.
    """
    pairs = [split_sweep(anchored(layer)) for layer in read_layers(path)]
    layers, sweeps = [layer for layer, _ in pairs], [own for _, own in pairs]
    document = reduce(merge, layers)
    for text in sort_overrides(overrides):
        upper = override(document, text, lambda found: _expand(found, data_dir).names)
        layer, own = split_sweep(anchored(upper))
        layers.append(layer)
        sweeps.append(own)
        document = merge(document, layers[-1])
    sweep, problems = read_sweep_section(reduce(merge, sweeps))
    document = replace(document, problems=(*document.problems, *problems))
    expansion = _expand(document, data_dir)
    experiment, plan, info, issues = _findings(expansion, data_dir, known)
    if issues or document.problems or experiment is None or info is None:
        raise SpecError([*document.problems, *_problems(issues, layers, expansion, path, data_dir)])
    places = {at: place for at, place in expansion.document.values.items() if at[:1] == ("model",)}
    blocks, changed = expansion.blocks, expansion.changed
    return Loaded(experiment, plan, info, document.text, places, blocks, changed, sweep)


Findings = tuple[Experiment | None, Plan | None, DatasetInfo | None, list[Issue]]


def _expand(document: Document, data_dir: Path | None) -> Expansion:
    """Expands blocks; the shape of the images is looked up only if a block depends on it."""
    return expand(document, lambda: _input_shape(document, data_dir))


def _input_shape(document: Document, data_dir: Path | None) -> Shape | None:
    dataset = document.data.get("dataset")
    if not isinstance(dataset, dict):
        return None
    keys = (*SOURCES, "resize", "channels", "labels", "keys", "shape", "layout", "value_range")
    spec = _dataset({key: dataset[key] for key in keys if key in dataset}, _task(document.data))
    try:
        return spec.describe(data_dir).shape if spec and spec.source else None
    except DataError:
        return None


def _findings(
    expansion: Expansion, data_dir: Path | None, known: DatasetInfo | None = None
) -> Findings:
    """Validates the readable parts of an expanded document and collects all issues."""
    experiment, plan, info, issues = _expanded_findings(expansion.document, data_dir, known)
    if not expansion.issues:
        return experiment, plan, info, issues
    others = [issue for issue in issues if issue.at[:1] != ("model",)]
    return None, None, info, [*expansion.issues, *others]


def _expanded_findings(
    document: Document, data_dir: Path | None, known: DatasetInfo | None
) -> Findings:
    data = document.data
    experiment, issues = _validate(document)
    parts = _parts(data, issues)
    info, unknown = _describe(parts.dataset, data_dir, known)
    issues += unknown
    issues += issues_between(parts, info, data_dir)
    plan, misfits = _plan(data, parts, info)
    if plan:
        misfits += [*_single_value_issues(plan, parts, info), *_probability_issues(plan, parts)]
        misfits += [*_frozen_issues(plan), *_softmax_issues(plan, parts)]
        misfits += _group_issues(plan, parts)
    guessed = _guessed(document)
    unique = dict.fromkeys([*issues, *misfits])
    return experiment, plan, info, [f for f in unique if f.of_key or f.at not in guessed]


def _problems(
    issues: Sequence[Issue],
    layers: Sequence[Document],
    expansion: Expansion,
    path: Path,
    data_dir: Path | None,
) -> Iterator[Diagnostic]:
    """Issues with locations: the line of a child file that causes one, or the line itself."""
    known = [issue.at for issue in issues]

    def check(changed: Document) -> set[KeyPath]:
        return {issue.at for issue in _findings(_expand(changed, data_dir), data_dir)[3]}

    causes = Causes(layers, check, expansion.origin, len(expansion.document.values))
    for issue in _first_repetitions(issues, expansion):
        problem = _with_calls(_place(issue, expansion.document, str(path)), issue, expansion)
        if len(layers) > 1 and (cause := causes.of(issue, known)):
            number, change = cause
            # Overriding the operation of a layer replaces the layer, which has no line of its own.
            values = layers[number].values
            below = (at for at in values if at[: len(change)] == change)
            at = change if change in values else next(below)
            message = f"this breaks {problem.where} ({problem.location}): {problem.message}"
            problem = replace(problem, location=values[at], where=dotted(at), message=message)
        yield problem


def _first_repetitions(issues: Sequence[Issue], expansion: Expansion) -> Iterator[Issue]:
    """Issues without those that repetitions of a block have in common with the first one."""
    seen: set[tuple[KeyPath, str]] = set()
    for issue in issues:
        origin = expansion.origin(issue.at, of_key=issue.of_key)
        kind = (origin, issue.message)
        if origin == issue.at or kind not in seen:
            yield issue
        seen.add(kind)


def _with_calls(problem: Diagnostic, issue: Issue, expansion: Expansion) -> Diagnostic:
    """Names the lines of a layer in its block, and of the calls of the block."""
    chain = expansion.chain(issue.at)
    if not chain:
        return problem
    same = all(place.path == problem.location.path for place in chain)
    block, *calls = (_line(place, same=same) for place in chain)
    return replace(problem, where=f"{problem.where} ({block}, called on {', '.join(calls)})")


def _line(place: Location, *, same: bool) -> str:
    if place.line is None:
        return place.path
    return f"line {place.line}" if same else f"{place.path}:{place.line}"


def _validate(document: Document) -> tuple[Experiment | None, list[Issue]]:
    try:
        return Experiment.model_validate(document.data), []
    except ValidationError as error:
        return None, issues_of(error, document)


def _parts(data: Mapping[str, Any], issues: Iterable[Issue]) -> Parts:
    """The parts of the file without invalid values."""
    invalid = {_unit(issue.at) for issue in issues}
    sound = _without(data, invalid)
    has_source = invalid.isdisjoint(("dataset", key) for key in SOURCES)
    model = data.get("model")
    layers = model.get("layers") if isinstance(model, dict) else None
    return Parts(
        task=_task(data),
        title=data.get("title"),
        dataset=_dataset(sound.get("dataset"), _task(data)) if has_source else None,
        model=_section(ModelSpec, sound.get("model")),
        train=_section(TrainSpec, sound.get("train", {})),
        evaluation=_section(Evaluation, sound.get("evaluation", {})),
        layer_names=tuple(layers) if isinstance(layers, dict) else (),
        has_layers=bool(layers),
    )


def _unit(at: KeyPath) -> KeyPath:
    """The part of a file to drop if the value at `at` is invalid."""
    match at:
        case ("model", "layers", name, *_):
            return ("model", "layers", name)
        case ("train", key, *_):
            return ("train", key)
        case ("dataset", ("subset" | "imbalance" | "label_noise") as key, *_):
            return ("dataset", key)
        case _:
            return at


def _without(data: Mapping[str, Any], gone: set[KeyPath], at: KeyPath = ()) -> dict[str, Any]:
    return {
        key: _without(value, gone, (*at, key)) if isinstance(value, dict) else value
        for key, value in data.items()
        if (*at, key) not in gone
    }


def _section(kind: type[_Section], data: Any) -> _Section | None:
    try:
        return kind.model_validate(data)
    except ValidationError:
        return None


def _task(data: Mapping[str, Any]) -> Task | None:
    return Task(data["task"]) if data.get("task") in list(Task) else None


def _dataset(data: Any, task: Task | None) -> DatasetSpec | None:
    spec = _section(DatasetSpec, data)
    return spec.labeled(task.labels) if spec and task else spec


def _describe(
    dataset: DatasetSpec | None, data_dir: Path | None, known: DatasetInfo | None
) -> tuple[DatasetInfo | None, list[Issue]]:
    chosen = [key for key in SOURCES if dataset and getattr(dataset, key) is not None]
    if dataset is None or len(chosen) != 1:
        return None, []
    try:
        full = dataset.describe_source(data_dir)
    except DataError as error:
        if known:
            return known, []
        of_table = dataset.labels and str(error).startswith(dataset.labels)
        return None, [dataset_issue("labels" if of_table else chosen[0], error)]
    return narrowed(full, dataset.classes), list(class_issues(dataset, full))


def _goal(task: Task, info: DatasetInfo) -> Goal:
    if task is Task.RECONSTRUCT:
        return reconstruct_goal(info.shape)
    return outputs_goal(info.shape, info.num_classes, info.labels_text)


def _plan(data: Any, parts: Parts, info: DatasetInfo | None) -> tuple[Plan | None, list[Issue]]:
    if parts.task is None or info is None or not parts.layer_names or INPUT in parts.layer_names:
        return None, []
    if not suits(parts.task, info):  # the number of outputs is unknown
        return None, []
    raw, output = data["model"]["layers"], data["model"].get("output")
    layers = {name: _layer(value) for name, value in raw.items()}
    read = {name: _raw_inputs(value, raw) for name, value in raw.items()}
    known = {name: inputs for name, inputs in read.items() if inputs is not None}
    chosen = output if isinstance(output, str) else None
    return build_plan(layers, _goal(parts.task, info), output=chosen, known=known)


def _single_value_issues(plan: Plan, parts: Parts, info: DatasetInfo | None) -> Iterator[Issue]:
    """Batch norm of a single value is always zero; PyTorch raises an error too."""
    if parts.train is None or parts.dataset is None:
        return
    splits = parts.dataset.splits
    numbers: dict[KeyPath, int | None] = {
        ("train", "batch_size"): parts.train.batch_size,
        ("dataset", "train_examples"): parts.dataset.train_examples,
        ("dataset", "splits", "train"): splits.train,
    }
    if info and last_batch(parts, info) == 1:
        numbers["train", "drop_last"] = 1
    at = next((at for at, number in numbers.items() if number == 1), None)
    last = at == ("train", "drop_last")
    remedy = "use another batch_size, or drop_last: true" if last else "use at least 2"
    for node in plan.nodes if at else ():
        if node.op.uses_batch and math.prod(node.layout.shape[:-1]) == 1:
            message = (
                f"{node.op.op} '{node.name}' sees a single value per channel in a"
                f" {'last ' * last}batch of one image, and normalizes it to zero (PyTorch: Expected"
                " more than 1 value per channel when training)"
            )
            yield Issue(at or (), message, remedy)
            return


def _frozen_issues(plan: Plan) -> Iterator[Issue]:
    if plan.num_params and plan.num_frozen == plan.num_params:
        remedy = "remove trainable: false from a layer"
        yield Issue(("model", "layers"), "all layers with parameters are frozen", remedy)


def _group_issues(plan: Plan, parts: Parts) -> Iterator[Issue]:
    trained = {node.name: node.op.is_trained and node.num_params > 0 for node in plan.nodes}
    if parts.train and parts.train.groups:
        yield from group_issues(parts.train.groups, trained)


def _softmax_issues(plan: Plan, parts: Parts) -> Iterator[Issue]:
    """A softmax before the loss is a common mistake: the loss has its own."""
    node = plan.by_name[plan.output]
    while isinstance(node.op, Flatten | Reshape) and node.inputs[0] != INPUT:
        node = plan.by_name[node.inputs[0]]
    at = ("model", "layers", node.name)
    if parts.task is Task.CLASSIFY and isinstance(node.op, Softmax):
        message = "the output is a softmax, and the loss applies one, too"
        yield Issue(at, message, "remove this layer")
    if parts.task is Task.MULTILABEL:
        activation = "softmax" if isinstance(node.op, Softmax) else activation_of(node.op)
        if activation in {"softmax", "sigmoid", "hard_sigmoid"}:
            message = f"the output is a {activation}, and the loss applies a sigmoid itself"
            yield Issue(at, message, "end with a linear layer, without an activation")


def _probability_issues(plan: Plan, parts: Parts) -> Iterator[Issue]:
    if parts.train is None or parts.train.loss != "binary_cross_entropy":
        return
    if parts.task not in {None, Task.RECONSTRUCT}:  # which is an issue of its own
        return
    if parts.dataset and (scale := parts.dataset.pixel_scale) < BRIGHTEST:
        message = (
            f"binary_cross_entropy needs pixels in [0, 1], but pixel_scale: {scale:g} scales them"
            f" to [0, {BRIGHTEST / scale:.4g}]"
        )
        remedy = f"use {BRIGHTEST} or more, or use mse or mae"
        yield Issue(("dataset", "pixel_scale"), message, remedy)
    if source := _not_probability(plan, plan.output):
        op = plan.by_name[source].op
        activation = getattr(op, "activation", None)
        what = f"activation: {activation}" if activation else f"op: {op.op}"
        message = f"binary_cross_entropy needs outputs in [0, 1], but layer '{source}' has {what}"
        remedy = "end with activation: sigmoid" if activation else "end with a sigmoid activation"
        yield Issue(("train", "loss"), message, f"{remedy}, or use mse or mae")


def _not_probability(plan: Plan, name: str) -> str | None:
    """The layer that can produce values outside [0, 1]; None if there are none."""
    if name == INPUT:
        return None
    node = plan.by_name[name]
    activation = activation_of(node.op)
    if activation in {"sigmoid", "hard_sigmoid"} or isinstance(node.op, Softmax):
        return None
    if not node.op.keeps_range or activation not in {"linear", "relu"}:
        return name
    found = (_not_probability(plan, source) for source in node.inputs)
    return next((source for source in found if source), None)


def _layer(value: Any) -> LayerOp | None:
    try:
        return _LAYER.validate_python(value)
    except ValidationError:
        return None


def _raw_inputs(value: Any, layers: Collection[str]) -> tuple[str, ...] | None:
    """Inputs of a layer that may be invalid in other ways; None if they cannot be read.

    They cannot, for example, if they have another key: ``from: [a, b]``.
    """
    keys = value if isinstance(value, dict) else {None: value}
    operation, inputs = (keys.get(key) for key in ("op", "inputs"))
    others = {key: part for key, part in keys.items() if key not in {"op", "inputs"}}
    lists = [part if isinstance(part, list) else [part] for part in others.values()]
    merges = isinstance(operation, str) and operation in OPERATIONS and OPERATIONS[operation].merges
    texts = (text for text in chain(others, *lists) if isinstance(text, str))
    if any(text in layers for text in texts) or (merges and inputs is None):
        return None
    names = [inputs] if isinstance(inputs, str) else inputs
    if names is None:
        return ()
    whole = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if whole else None


def _guessed(document: Document) -> set[KeyPath]:
    """Paths of placeholders for unreadable values, and of lists that contain them."""
    wrong = {(problem.location, problem.where) for problem in document.problems}
    found = {at for at, place in document.values.items() if (place, dotted(at)) in wrong}
    return found | {at[:-1] for at in found if at and isinstance(at[-1], int)}


def _place(issue: Issue, document: Document, path: str) -> Diagnostic:
    """Looks up the location of an issue: the key if that is wrong, else the value or its parent."""
    at = issue.at
    while at and at not in document.values:
        at = at[:-1]
    places = document.keys if issue.of_key else document.values
    location = places.get(at) or document.values.get(at) or Location(path)
    message = issue.message
    if VALUE in message:
        message = message.replace(VALUE, _number(issue.at, document))
    return Diagnostic(location, dotted(at), message, issue.remedy)


def _number(at: KeyPath, document: Document) -> str:
    """A number as written in the file; decimal digits with thousands separators."""
    value = document.data
    for key in at:
        value = value[key]
    text = quoted(value, at, document.values)
    return f"{value:,}" if text.isdigit() else text


def saved_source(run: Path) -> bytes:
    """The source of a Python model in a run folder; empty for a graph of layers.

    Raises:
      OSError: the file cannot be read.
    """
    file = run / "model.py"
    return file.read_bytes() if file.exists() else b""
