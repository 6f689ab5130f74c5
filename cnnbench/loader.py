"""An experiment file, its parents and the command line to one checked `Loaded`.

A file may extend another: mappings are merged key by key, the child wins, and a
layer, optimiser or schedule of another kind replaces the parent's. Overrides
are merged last, as a child written on the command line.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from cnnbench.catalog import DatasetInfo, describe
from cnnbench.diagnosis import flaws_of
from cnnbench.errors import DataError, Flaw, Location, Problem, SpecError, did_you_mean, listing
from cnnbench.graph import Goal, Plan, build_plan, classify_goal, reconstruct_goal
from cnnbench.layers import LayerOp
from cnnbench.semantics import experiment_flaws
from cnnbench.spec import Experiment, Task
from cnnbench.yamlio import Document, KeyPath, dotted, parse_document, read_document

COMMAND_LINE = "command line"
MAX_PARENTS = 8
_MODEL_KEYS = ("layers", "output", "python", "args")
_NOT_INHERITED = ("name", "title", "extends")
_LAYER: TypeAdapter[LayerOp] = TypeAdapter(LayerOp)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked experiment.

    Args:
      experiment: all that was asked for.
      plan: its network; None where the model is a Python class.
      info: shape and classes of its dataset.
      text: the file as the user wrote it.
    """

    experiment: Experiment
    plan: Plan | None
    info: DatasetInfo
    text: bytes

    def resolved(self) -> str:
        """The experiment as YAML with every default written out; it loads to the same one."""
        data = self.experiment.model_dump(mode="json")
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def load_experiment(
    path: Path, overrides: Sequence[str] = (), *, data_dir: Path | None = None
) -> Loaded:
    """Reads and checks an experiment file without importing JAX.

    Args:
      path: the file.
      overrides: ``key=value`` with dotted paths, as in ``train.epochs=5``.
      data_dir: where datasets outside the built-in table are looked up.

    Raises:
      SpecError: everything wrong with it, each with its place.
    """
    document = _with_parents(path)
    for override in overrides:
        document = _merge(document, _parse_override(override, document.data))
    experiment, plan, info = _check(document, str(path), data_dir)
    return Loaded(experiment, plan, info, path.read_bytes())


def _with_parents(path: Path, children: tuple[Path, ...] = ()) -> Document:
    document = read_document(path)
    if not isinstance(document.data, dict):
        message = "holds no keys and values"
        raise SpecError([Problem(Location(str(path)), "", message, "write name: and so on")])
    if "extends" not in document.data:
        return document
    parent = _parent_path(path, document, (*children, path))
    inherited = _with_parents(parent, (*children, path))
    kept = {key: v for key, v in inherited.data.items() if key not in _NOT_INHERITED}
    own = {key: value for key, value in document.data.items() if key != "extends"}
    return _merge(_replace(inherited, kept), _replace(document, own))


def _parent_path(path: Path, document: Document, chain: tuple[Path, ...]) -> Path:
    value = document.data["extends"]
    place = document.values[("extends",)]

    def refuse(message: str, remedy: str) -> SpecError:
        return SpecError([Problem(place, "extends", message, remedy)])

    if not isinstance(value, str) or not value:
        raise refuse("is not a file name", "write the name of a file beside this one")
    if PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts:
        raise refuse(f"'{value}' leaves the folder", "keep the extended file beside this one")
    parent = path.parent / value
    if any(parent.resolve() == link.resolve() for link in chain):
        raise refuse(f"'{value}' extends this file in turn", "end the circle")
    if len(chain) > MAX_PARENTS:
        raise refuse(f"more than {MAX_PARENTS} files extend one another", "merge some of them")
    if not parent.is_file():
        near = did_you_mean(value, [p.name for p in path.parent.glob("*.yaml") if p != path])
        raise refuse(f"there is no file '{value}' beside this one{near}", "name an existing file")
    return parent


def _replace(document: Document, data: dict[str, Any]) -> Document:
    return Document(data, document.values, document.keys)


def _merge(parent: Document, child: Document) -> Document:
    data = _merged(parent.data, child.data, ())
    return Document(data, {**parent.values, **child.values}, {**parent.keys, **child.keys})


def _merged(parent: Any, child: Any, at: KeyPath) -> Any:
    tag = _tag_key(at)
    if tag and isinstance(parent, str):
        parent = {tag: parent}  # the short form "optimizer: adam"
    if not isinstance(parent, Mapping) or not isinstance(child, Mapping):
        return child
    if tag and tag in child and child[tag] != parent.get(tag):
        return child
    result = dict(parent)
    for key, value in child.items():
        if value is None and key in result:
            del result[key]  # null takes away what the parent says
        else:
            result[key] = _merged(parent.get(key), value, (*at, key))
    return result


