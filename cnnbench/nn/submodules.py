"""Captures the outputs of the submodules of a Python model.

A model is a tree of `nnx.Module`s. The output of each call is captured under the path of the
module, such as `blocks.0.conv`; a second call of the same module is `blocks.0.conv#2`. Values that
a model sows as `nnx.Intermediate` are captured under the path of the module and their own name.
Operations between modules, such as a `relu` or a sum, have no name and belong to the calling
module. So do calls inside transformations, such as the body of a `jax.lax.scan`, whose values are
not accessible.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
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
from cnnbench.spec.experiment import Experiment, output_shape
from cnnbench.system.settings import pinned

SCOPE = "cnnbench_call:"  # prefix of call names in the JAX name stack


@dataclass(frozen=True, slots=True)
class SubmoduleCall:
    """A call of a leaf submodule, which calls no other.

    Args:
      name: path in the model.
      operation: class name, with the shape of its kernel.
      inputs: names of the calls whose outputs it depends on; `Outline.input_name` for the image.
      shape: output shape for one image.
      num_params: number of trainable parameters, counted at the first call.
      multiply_adds: multiply-adds of its convolutions and matrix products, per image.
    """

    name: str
    operation: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    num_params: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class Outline:
    """Structure of a Python model, for display.

    Args:
      input_shape: shape of an image.
      output_shape: output shape for one image.
      output_inputs: names of the calls that the output depends on.
      parts: calls of leaf submodules, in order.
      num_params: number of trainable parameters of the whole model, including those outside of the
        parts.
      multiply_adds: multiply-adds of the whole model, per image.
      num_slow: number of depthwise convolutions that `cnnbench.depthwise` would accelerate on CPUs.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    output_inputs: tuple[str, ...]
    parts: tuple[SubmoduleCall, ...]
    num_params: int
    multiply_adds: int
    num_slow: int = 0

    @property
    def input_name(self) -> str:
        """Name of the image among the parts."""
        return _free_name(INPUT, {part.name for part in self.parts})

    @property
    def output_name(self) -> str:
        """Name of the output among the parts."""
        return _free_name("output", {part.name for part in self.parts})


def _free_name(name: str, calls: Container[str]) -> str:
    """Puts a name in parentheses, as no attribute is named, if a call has it.

    >>> _free_name("input", {"stem"}), _free_name("input", {"input", "stem"})
    ('input', '(input)')
    """
    return f"({name})" if name in calls else name


@dataclass(slots=True)
class _Calls:
    """Records captured calls.

    Args:
      names: module paths by object id.
      trace: the JAX trace in which the model itself is called.
      outputs: outputs that are single arrays, by call name.
      inputs: array arguments by call name.
      modules: module by call name.
      parents: names of calls that call other modules.
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
        """Calls a module and captures its output."""
        path = self.names.get(id(module))
        # Calling the __call__ of the parent class counts as the same call.
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
    """Captures calls of all submodules, but not of the model itself, while the body runs."""
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    calls = _Calls({id(module): path for path, module in modules.items() if path})
    owners = {_owner(type(module)) for path, module in modules.items() if path} - {None}
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(_patched(owner, calls))
        yield calls


def _owner(kind: type) -> type | None:
    """The class that defines the `__call__` of a class."""
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
    """Runs a model, and returns its output and the outputs of its submodules by name.

    Args:
      model: the model, in evaluation mode.
      images: (n, h, w, c), scaled as in training.
    """
    with _capturing(model) as calls:
        result = model(images)
    count = len(images)
    found = calls.outputs | dict(_sown(model))
    # JAX sorts the keys of a plain dict.
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
    """Structure, shapes, parameters and cost of a Python model, by abstract evaluation.

    Args:
      make: class of the model.
      args: keyword arguments for the class.
      input_shape: shape of an image, (h, w, c).
      output_shape: required output shape for one image.

    Raises:
      ModelError: the class does not accept these arguments, or has another output shape.
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
      experiment: the experiment.
      make: class of the model.
      info: metadata of its dataset.

    Raises:
      ModelError: as `outline`.
    """
    want = output_shape(experiment.task, info)
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
    """Data flow between calls, from the jaxpr of the model."""

    def __init__(self, program: Any, shapes: Any, leaves: Sequence[str], num_state: int) -> None:
        flat: Any = jax.tree.unflatten(jax.tree.structure(shapes), program.outvars)
        self._result, outputs, self._inputs = flat
        input_name = _free_name(INPUT, leaves)
        self._order = {name: place for place, name in enumerate([input_name, *leaves])}
        self._names: dict[int, list[str]] = {}  # a module may return its input
        for image in program.invars[num_state:]:
            self._names.setdefault(id(image), []).append(input_name)
        for name in leaves:
            self._names.setdefault(id(outputs[name]), []).append(name)
        self._makers = {id(var): eqn for eqn in program.eqns for var in eqn.outvars}

    def sources(self, name: str) -> tuple[str, ...]:
        """Calls that the arguments of a call depend on."""
        return self._from(self._inputs[name], self._order[name])

    @property
    def result_sources(self) -> tuple[str, ...]:
        """Calls that the output of the model depends on."""
        return self._from([self._result], len(self._order))

    def _from(self, variables: Iterable[Any], end: int) -> tuple[str, ...]:
        """The latest calls before position `end` that variables depend on."""
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
    """Multiply-adds of convolutions and matrix products by call name."""
    found: Counter[str] = Counter()
    for equation in program.eqns:
        name = _innermost(str(equation.source_info.name_stack)) or above
        found[name] += times * _multiply_adds(equation)
        repeats = times * equation.params.get("length", 1)
        costs = [_costs(inner, name, repeats) for inner in _inner(equation.params.values())]
        if equation.primitive.name == "cond":  # computes one of its branches
            costs = [max(costs, key=Counter.total)]
        for each in costs:
            found += each
    return found


def count_slow(program: Any) -> int:
    """Number of depthwise convolutions that XLA computes, but `cnnbench.depthwise` could.

    Args:
      program: a jaxpr; the bodies of loops count once.
    """
    return sum(
        shifted.is_slow(equation) + sum(map(count_slow, _inner(equation.params.values())))
        for equation in program.eqns
    )


def _inner(values: Iterable[Any]) -> Iterator[Any]:
    """Jaxprs among the parameters of an equation."""
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
