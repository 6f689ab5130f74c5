"""Expands blocks, repeats and parameters into a graph of named layers.

A block is a graph of layers with parameters; a layer with the key ``block`` is a call, which is
replaced by the layers of the block, ``repeat`` times. Expansion works on the tree of values, not
on text: ``$name`` is a whole value, and arithmetic is limited to ``{times: [...]}`` and
``{of_input: ...}``. It happens before everything else, so that all other code, digests included,
only knows the expanded graph. Names are paths, such as ``stage2.0.a.conv``.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cnnbench.errors import Issue, Location, did_you_mean, or_list, quoted
from cnnbench.graph.build import use_one_of
from cnnbench.layers import OPERATIONS, LayerOp, output_of
from cnnbench.layers.base import INPUT, Shape, ShapeError, shape_text
from cnnbench.spec.document import Document, KeyPath
from cnnbench.spec.inheritance import replaces
from cnnbench.spec.vocabulary import KEY
from cnnbench.system.commands import cnnbench

CALL_KEYS = ("block", "repeat", "first", "last", "inputs", "weights")
WEIGHTS = ("new", "shared")
BLOCK_KEYS = ("params", "layers", "output")
MAX_LAYERS = 10_000
LAYERS: KeyPath = ("model", "layers")
BLOCKS: KeyPath = ("model", "blocks")
PARAMS: KeyPath = ("model", "params")
PARAM_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"
SHORTCUT_KINDS = ("conv", "pad")
_SHORTCUT_KEYS = ("op", "inputs", "like", "kind")
_LAYER: TypeAdapter[LayerOp] = TypeAdapter(LayerOp)

Fields = dict[str, tuple[Any, KeyPath]]  # the keys of a layer: value, and where it is written


@dataclass(frozen=True, slots=True)
class Expansion:
    """A document without blocks, and where its values come from.

    Args:
      document: the document, with all layers in `model.layers`.
      issues: errors in blocks and calls; if there are any, some layers are missing.
      origins: the path, in the file, of each expanded layer and of its values.
      key_origins: the path, in the file, of each key of an expanded layer; differs from that of
        the value if that is a parameter.
      calls: the calls that each expanded layer is part of, innermost first, as paths in the file.
      blocks: the block and the number of repetitions (0 without `repeat`) of each call outside
        blocks, by its name.
      names: of all layers and calls, for overrides.
      changed: layers and repetitions of blocks that are changed or removed by their path.
    """

    document: Document
    issues: tuple[Issue, ...] = ()
    origins: Mapping[KeyPath, KeyPath] = field(default_factory=dict)
    key_origins: Mapping[KeyPath, KeyPath] = field(default_factory=dict)
    calls: Mapping[str, tuple[KeyPath, ...]] = field(default_factory=dict)
    blocks: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def origin(self, at: KeyPath, *, of_key: bool = False) -> KeyPath:
        """The path in the file of a path in the expanded document, or of its key."""
        if of_key and at in self.key_origins:
            return self.key_origins[at]
        if at in self.document.values and at not in self.origins:
            return at  # a change of an expanded layer, which is written by its path
        found = (at[:end] for end in range(len(at), 2, -1) if at[:end] in self.origins)
        start = next(found, ())
        return (*self.origins[start], *at[len(start) :]) if start else at

    def chain(self, at: KeyPath) -> tuple[Location, ...]:
        """Locations of the layer in its block and of the calls, innermost first."""
        calls = self.calls.get(str(at[2]), ()) if at[:2] == LAYERS and len(at) > 2 else ()
        paths = [self.origins[at[:3]], *calls] if calls else []
        return tuple(self.document.keys[path] for path in paths if path in self.document.keys)


def expand(document: Document, input_shape: Callable[[], Shape | None]) -> Expansion:
    """Expands blocks, repeats and parameters.

    Args:
      document: an experiment, merged with its parents and overrides.
      input_shape: shape of an image, without the batch axis; None if unknown. It is called only
        if the file depends on it.
    """
    model = document.data.get("model") if isinstance(document.data, dict) else None
    if isinstance(model, dict) and _has_macros(model):
        return _Expander(document, model, input_shape).run()
    layers = model.get("layers") if isinstance(model, dict) else None
    return Expansion(document, names=tuple(layers) if isinstance(layers, dict) else ())


def _has_macros(model: Mapping[str, Any]) -> bool:
    layers = model.get("layers")
    if "params" in model or "blocks" in model:
        return True
    values = layers.values() if isinstance(layers, dict) else ()
    return any(isinstance(v, dict) and (_is_macro(v) or _refers(v)) for v in values)


def _is_macro(value: Mapping[str, Any]) -> bool:
    return "block" in value or value.get("op") == "shortcut"


def _refers(value: Any) -> bool:
    """Returns True if a value contains `$name` or arithmetic."""
    if isinstance(value, str):
        return "$" in value
    if isinstance(value, list):
        return any(_refers(item) for item in value)
    if isinstance(value, dict):
        return not value.keys().isdisjoint(_ARITHMETIC) or any(map(_refers, value.values()))
    return False


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where names and parameters are looked up.

    Args:
      prefix: of the names of layers, such as `stage2.0.`; empty outside blocks.
      names: the layers of the scope.
      params: values of parameters, and where they are written.
      sources: inputs of the block, or of the layer outside blocks.
      blocks: names of the blocks being expanded, outermost first.
      calls: their calls, innermost first.
      shared: prefixes of the layers of a repetition with shared weights, and of the first one;
        innermost first.
      shared_at: where the sharing is written.
    """

    prefix: str
    names: tuple[str, ...]
    params: Mapping[str, tuple[Any, KeyPath]]
    sources: tuple[str, ...] = (INPUT,)
    blocks: tuple[str, ...] = ()
    calls: tuple[KeyPath, ...] = ()
    shared: tuple[tuple[str, str], ...] = ()
    shared_at: KeyPath = ()

    def owner_of(self, full: str) -> str:
        """The layer whose weights a layer uses: itself unless it is in a shared repetition."""
        for own, first in self.shared:
            if full.startswith(own):
                full = first + full[len(own) :]
        return full