def _tag_key(at: KeyPath) -> str | None:
    """The key that selects a member of a union, where `at` is one."""
    match at:
        case ("model", "layers", _):
            return "op"
        case ("train", "optimizer" | "schedule"):
            return "name"
        case _:
            return None


def _parse_override(override: str, data: Mapping[str, Any]) -> Document:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        problem = Problem(
            Location(COMMAND_LINE), "", f"'{override}' is not an override", "write key=value"
        )
        raise SpecError([problem])
    model = data.get("model")
    if parts[0] == "model" and len(parts) > 1 and parts[1] not in _MODEL_KEYS:
        parts.insert(1, "layers")
    if len(parts) > 3 and parts[:2] == ["model", "layers"] and isinstance(model, dict):
        _check_layer_name(parts[2], model.get("layers") or {})
    value = parse_document(text.encode(), COMMAND_LINE).data
    for part in reversed(parts):
        value = {part: value}
    place: dict[KeyPath, Location] = {tuple(parts): Location(COMMAND_LINE)}
    return Document(value, place, place)


def _check_layer_name(name: str, layers: Mapping[str, Any]) -> None:
    if name not in layers:
        message = f"there is no layer '{name}'{did_you_mean(name, layers)}"
        where = f"model.{name}"
        raise SpecError([Problem(Location(COMMAND_LINE), where, message, _one_of(layers))])


def _one_of(names: Iterable[str]) -> str:
    return f"use {listing(names)}"


def _check(
    document: Document, path: str, data_dir: Path | None
) -> tuple[Experiment, Plan | None, DatasetInfo]:
    data = document.data
    experiment, flaws = _validate(data)
    info, unknown = _describe(data, data_dir)
    flaws += unknown
    if experiment and info:
        flaws += experiment_flaws(experiment, info, data_dir)
    goal = _goal(data, info)
    plan, misfits = _plan(data, goal, experiment) if goal else (None, [])
    flaws += misfits
    if flaws or experiment is None or info is None:
        raise SpecError(_place(flaw, document, path) for flaw in dict.fromkeys(flaws))
    return experiment, plan, info


def _validate(data: Any) -> tuple[Experiment | None, list[Flaw]]:
    try:
        return Experiment.model_validate(data), []
    except ValidationError as error:
        return None, flaws_of(error, data)


def _describe(data: Any, data_dir: Path | None) -> tuple[DatasetInfo | None, list[Flaw]]:
    dataset = data.get("dataset")
    name = dataset.get("name") if isinstance(dataset, dict) else None
    if not isinstance(name, str):
        return None, []
    try:
        return describe(name, data_dir), []
    except DataError as error:
        message, _, remedy = str(error).rstrip(".").partition("; ")
        return None, [Flaw(("dataset", "name"), message, remedy)]


def _goal(data: Any, info: DatasetInfo | None) -> Goal | None:
    if info is None or data.get("task") not in list(Task):
        return None
    if data["task"] == Task.CLASSIFY:
        return classify_goal(info.shape, info.num_classes)
    return reconstruct_goal(info.shape)


def _plan(data: Any, goal: Goal, experiment: Experiment | None) -> tuple[Plan | None, list[Flaw]]:
    model = data.get("model")
    raw = model.get("layers") if isinstance(model, dict) else None
    if not isinstance(raw, dict) or not raw:
        return None, []
    layers = experiment.model.layers if experiment else {n: _layer(v) for n, v in raw.items()}
    known = {name: _raw_inputs(value) for name, value in raw.items()}
    output = model.get("output")
    chosen = output if isinstance(output, str) else None
    return build_plan(layers, goal, output=chosen, known=known)


def _layer(value: Any) -> LayerOp | None:
    try:
        return _LAYER.validate_python(value)
    except ValidationError:
        return None


def _raw_inputs(value: Any) -> tuple[str, ...]:
    """Inputs of a layer that may be wrong otherwise."""
    inputs = value.get("inputs") if isinstance(value, dict) else None
    names = [inputs] if isinstance(inputs, str) else inputs
    return tuple(n for n in names if isinstance(n, str)) if isinstance(names, list) else ()


def _place(flaw: Flaw, document: Document, path: str) -> Problem:
    """Looks a flaw's place up, or that of the nearest mapping around it."""
    return Problem(_location(flaw.at, document, path), dotted(flaw.at), flaw.message, flaw.remedy)


def _location(at: KeyPath, document: Document, path: str) -> Location:
    for end in range(len(at), 0, -1):
        found = document.values.get(at[:end]) or document.keys.get(at[:end])
        if found:
            return found
    return Location(path)
