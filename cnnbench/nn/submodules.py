"""Submodules of a Python model: what each of them gives, found by capturing its calls.

A model is taken as a tree of `nnx.Module`s. Whenever one of them is called its result is captured
under its path, such as `blocks.0.conv`; a second call of the same module is `blocks.0.conv#2`.
Values that a model sows as `nnx.Intermediate` are captured under the path of the module and
their own name. What happens between two modules, such as a `relu` or a sum, has no name and
belongs to the module that makes the call. So do calls inside of a transformation, such as those
of the body of a `jax.lax.scan`, whose values do not leave it.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from cnnbench.data.catalog import DatasetInfo
from cnnbench.layers.base import INPUT, shape_text
from cnnbench.nn.ops import shifted
from cnnbench.nn.python_model import make_module, require_output, split_model
from cnnbench.spec.experiment import Experiment, Task
from cnnbench.system.settings import pinned

SCOPE = "cnnbench_call:"  # before a call's name in JAX's stack of names


@dataclass(frozen=True, slots=True)
class SubmoduleCall:
    """A call of a submodule that calls no other.

    Args:
      name: its path in the model.
      operation: its class, with the shape of its kernel.
      inputs: the parts whose results it is computed from, and `input` for the image.
      shape: of its result for one image.
      num_params: its trained values, counted at its first call.
      multiply_adds: of its convolutions and matrix products, for one image.
    """

    name: str
    operation: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    num_params: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class Outline:
    """A Python model as it is shown.

    Args:
      input_shape: of an image.
      output_shape: of the result for one image.
      output_inputs: the parts that the result is computed from.
      parts: in the order of their calls.
      num_params: trained values of the whole model, also outside of the parts.
      multiply_adds: of the whole model, likewise, for one image.
      num_slow: its depthwise convolutions that `cnnbench.depthwise` would make faster on a CPU.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    output_inputs: tuple[str, ...]
    parts: tuple[SubmoduleCall, ...]
    num_params: int
    multiply_adds: int
    num_slow: int = 0


@dataclass(slots=True)
class _Calls:
    """Calls as they are captured.

    Args:
      names: of the modules, by identity.
      trace: the transformation of JAX in which the model itself is called.
      outputs: results that are single arrays, by the call's name.
      inputs: arrays among a call's arguments.
      modules: the module of each call.
      parents: calls that made others.
    """

    names: dict[int, str]
    trace: Any = field(default_factory=get_opaque_trace_state)
    outputs: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, list[Any]] = field(default_factory=dict)
    modules: dict[str, nnx.Module] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    active: list[tuple[int, str]] = field(default_factory=list)

    def call(self, real: Any, module: Any, args: Any, kwargs: Any) -> Any:
        """Calls a module and captures what it gives."""
        path = self.names.get(id(module))
        # A class that calls its parent's __call__ is one call.
        again = any(known == id(module) for known, _ in self.active)
        if path is None or again or get_opaque_trace_state() != self.trace:
            return real(module, *args, **kwargs)
        self.counts[path] += 1
        name = path if self.counts[path] == 1 else f"{path}#{self.counts[path]}"
        self.parents.update(above for _, above in self.active)
        self.active.append((id(module), name))
        try:
            with jax.named_scope(SCOPE + name):
                result = real(module, *args, **kwargs)
        finally:
            self.active.pop()
        if isinstance(result, jax.Array):
            self.outputs[name], self.modules[name] = result, module
            self.inputs[name] = [x for x in jax.tree.leaves((args, kwargs)) if _is_array(x)]
        return result


@contextmanager
def _capturing(model: nnx.Module) -> Iterator[_Calls]:
    """Captures the calls of all submodules while the body runs; not those of the model itself."""
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    calls = _Calls({id(module): path for path, module in modules.items() if path})
    owners = {_owner(type(module)) for path, module in modules.items() if path} - {None}
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(_patched(owner, calls))
        yield calls


def _owner(kind: type) -> type | None:
    """The class in which the `__call__` of a class is written."""
    return next((each for each in kind.__mro__ if "__call__" in vars(each)), None)


@contextmanager
def _patched(owner: Any, calls: _Calls) -> Iterator[None]:
    real = vars(owner)["__call__"]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return calls.call(real, self, args, kwargs)

    owner.__call__ = call
    try:
        yield
    finally:
        owner.__call__ = real


def captured(model: nnx.Module, images: jax.Array) -> tuple[Any, Mapping[str, jax.Array]]:
    """The result of a model, and what each of its submodules gives, by name.

    Args:
      model: in evaluation mode.
      images: (n, h, w, c), scaled as in training.
    """
    with _capturing(model) as calls:
        result = model(images)
    count = len(images)
    found = calls.outputs | dict(_sown(model))
    # JAX sorts the names of a plain dict.
    return result, OrderedDict(
        (name, value) for name, value in found.items() if value.ndim and len(value) == count
    )


def _sown(model: nnx.Module) -> Iterator[tuple[str, jax.Array]]:
    for path, variable in nnx.to_flat_state(nnx.pop(model, nnx.Intermediate)):
        values = variable.get_value() if isinstance(variable, nnx.Variable) else variable
        values = values if isinstance(values, tuple) else (values,)
        for number, value in enumerate(values, start=1):
            name = ".".join(map(str, path)) + (f"#{number}" if number > 1 else "")
            if isinstance(value, jax.Array):
                yield name, value


