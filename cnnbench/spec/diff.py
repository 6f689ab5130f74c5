"""Differences between two experiments: layers, settings, size."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import shape_text
from cnnbench.spec.document import inline_text
from cnnbench.spec.loader import Loaded

ADDED, CHANGED, REMOVED, FOLLOWS = "+", "~", "-", ">"
MAX_LINES = 6  # for changes of a kind to the layers of one call
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Differences:
    """Differences between two experiments.

    Args:
      marks: added, changed or resized (because of earlier layers), by layer; unchanged layers
        are omitted.
      lines: one line per change; empty if there are none.
    """

    marks: Mapping[str, str]
    lines: tuple[str, ...]


def differences(base: Loaded, other: Loaded) -> Differences:
    """Compares `other` with `base`.

    Names and titles are ignored, and layers are matched by name.
    """
    marks: dict[str, str] = {}
    lines: list[str] = []
    if base.plan is not None and other.plan is not None:
        marks, lines = _layers(base.plan, other.plan)
        lines += _sizes(base.plan, other.plan)
    lines += _settings(base, other)
    return Differences(marks, tuple(lines))


def marked(plans: Sequence[Plan]) -> list[dict[str, str]]:
    """Marks of the layers of each network; in the first one, of layers that no other has.

    Args:
      plans: the baseline, then the networks to compare with it.
    """
    base, *others = plans
    kept = {name for other in others for name in other.by_name}
    gone = {name: REMOVED for name in base.by_name if others and name not in kept}
    return [gone, *(_layers(base, other)[0] for other in others)]


def _layers(base: Plan, other: Plan) -> tuple[dict[str, str], list[str]]:
    marks, texts = {}, []
    for name, node in other.by_name.items():
        old = base.by_name.get(name)
        if old is None:
            marks[name] = ADDED
            texts.append((ADDED, name, node.op.summary()))
        elif changes := list(_changes(old, node)):
            marks[name] = CHANGED
            texts.append((CHANGED, name, ", ".join(changes)))
        elif follows := list(_consequences(old, node)):
            marks[name] = FOLLOWS
            texts.append((FOLLOWS, name, f"resized, {', '.join(follows)}"))
    gone = [node for node in base.nodes if node.name not in other.by_name]
    texts += [(REMOVED, node.name, node.op.summary()) for node in gone]
    return marks, list(_summarized(texts))


def _summarized(texts: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """A line per change; many changes of a kind to the layers of one call share a line."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for mark, name, text in texts:
        groups.setdefault((mark, name.partition(".")[0]), []).append((name, text))
    for (mark, _), found in groups.items():
        if len(found) <= MAX_LINES:
            yield from (f"{mark} {name}: {text}" for name, text in found)
        else:
            follow = ", sizes follow" if mark == FOLLOWS else ""
            yield f"{mark} {len(found)} layers{follow}: {found[0][0]} to {found[-1][0]}"


def _changes(old: Node, new: Node) -> Iterator[str]:
    """Changes to the layer itself, without consequences of changes to earlier layers."""
    if type(old.op) is not type(new.op):
        yield _change(old.op.summary(), new.op.summary())
    else:
        before, after = (node.op.model_dump(exclude={"inputs"}) for node in (old, new))
        for key in before:
            if before[key] != after[key]:
                yield f"{key} {_change(_size_text(before[key]), _size_text(after[key]))}"
    if old.inputs != new.inputs:
        yield f"inputs {_change(', '.join(old.inputs), ', '.join(new.inputs))}"


def _consequences(old: Node, new: Node) -> Iterator[str]:
    """Consequences of changes to earlier layers for an unchanged layer."""
    if old.layout.shape != new.layout.shape:
        yield f"output {_change(shape_text(old.layout.shape), shape_text(new.layout.shape))}"
    elif old.in_shapes != new.in_shapes:
        before, after = (" and ".join(map(shape_text, n.in_shapes)) for n in (old, new))
        yield f"input {_change(before, after)}"
    if old.num_params != new.num_params:
        yield f"parameters {_change(f'{old.num_params:,}', f'{new.num_params:,}')}"


def _sizes(base: Plan, other: Plan) -> Iterator[str]:
    for name, old, new in (
        ("parameters", base.num_params, other.num_params),
        ("multiply-adds", base.multiply_adds, other.multiply_adds),
    ):
        if old != new:
            share = f" ({100 * (new / old - 1):+.1f}%)" if old else ""
            yield f"{name}: {_change(f'{old:,}', f'{new:,}')}{share}"


def _settings(base: Loaded, other: Loaded) -> Iterator[str]:
    """Changes to everything but names and layers, by key."""
    names = {"name", "title"}
    dumps = [loaded.experiment.model_dump(mode="json", exclude=names) for loaded in (base, other)]
    for dump in dumps:
        del dump["model"]["layers"], dump["model"]["output"]
    before, after = dumps
    for key, old, new in _changed(before, after):
        yield f"{key}: {_change(_text(old), _text(new))}"


def _changed(old: Any, new: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Paths and values of settings that differ; a section that one side lacks is one value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            inner = f"{at}.{key}" if at else key
            yield from _changed(old.get(key, _ABSENT), new.get(key, _ABSENT), inner)
    elif old != new:
        yield at, old, new


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}


def _size_text(value: Any) -> str:
    """Sizes as shown in tables; other options as written in files."""
    return shape_text(tuple(value)) if isinstance(value, list | tuple) else _text(value)


def _text(value: Any) -> str:
    match value:
        case _ if value is _ABSENT:
            return "absent"
        case str():
            return value
        case Mapping() | [Mapping(), *_]:
            return inline_text(_without_nulls(value))
        case _:
            return json.dumps(value)


def _change(old: str, new: str) -> str:
    return f"{old} -> {new}"