class _Problem(Exception):  # noqa: N818
    """An error in a macro, which becomes an `Issue`."""

    def __init__(self, at: KeyPath, message: str, remedy: str, *, of_key: bool = False) -> None:
        super().__init__(message)
        self.issue = Issue(at, message, remedy, of_key=of_key)


class _TooManyLayers(Exception):  # noqa: N818
    """Expansion ends, since it would take too long."""


class _Unknown(Exception):  # noqa: N818
    """A shape depends on invalid layers, which are reported elsewhere."""


@dataclass(slots=True)
class _Expander:
    """Expands one document; `run` may be called once."""

    document: Document
    model: Mapping[str, Any]
    input_shape: Callable[[], Shape | None]
    params: Mapping[str, tuple[Any, KeyPath]] = field(default_factory=dict)  # of the model
    layers: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    explicit: set[str] = field(default_factory=set)  # layers outside blocks that name their inputs
    alias: dict[str, str] = field(default_factory=dict)  # a call, and the layer of its output
    shapes: dict[str, Shape] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)
    origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    key_origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    calls: dict[str, tuple[KeyPath, ...]] = field(default_factory=dict)
    blocks: dict[str, tuple[str, int]] = field(default_factory=dict)
    patches: dict[str, Fields] = field(default_factory=dict)
    removed: dict[str, bool] = field(default_factory=dict)  # layers of blocks; True once found
    changed: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    seen: dict[str, None] = field(default_factory=dict)
    read: dict[KeyPath, tuple[str, str]] = field(default_factory=dict)  # calls, and their inputs

    def run(self) -> Expansion:
        """Expands all layers."""
        self.params = _fields(self._mapping(PARAMS, self.model.get("params")), PARAMS)
        self.issues += _bad_names(self.params, PARAMS)
        for name, block in self._mapping(BLOCKS, self.model.get("blocks")).items():
            self.issues += _block_issues(name, block)
        written = self._mapping(LAYERS, self.model.get("layers"))
        own = self._take_patches(written)
        self.changed = [name for name in written if name not in own]
        if not self.issues:
            with suppress(_TooManyLayers):
                self._expand_all(own, LAYERS, _Scope("", tuple(own), self.params))
                self.issues += self._leftovers()
        return self._expansion(tuple(dict.fromkeys([*written, *self.seen])))

    def _mapping(self, at: KeyPath, value: Any) -> dict[str, Any]:
        if value is None or isinstance(value, dict):
            return value or {}
        self.issues.append(Issue(at, f"{quoted(value)} is not a mapping", "write 'key: value'"))
        return {}

    def _take_patches(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """Separates changes of expanded layers, whose names are paths, from layers.

        A value of null removes the layer.
        """
        calls = {n for n, v in written.items() if isinstance(v, dict) and "block" in v}
        own = {}
        for name, value in written.items():
            starts = {name[: m.start()] for m in re.finditer(r"\.", name)}
            if starts.isdisjoint(calls) or not isinstance(value, dict | None):
                own[name] = value
            elif value is None:
                self.removed[name] = False
            else:
                self.patches[name] = _fields(value, (*LAYERS, name))
        return own

    def _leftovers(self) -> Iterator[Issue]:
        for name in [*self.patches, *(n for n, found in self.removed.items() if not found)]:
            message = f"unknown layer {quoted(name)}{did_you_mean(name, self.seen)}"
            remedy = (
                f"use the name of a layer in a block; {cnnbench('show', '--expand')} lists them"
            )
            yield Issue((*LAYERS, name), message, remedy, of_key=True)
        yield from self._unknown_inputs()
        for name in self.params:
            if name not in self.used and not self.issues:
                choices = [other for other in self.params if other != name]
                message = f"parameter {quoted(name)} is not used{did_you_mean(name, choices)}"
                yield Issue(
                    (*PARAMS, name), message, f"write ${name} in a layer, or remove it", of_key=True
                )

    def _unknown_inputs(self) -> Iterator[Issue]:
        """Inputs of calls that are not layers; those of layers are checked with the graph."""
        for at, (call, source) in self.read.items():
            if source == INPUT or source in self.seen:
                continue
            names = [name for name in self.seen if name != call and not name.startswith(f"{call}.")]
            message = f"unknown layer {quoted(source)}{did_you_mean(source, names)}"
            above = call.rpartition(".")[0]
            siblings = [name for name in names if name.rpartition(".")[0] == above]
            yield Issue(at, message, use_one_of([INPUT, *siblings]))

    def _expansion(self, names: tuple[str, ...]) -> Expansion:
        data = dict(self.document.data)
        model = {k: v for k, v in self.model.items() if k not in ("params", "blocks")}
        data["model"] = model | {"layers": dict(self._wired())}
        for key in ("output", "code_layer"):
            if isinstance(model.get(key), str):
                data["model"][key] = self._target(model[key])
        old = self.document

        def placed(
            places: Mapping[KeyPath, Location], origins: Mapping[KeyPath, KeyPath]
        ) -> dict[KeyPath, Location]:
            moved = {at: places[o] for at, o in origins.items() if o in places}
            return {**places, **moved}

        values = placed(old.values, self.origins)
        keys = placed(old.keys, self.origins | self.key_origins)
        document = replace(old, data=data, values=values, keys=keys)
        issues = tuple(dict.fromkeys(self.issues))
        origins, key_origins = self.origins, self.key_origins
        return Expansion(
            document,
            issues,
            origins,
            key_origins,
            self.calls,
            self.blocks,
            names,
            tuple(self.changed),
        )

    def _wired(self) -> Iterator[tuple[str, Any]]:
        """Layers with their inputs; those in blocks omit the default, the layer above."""
        above = INPUT
        for name, layer in self.layers.items():
            if isinstance(layer, dict):
                found = [self._target(source) for source in self.sources[name]]
                options = dict(layer)
                for key in ("tie", "weights"):
                    if isinstance(options.get(key), str):
                        options[key] = self._target(options[key])
                if name in self.explicit or found != [above]:
                    options["inputs"] = found
                yield name, options
            else:
                yield name, layer
            above = name

    def _target(self, name: str) -> str:
        """The layer that a name refers to, which may be that of a call."""
        for _ in range(len(self.alias) + 1):
            if name not in self.alias:
                break
            name = self.alias[name]
        return name

    def _expand_all(self, layers: Mapping[str, Any], at: KeyPath, scope: _Scope) -> str:
        """Expands the layers of a scope; returns the name of the last one."""
        above = scope.sources
        for name, value in layers.items():
            full = scope.prefix + name
            try:
                above = self._expand(full, value, (*at, name), above, scope)
            except _Problem as problem:
                self.issues.append(problem.issue)
        return above[0]

    def _expand(
        self, full: str, value: Any, at: KeyPath, above: tuple[str, ...], scope: _Scope
    ) -> tuple[str, ...]:
        """Expands one layer or call, whose default inputs are `above`; returns its name."""
        if self._is_removed(full):
            return above
        self._note(full, at, scope)
        if not isinstance(value, dict):
            self._emit(full, value, above)
            return (full,)
        fields = self._patched(full, _fields(value, at))
        sources = self._sources(full, fields, above, scope)
        local = scope if scope.blocks else replace(scope, sources=sources)
        if "block" in fields:
            self._call(full, fields, at, sources, local)
        elif fields.get("op", ("",))[0] == "shortcut":
            self._shortcut(full, fields, at, sources, local)
        else:
            self._layer(full, fields, sources, local)
        return (full,)

    def _is_removed(self, full: str) -> bool:
        if full in self.removed:
            self.removed[full] = True
        return full in self.removed

    def _note(self, full: str, at: KeyPath, scope: _Scope) -> None:
        self.seen[full] = None
        self.origins[(*LAYERS, full)] = at
        if scope.calls:
            self.calls[full] = scope.calls
        if len(self.seen) > MAX_LAYERS:
            outer = scope.calls[-1] if scope.calls else at
            message = f"expands to more than {MAX_LAYERS:,} layers"
            self.issues.append(Issue(outer, message, "repeat fewer blocks"))
            raise _TooManyLayers

    def _patched(self, full: str, fields: Fields) -> Fields:
        """Applies the changes that a file or an override makes to an expanded layer."""
        patch = self.patches.pop(full, {})
        lower, upper = ({key: pair[0] for key, pair in each.items()} for each in (fields, patch))
        found = patch if replaces(lower, upper, (*LAYERS, full)) else fields | patch
        known = self._keys_of(found)
        unset = {key for key, value in upper.items() if value is None and key in known}
        return {key: pair for key, pair in found.items() if key not in unset}

    def _keys_of(self, fields: Fields) -> Collection[str]:
        """Keys of a layer or call; of an unknown one, all it has."""
        op = str(fields.get("op", ("",))[0])
        if "block" in fields:
            return (*CALL_KEYS, *self._params_of(fields["block"][0]))
        if op == "shortcut":
            return _SHORTCUT_KEYS
        return OPERATIONS[op].model_fields if op in OPERATIONS else fields

    def _sources(
        self, full: str, fields: Fields, above: tuple[str, ...], scope: _Scope
    ) -> tuple[str, ...]:
        """Inputs of a layer or call as expanded names."""
        if "inputs" not in fields or fields["inputs"][0] is None:
            return above
        value, at = self._value(*fields["inputs"], scope)
        found = self._inputs(value, at, scope)
        if "block" in fields:
            self.read |= {place: (full, source) for source, place in found}
        return tuple(source for source, _ in found)

    def _inputs(self, value: Any, at: KeyPath, scope: _Scope) -> list[tuple[str, KeyPath]]:
        """Inputs as expanded names, and where they are written."""
        if isinstance(value, str):
            return [(source, at) for source in self._named(value, at, scope)]
        if not (isinstance(value, list) and value and all(isinstance(n, str) for n in value)):
            message = f"{quoted(value)} is not a layer name"
            raise _Problem(at, message, "use a layer name or a list of names")
        found = (self._inputs(name, (*at, i), scope) for i, name in enumerate(value))
        return [pair for pairs in found for pair in pairs]

    def _named(self, name: str, at: KeyPath, scope: _Scope) -> tuple[str, ...]:
        """The expanded names of an input, which are several for `input` of a call with several."""
        if not scope.blocks:
            return (name,)
        if name == INPUT:
            return scope.sources
        first, _, rest = name.partition(".")
        if first == INPUT and rest.isdecimal() and int(rest) < len(scope.sources):
            return (scope.sources[int(rest)],)
        if name in scope.names or first in scope.names:
            return (scope.prefix + name,)
        choices = [INPUT, *scope.names]
        message = f"unknown layer {quoted(name)} in block '{scope.blocks[-1]}'"
        raise _Problem(at, message + did_you_mean(name, choices), f"use {or_list(choices)}")

    def _emit(self, full: str, value: Any, sources: tuple[str, ...]) -> None:
        self.layers[full] = value
        self.sources[full] = sources

    def _layer(self, full: str, fields: Fields, sources: tuple[str, ...], scope: _Scope) -> None:
        """Emits a layer with the values of its parameters."""
        options: dict[str, Any] = {}
        for key, (written, at) in fields.items():
            value, origin = self._value(written, at, scope)
            self._record((*LAYERS, full, key), value, origin, at)
            self.key_origins[(*LAYERS, full, key)] = at
            if key in ("tie", "weights") and scope.blocks and isinstance(value, str):
                (value,) = self._named(value, at, scope)
            options[key] = value
        if options.pop("inputs", None) is not None and not scope.blocks:
            self.explicit.add(full)
        self._share(full, options, scope)
        self._emit(full, options, sources)

    def _share(self, full: str, options: dict[str, Any], scope: _Scope) -> None:
        """Gives a layer in a repetition with shared weights those of the first repetition."""
        owner, kind = scope.owner_of(full), OPERATIONS.get(str(options.get("op")))
        if owner == full or kind is None or "weights" not in kind.model_fields:
            return
        if owner in self.layers:
            self._record((*LAYERS, full, "weights"), owner, scope.shared_at, scope.shared_at)
            options.setdefault("weights", owner)
        elif not self.issues:
            message = f"the first repetition has no layer to share weights with '{full}'"
            remedy = "use one block for all repetitions, or weights: new"
            self.issues.append(Issue(scope.shared_at, message, remedy))

    def _record(self, to: KeyPath, value: Any, origin: KeyPath, key_at: KeyPath) -> None:
        """Notes where a value is written, and its parts."""
        self.origins[to] = origin if origin in self.document.values else key_at
        parts = enumerate(value) if isinstance(value, list) else ()
        for i, item in parts:
            self._record((*to, i), item, (*origin, i), key_at)

    def _call(
        self, full: str, fields: Fields, at: KeyPath, sources: tuple[str, ...], scope: _Scope
    ) -> None:
        """Expands a call."""
        if "op" in fields:
            raise _Problem(at, "has both op and block", "remove one of them")
        shared = self._is_shared(fields, at, scope)
        if "repeat" not in fields or fields["repeat"][0] is None:
            self._count(full, fields, 0, scope)
            arguments = self._arguments(fields, 0, 1, scope)
            self.alias[full] = self._body(full, arguments, at, sources, scope)
            return
        repeat = self._repeat(fields, scope)
        left = [i for i in range(repeat) if not self._is_removed(f"{full}.{i}")]
        self._count(full, fields, len(left), scope)
        for i in left:
            each = f"{full}.{i}"
            self._note(each, at, scope)
            chosen = self._patched(each, self._arguments(fields, i, repeat, scope))
            inner = scope
            if shared and i:
                pairs = ((f"{each}.", f"{full}.0."), *scope.shared)
                inner = replace(scope, shared=pairs, shared_at=fields["weights"][1])
            self.alias[each] = self._body(each, chosen, at, sources, inner)
            sources = (each, *sources[1:])
        self.alias[full] = sources[0]

    def _count(self, full: str, fields: Fields, repeat: int, scope: _Scope) -> None:
        if not scope.blocks:
            self.blocks[full] = (str(fields["block"][0]), repeat)

    def _is_shared(self, fields: Fields, at: KeyPath, scope: _Scope) -> bool:
        """True if all repetitions of a call use the same weights."""
        value, place = self._value(*fields.get("weights", ("new", at)), scope)
        if value not in WEIGHTS:
            message = f"{quoted(value)} is not a choice of weights"
            raise _Problem(place, message, f"use {or_list(WEIGHTS)}")
        repeat = fields.get("repeat", (None, at))[0]
        if value == "shared" and repeat is None:
            raise _Problem(
                place, "only repetitions share weights", "add 'repeat: ...', or remove weights"
            )
        return bool(value == "shared")

    def _repeat(self, fields: Fields, scope: _Scope) -> int:
        value, at = self._value(*fields["repeat"], scope)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _Problem(
                at, f"{quoted(value)} is not a number of repetitions", "use a positive integer"
            )
        return value

    def _arguments(self, fields: Fields, i: int, repeat: int, scope: _Scope) -> Fields:
        """Parameters of one repetition, evaluated where the call is written."""
        found = {key: pair for key, pair in fields.items() if key not in CALL_KEYS[1:]}
        regular = found["block"]
        for key, applies in (("first", i == 0), ("last", i == repeat - 1)):
            value, at = fields.get(key, ({}, ()))
            if not isinstance(value, dict):
                raise _Problem(
                    at,
                    f"{quoted(value)} is not a mapping",
                    f"use parameters of the block, as in {key}: {{stride: 2}}",
                )
            if applies:
                found = self._kept(found, value, regular) | _fields(value, at)
        if fixed := next((key for key in found if key in CALL_KEYS[1:]), None):
            raise _Problem(
                found[fixed][1],
                f"{fixed} cannot differ between repetitions",
                "set it on the call",
                of_key=True,
            )
        return {
            key: self._value(*_choice(self._with_list(value, at, scope), at, i, repeat), scope)
            for key, (value, at) in found.items()
        }

    def _with_list(self, value: Any, at: KeyPath, scope: _Scope) -> Any:
        """`{each: [...]}` for `{each: $name}`; any other value as it is."""
        if isinstance(value, dict) and isinstance(name := value.get("each"), str):
            return {"each": self._value(name, (*at, "each"), scope)[0]}
        return value

    def _kept(self, fields: Fields, changes: Mapping[str, Any], regular: Any) -> Fields:
        """Parameters of the call that apply to the block of a first or last repetition.

        Another block need not have all parameters of the regular one.
        """
        ours = self._params_of(regular[0])
        theirs = self._params_of(changes.get("block", regular[0]))
        return {key: pair for key, pair in fields.items() if key in theirs or key not in ours}

    def _params_of(self, name: Any) -> Mapping[str, Any]:
        block = (self.model.get("blocks") or {}).get(name) if isinstance(name, str) else None
        params = block.get("params") if isinstance(block, dict) else None
        return params if isinstance(params, dict) else {}

    def _body(
        self, full: str, fields: Fields, at: KeyPath, sources: tuple[str, ...], scope: _Scope
    ) -> str:
        """Expands the layers of a block once; returns the name of its output."""
        name, block = self._block(fields, scope)
        params = self._bound(name, block, fields, at)
        blocks = (*scope.blocks, name)
        layers = block["layers"]
        calls = (at, *scope.calls)
        inner = _Scope(
            f"{full}.",
            tuple(own for own in layers if f"{full}.{own}" not in self.removed),
            {**self.params, **params},
            sources,
            blocks,
            calls,
            scope.shared,
            scope.shared_at,
        )
        last = self._expand_all(layers, (*BLOCKS, name, "layers"), inner)
        output = block.get("output")
        if output is None:
            return last
        return self._named(output, (*BLOCKS, name, "output"), inner)[0]

    def _block(self, fields: Fields, scope: _Scope) -> tuple[str, Mapping[str, Any]]:
        """The block of a call."""
        name, at = fields["block"]
        blocks = self.model.get("blocks") or {}
        if not isinstance(name, str) or name not in blocks:
            hint = did_you_mean(str(name), blocks)
            remedy = f"use {or_list(blocks)}" if blocks else "define it in model.blocks"
            raise _Problem(at, f"unknown block {quoted(name)}{hint}", remedy)
        if name in scope.blocks:
            path = " calls ".join([*scope.blocks[scope.blocks.index(name) :], name])
            raise _Problem(at, f"the block contains itself ({path})", "use another block")
        return name, blocks[name]

    def _bound(
        self, name: str, block: Mapping[str, Any], fields: Fields, at: KeyPath
    ) -> dict[str, tuple[Any, KeyPath]]:
        """Parameters of a block: arguments of the call, or defaults."""
        own = block.get("params") or {}
        for key, (_, found) in fields.items():
            if key not in own and key != "block":
                message = f"block '{name}' has no parameter {quoted(key)}"
                hint, remedy = _instead(name, block, key)
                place = self._key_place(key, found, at)
                raise _Problem(place, message + hint, remedy, of_key=True)
        missing = [key for key, value in own.items() if value is None and key not in fields]
        if missing:
            raise _Problem(
                at, f"block '{name}' needs a value for '{missing[0]}'", f"add '{missing[0]}: ...'"
            )
        defaults = _fields(own, (*BLOCKS, name, "params"))
        return defaults | {key: pair for key, pair in fields.items() if key != "block"}

    def _key_place(self, key: str, place: KeyPath, at: KeyPath) -> KeyPath:
        """Where the key of a call is written, whose value may be that of a parameter."""
        if place[:-1] == at or place[: len(at) + 1] in ((*at, "first"), (*at, "last")):
            return place
        written = [(*at, key), (*at, "first", key), (*at, "last", key)]
        return next((path for path in written if path in self.document.keys), place)

    def _shortcut(
        self, full: str, fields: Fields, at: KeyPath, sources: tuple[str, ...], scope: _Scope
    ) -> None:
        """Identity where the shapes agree; otherwise a projection, or padding with zeros.

        The kinds are the options A (`pad`) and B (`conv`) of He et al. 2016, section 3.3.
        """
        like, kind = self._shortcut_options(fields, at, scope)
        try:
            here, there = self._shape(sources[0], at), self._shape(like, at)
        except _Unknown:
            here = there = ()
        if here == there:
            self.alias[full] = sources[0]
            return
        for name, options in _projection(here, there, kind, at):
            child = f"{full}.{name}"
            self._note(child, at, scope)
            written = {key: (value, at) for key, value in options.items()}
            self._layer(child, self._patched(child, written), sources, scope)
            sources = (child,)
        self.alias[full] = sources[0]

    def _shortcut_options(self, fields: Fields, at: KeyPath, scope: _Scope) -> tuple[str, str]:
        """The layer whose shape a shortcut has, and its kind."""
        for key, (_, place) in fields.items():
            if key not in _SHORTCUT_KEYS:
                raise _Problem(
                    place,
                    f"shortcut has no {quoted(key)}",
                    f"use {or_list(_SHORTCUT_KEYS)}",
                    of_key=True,
                )
        if "like" not in fields:
            raise _Problem(
                at, "'like' is missing", "add 'like: ...' (the layer whose shape the shortcut has)"
            )
        like, place = self._value(*fields["like"], scope)
        kind, kind_at = self._value(*fields.get("kind", ("conv", at)), scope)
        if kind not in SHORTCUT_KINDS:
            raise _Problem(kind_at, f"{quoted(kind)} is not a kind of shortcut", "use conv or pad")
        return self._named(str(like), place, scope)[0], kind

    def _value(self, value: Any, at: KeyPath, scope: _Scope) -> tuple[Any, KeyPath]:
        """A value without parameters and arithmetic, and where it is written."""
        if isinstance(value, str) and "$" in value:
            return self._param(value, at, scope)
        if isinstance(value, list):
            return [self._value(item, (*at, i), scope)[0] for i, item in enumerate(value)], at
        if not isinstance(value, dict):
            return value, at
        if not value.keys().isdisjoint(_ARITHMETIC):
            return self._number(value, at, scope), at
        return {key: self._value(item, (*at, key), scope)[0] for key, item in value.items()}, at

    def _param(self, value: str, at: KeyPath, scope: _Scope) -> tuple[Any, KeyPath]:
        name = value[1:]
        if not re.fullmatch(rf"\${PARAM_PATTERN}", value):
            message = f"{quoted(value)} is not the name of a parameter"
            raise _Problem(at, message, _whole_value(value))
        if name not in scope.params:
            choices = [f"${other}" for other in scope.params]
            remedy = f"use {or_list(choices)}" if choices else "define it in model.params"
            hint = did_you_mean(value, choices)
            raise _Problem(at, f"unknown parameter {quoted(value)}{hint}", remedy)
        found, origin = scope.params[name]
        if origin[:2] == PARAMS:
            self.used.add(name)
        if origin == at:  # a parameter of the model that refers to itself
            raise _Problem(at, f"parameter {quoted(name)} refers to itself", "write a value")
        return self._value(found, origin, scope) if _refers(found) else (found, origin)

    def _number(self, value: Mapping[str, Any], at: KeyPath, scope: _Scope) -> int | float:
        """The result of `{times: [...]}` or `{of_input: ...}`."""
        key = next(key for key in value if key in _ARITHMETIC)
        for other in value:
            if other not in (key, "multiple_of"):
                raise _Problem(
                    (*at, other),
                    f"{key} has no option {quoted(other)}",
                    "use multiple_of, or remove it",
                    of_key=True,
                )
        written, _ = self._value(value[key], (*at, key), scope)
        factors = written if key == "times" else [written]
        if not isinstance(factors, list) or not factors or not all(map(_is_number, factors)):
            example = "{times: [16, $width]}" if key == "times" else "{of_input: 6}"
            raise _Problem(
                (*at, key),
                f"{quoted(written)} cannot be multiplied",
                f"use numbers, as in {example}",
            )
        product = math.prod(factors)
        multiple = self._value(value.get("multiple_of"), (*at, "multiple_of"), scope)[0]
        if key == "of_input":
            product = max(round(product * self._channels(scope.sources[0], at)), 1)
        if multiple is not None:
            return _rounded(product, multiple, (*at, "multiple_of"))
        return int(product) if float(product).is_integer() else product

    def _channels(self, name: str, at: KeyPath) -> int:
        """Channels of a layer; 1 if it is invalid, which is reported elsewhere."""
        try:
            return self._shape(name, at)[-1]
        except _Unknown:
            return 1

    def _shape(self, name: str, at: KeyPath) -> Shape:
        """Shape of the output of a layer above.

        Raises:
          _Unknown: the layers above are invalid, or the dataset is unknown.
        """
        waiting, begun = [self._target(name)], set[str]()  # not recursive: networks may be deep
        while waiting:
            top = waiting[-1]
            missing = [s for s in self._sources_of(top, at) if s not in self.shapes]
            if not missing:
                self.shapes[waiting.pop()] = self._infer(top)
            elif top in begun:  # a cycle
                raise _Unknown
            begun.add(top)
            waiting += missing
        return self.shapes[self._target(name)]

    def _sources_of(self, name: str, at: KeyPath) -> list[str]:
        """Inputs of a layer above."""
        if name != INPUT and name not in self.layers:
            raise _Problem(
                at, f"the shape of layer {quoted(name)} is not known here", "use a layer above"
            )
        return [self._target(source) for source in self.sources.get(name, ())]

    def _infer(self, name: str) -> Shape:
        """Shape of a layer whose inputs have known shapes, or of the image."""
        if name == INPUT:
            shape = self.input_shape()
            if shape is None:
                raise _Unknown
            return shape
        try:
            op = _LAYER.validate_python(self.layers[name])
            shapes = tuple(self.shapes[self._target(source)] for source in self.sources[name])
            return output_of(op, shapes).shape
        except (ValidationError, ShapeError):
            raise _Unknown from None


_ARITHMETIC = ("times", "of_input")


def _fields(value: Mapping[str, Any], at: KeyPath) -> Fields:
    return {key: (item, (*at, key)) for key, item in value.items()}


def _instead(name: str, block: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Hint and remedy for a key of a call that is not a parameter of the block."""
    own = list(block.get("params") or {})
    if key in block["layers"]:
        return "", f"use model.blocks.{name}.layers.{key} to change its layer in all calls"
    if hint := KEY.hint(key, own):
        return hint, f"use {or_list(own)}"
    of_calls = CALL_KEYS[1:]
    if hint := KEY.hint(key, of_calls):
        return hint, f"use {or_list([*own, *of_calls])}"
    return "", f"use {or_list(own)}" if own else "remove it"


def _whole_value(text: str) -> str:
    """What to write instead of a text that contains a parameter.

    >>> _whole_value("${width}"), _whole_value("2 * $width")
    ('use $width', 'use $NAME alone; write a product as {times: [2, $width]}')
    """
    if braces := re.fullmatch(rf"\${{\s*({PARAM_PATTERN})\s*}}", text):
        return f"use ${braces[1]}"
    factors = [part.strip() for part in text.split("*")]
    known = all(re.fullmatch(rf"\${PARAM_PATTERN}|[\d.]+", factor) for factor in factors)
    example = ", ".join(factors if known and len(factors) > 1 else ("2", "$width"))
    return f"use $NAME alone; write a product as {{times: [{example}]}}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _choice(value: Any, at: KeyPath, i: int, repeat: int) -> tuple[Any, KeyPath]:
    """The value of `{each: [...]}` for one repetition."""
    if not isinstance(value, dict) or "each" not in value:
        return value, at
    items = value["each"]
    if not isinstance(items, list) or len(items) != repeat:
        number = len(items) if isinstance(items, list) else 1
        values = "1 value" if number == 1 else f"{number} values"
        raise _Problem(
            (*at, "each"), f"has {values} for {repeat} repetitions", f"list {repeat} values"
        )
    return items[i], (*at, "each", i)


def _rounded(number: float, multiple: Any, at: KeyPath) -> int:
    """The closest multiple that is at least 90% of a number (MobileNet's `_make_divisible`).

    >>> _rounded(24 * 0.75, 8, ()), _rounded(10, 8, ())
    (24, 16)
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise _Problem(at, f"{quoted(multiple)} is not a divisor", "use a positive integer")
    found = max(multiple, int(number + multiple / 2) // multiple * multiple)
    return found + multiple if found < 0.9 * number else found


def _bad_names(names: Iterable[str], at: KeyPath) -> Iterator[Issue]:
    for name in names:
        if name in CALL_KEYS or name == "op":
            message = f"{quoted(name)} is a key of a call"
            yield Issue((*at, name), message, "choose another name", of_key=True)
        elif not re.fullmatch(PARAM_PATTERN, name):
            message = f"{quoted(name)} is not a valid parameter name"
            remedy = "start with a letter and use letters, digits and '_'"
            yield Issue((*at, name), message, remedy, of_key=True)


def _block_issues(name: str, block: Any) -> Iterator[Issue]:
    """Issues of the keys of a block, whose layers are checked where they are used."""
    at = (*BLOCKS, name)
    if not isinstance(block, dict) or not isinstance(block.get("layers"), dict):
        yield Issue(at, f"block {quoted(name)} has no layers", "add 'layers: ...'")
        return
    for key in block:
        if key not in BLOCK_KEYS:
            message = f"unknown key {quoted(key)}{did_you_mean(key, BLOCK_KEYS)}"
            yield Issue((*at, key), message, f"use {or_list(BLOCK_KEYS)}", of_key=True)
    params = block.get("params") or {}
    if not isinstance(params, dict):
        yield Issue((*at, "params"), f"{quoted(params)} is not a mapping", "write 'key: value'")
        return
    yield from _bad_names(params, (*at, "params"))
    yield from _layer_names(block["layers"], (*at, "layers"))
    output = block.get("output")
    if output is not None and output not in block["layers"]:
        hint = did_you_mean(str(output), block["layers"])
        message = f"unknown layer {quoted(output)} in block '{name}'{hint}"
        yield Issue((*at, "output"), message, f"use {or_list(block['layers'])}")


def _layer_names(names: Sequence[str] | Mapping[str, Any], at: KeyPath) -> Iterator[Issue]:
    for name in names:
        if name == INPUT:
            message = "'input' is reserved (the input of the block)"
            yield Issue((*at, name), message, "choose another name", of_key=True)
        elif "." in name:
            message = f"{quoted(name)} is not a valid layer name in a block"
            remedy = "start with a letter and use letters, digits, '-' and '_'"
            yield Issue((*at, name), message, remedy, of_key=True)


def _projection(
    here: Shape, there: Shape, kind: str, at: KeyPath
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Layers that convert a shape to that of another layer."""
    strides = _strides(here, there)
    if strides is None:
        message = f"no stride converts {shape_text(here)} to {shape_text(there)}"
        raise _Problem(at, message, "use a layer whose height and width are a fraction of these")
    stride: int | list[int] = strides[0] if strides[0] == strides[1] else list(strides)
    moves = {} if stride == 1 else {"stride": stride}
    if kind == "conv":
        yield "conv", {"op": "conv", "filters": there[2], "kernel": 1, **moves, "use_bias": False}
        yield "norm", {"op": "batch_norm"}
        return
    extra = there[2] - here[2]
    if extra < 0:
        message = f"padding cannot reduce {here[2]} channels to {there[2]}"
        raise _Problem(at, message, "use kind: conv")
    if moves:
        yield "subsample", {"op": "max_pool", "size": 1, **moves}
    if extra:
        yield "pad", {"op": "zero_pad", "channels": [extra // 2, extra - extra // 2]}


def _strides(here: Shape, there: Shape) -> tuple[int, int] | None:
    """Strides that reduce the height and width of an image to those of another."""
    if len(here) != 3 or len(there) != 3:
        return None
    strides = tuple(math.ceil(a / b) for a, b in zip(here[:2], there[:2], strict=True))
    fits = all(math.ceil(a / s) == b for a, b, s in zip(here, there, strides, strict=False))
    return (strides[0], strides[1]) if fits else None