def outline(
    make: type[nnx.Module],
    args: Mapping[str, Any],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> Outline:
    """Shapes, parameters and cost of a Python model; nothing is computed.

    Args:
      make: its class.
      args: keyword arguments of the class.
      input_shape: of an image, (h, w, c).
      output_shape: that the task needs for one image.

    Raises:
      ModelError: the class does not take these arguments, or returns something else.
    """
    model: Any = nnx.eval_shape(partial(make_module, make, args, 0))
    model.eval()
    graphdef, *state = split_model(model)
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    seen: list[_Calls] = []

    def run(state: Any, images: jax.Array) -> Any:
        merged: Any = nnx.merge(graphdef, *state, copy=True)
        with _capturing(merged) as calls:
            result = merged(images)
        nnx.pop(merged, nnx.Intermediate)
        seen.append(calls)
        return result, calls.outputs, calls.inputs

    jaxpr, shapes = jax.make_jaxpr(run, return_shape=True)(state, images)
    require_output(shapes[0], output_shape)
    calls = seen[-1]
    leaves = [name for name in calls.outputs if name not in calls.parents]
    wiring = _Wiring(jaxpr.jaxpr, shapes, leaves, len(jax.tree.leaves(state)))
    costs = _costs(jaxpr.jaxpr)
    first = {name for name in leaves if "#" not in name}
    parts = tuple(
        SubmoduleCall(
            name,
            _operation(calls.modules[name]),
            wiring.sources(name),
            tuple(calls.outputs[name].shape[1:]),
            _num_params(calls.modules[name]) if name in first else 0,
            costs.get(name, 0),
        )
        for name in leaves
    )
    return Outline(
        input_shape,
        output_shape,
        wiring.result_sources,
        parts,
        sum(leaf.size for leaf in jax.tree.leaves(state[0])),
        sum(costs.values()),
        count_slow(jaxpr.jaxpr),
    )


def experiment_outline(
    experiment: Experiment, make: type[nnx.Module], info: DatasetInfo
) -> Outline:
    """Outlines the Python model of an experiment.

    Args:
      experiment: whose model it is.
      make: its class.
      info: its dataset.

    Raises:
      ModelError: as `outline`.
    """
    want = (info.num_classes,) if experiment.task is Task.CLASSIFY else info.shape
    with pinned():
        return outline(make, experiment.model.args, info.shape, want)


def _operation(module: nnx.Module) -> str:
    kernel = getattr(module, "kernel", None)
    shape = f" {shape_text(kernel.shape)}" if isinstance(kernel, nnx.Variable) else ""
    groups = getattr(module, "feature_group_count", 1)
    return f"{type(module).__name__}{shape}" + (f", {groups} groups" if groups != 1 else "")


def _num_params(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def _is_array(value: object) -> bool:
    return isinstance(value, jax.Array)


class _Wiring:
    """Which part is computed from which, by the program that JAX has traced."""

    def __init__(self, program: Any, shapes: Any, leaves: Sequence[str], num_state: int) -> None:
        flat: Any = jax.tree.unflatten(jax.tree.structure(shapes), program.outvars)
        self._result, outputs, self._inputs = flat
        self._order = {INPUT: 0} | {name: place for place, name in enumerate(leaves, start=1)}
        self._names: dict[int, list[str]] = {}  # a module may give what another has given it
        for image in program.invars[num_state:]:
            self._names.setdefault(id(image), []).append(INPUT)
        for name in leaves:
            self._names.setdefault(id(outputs[name]), []).append(name)
        self._makers = {id(var): eqn for eqn in program.eqns for var in eqn.outvars}

    def sources(self, name: str) -> tuple[str, ...]:
        """Of the arguments of a part."""
        return self._from(self._inputs[name], self._order[name])

    @property
    def result_sources(self) -> tuple[str, ...]:
        """Of the model's result."""
        return self._from([self._result], len(self._order))

    def _from(self, variables: Iterable[Any], end: int) -> tuple[str, ...]:
        """The last parts before a place in the order of the calls that variables come from."""
        found: set[str] = set()
        waiting, seen = list(variables), set[int]()
        while waiting:
            variable = waiting.pop()
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            names = [n for n in self._names.get(id(variable), ()) if self._order[n] < end]
            if names:
                found.add(names[-1])
            elif maker := self._makers.get(id(variable)):
                waiting += maker.invars
        return tuple(sorted(found, key=self._order.__getitem__))


def _costs(program: Any, above: str = "", times: int = 1) -> Counter[str]:
    """Multiply-adds of convolutions and matrix products by the call that makes them."""
    found: Counter[str] = Counter()
    for equation in program.eqns:
        name = _innermost(str(equation.source_info.name_stack)) or above
        found[name] += times * _multiply_adds(equation)
        repeats = times * equation.params.get("length", 1)
        for inner in _inner(equation.params.values()):
            found += _costs(inner, name, repeats)
    return found


def count_slow(program: Any) -> int:
    """Number of depthwise convolutions that XLA computes and `cnnbench.depthwise` could.

    Args:
      program: what JAX has traced; of the loops in it, the body counts once.
    """
    return sum(
        shifted.is_slow(equation) + sum(map(count_slow, _inner(equation.params.values())))
        for equation in program.eqns
    )


def _inner(values: Iterable[Any]) -> Iterator[Any]:
    """The programs among the parameters of an equation."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _inner(value)
        elif hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)


def _innermost(stack: str) -> str:
    _, scope, rest = stack.rpartition(SCOPE)
    return rest.partition("/")[0] if scope else ""


def _multiply_adds(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        inner = math.prod(shape[axis] for axis in contracted)
    elif equation.primitive.name == "conv_general_dilated":
        shape = equation.invars[1].aval.shape
        inner = math.prod(shape) // shape[equation.params["dimension_numbers"].rhs_spec[0]]
    elif equation.primitive.name == "mul" and shifted.SCOPE in str(equation.source_info.name_stack):
        inner = 1
    else:
        return 0
    return int(math.prod(equation.outvars[0].aval.shape) * inner)
