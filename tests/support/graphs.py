"""Random graphs of layers for Hypothesis: one generator for all properties."""

import math
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter

from cnnbench.layers import OPERATIONS, Conv, LayerOp, output_of
from cnnbench.layers.activation import ACTIVATION_NAMES
from cnnbench.layers.base import INPUT, Owner, Shape, ShapeError

Layers = dict[str, dict[str, Any]]

parse_layer = TypeAdapter[LayerOp](LayerOp).validate_python

MOST_VALUES = 2_000  # per layer output: repeated upscaling would be slow
CLASSES = 3
_OF_IMAGES = (
    "conv",
    "conv_transpose",
    "max_pool",
    "avg_pool",
    "upscale",
    "global_avg_pool",
    "global_max_pool",
    "zero_pad",
    "crop",
    "channel_shuffle",
    "spatial_dropout",
    "space_to_depth",
    "depth_to_space",
    "permute",
    "attention",
    "group_norm",
    "position_embedding",
    "class_token",
)
# A quantizer jumps where two codes are equally near, so rounding may change its output.
CONTINUOUS = tuple(op for op in OPERATIONS if op != "vector_quantizer")
MERGES = tuple(name for name, op in OPERATIONS.items() if op.merges)
VECTOR_KINDS = tuple(op for op in CONTINUOUS if op not in _OF_IMAGES)
IMAGE_KINDS = (*CONTINUOUS, *("conv", "tied") * 4, "upscale")
NEXT = {"conv": "max_pool", "upscale": "conv"}  # layers that are fused on a CPU

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
strides = st.sampled_from([(1, 1)]) | pairs
kernels = st.integers(1, 5).map(lambda n: (n, n)) | st.tuples(st.integers(1, 5), st.integers(1, 5))
paddings = st.one_of(
    st.sampled_from(["valid", "same"]), st.tuples(st.integers(0, 3), st.integers(0, 3))
)
filters = st.sampled_from([1, 2, 3, 4, 6, 9])  # other algorithms are used from 4 on
_ONE_TO_SIX = st.integers(1, 6)
_ONE_OR_TWO = st.integers(1, 2)
activations = st.sampled_from(ACTIVATION_NAMES)
convs: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"filters": filters, "kernel": kernels, "stride": strides, "padding": paddings}
)


dilations = st.sampled_from([1, 2, (1, 2)])


def _grouped(conv: dict[str, Any], channels: int, dilation: Any) -> dict[str, Any]:
    """A depthwise, grouped or dilated convolution."""
    groups: Any = "depthwise" if conv["filters"] % channels == 0 else 1
    if conv["filters"] % 2 == channels % 2 == 0:
        groups = 2
    return conv | {"groups": groups, "dilation": dilation}


def _divisors(number: int) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, 7) if number % n == 0])


def _options(op: str, shape: Shape) -> st.SearchStrategy[dict[str, Any]]:
    """The keys of an operation; those that do not fit the shape are skipped."""
    finish: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {"activation": activations, "use_bias": st.booleans()}
    )
    conv = st.builds(lambda one, other: one | other, convs, finish)
    dense = st.builds(lambda units, other: {"units": units} | other, st.integers(1, 4), finish)
    values = math.prod(shape)
    factors = [(h, w, values // h // w) for h in range(1, 9) for w in range(1, 9)]
    shapes = [(values,), *(f for f in factors if math.prod(f) == values)]
    pool = {
        "size": pairs,
        "stride": st.none() | pairs,
        "padding": st.sampled_from(["valid", "valid", "same", 1, (0, 1)]),
        "ceil_mode": st.booleans(),
    }
    fields: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "max_pool": pool,
        "avg_pool": pool | {"count_include_pad": st.booleans()},
        "upscale": {"size": pairs},
        "dropout": {"rate": st.sampled_from([0.0, 0.5])},
        "spatial_dropout": {"rate": st.sampled_from([0.0, 0.5])},
        "drop_path": {"rate": st.sampled_from([0.0, 0.5])},
        "masking_noise": {"rate": st.sampled_from([0.0, 0.5])},
        "gaussian_noise": {"stddev": st.just(0.5)},
        "zero_pad": {
            "padding": st.sampled_from([0, 1, (0, 2), (1, 0, 0, 2)]),
            "channels": st.tuples(st.integers(0, 2), st.integers(0, 2)),
        },
        "crop": {"cropping": st.sampled_from([1, (0, 1), (1, 0, 0, 2)])},
        "channel_shuffle": {"groups": _divisors(shape[-1])},
        "space_to_depth": {"size": _divisors(math.gcd(*shape[:2]))},
        "depth_to_space": {"size": st.sampled_from([1, 2])},
        "slice": {"start": st.integers(0, 2), "size": st.integers(1, 2)},
        "attention": {"heads": _divisors(shape[-1]), "use_bias": st.booleans()},
        "position_embedding": {"kind": st.sampled_from(["learned", "sincos2d"])},
        "permute": {"order": st.permutations([1, 2, 3])},
        "reshape": {"shape": st.sampled_from(shapes)},
        "activation": {"activation": activations},
        "prelu": {"init": st.sampled_from([0.25, -0.5]), "per_channel": st.booleans()},
        "layer_norm": {"epsilon": st.sampled_from([0.01, 0.1]), "scale": st.booleans()},
        "group_norm": {
            "groups": _divisors(shape[-1]),
            "epsilon": st.sampled_from([0.01, 0.1]),
            "center": st.booleans(),
        },
        "scale": {
            "value": st.sampled_from([0.5, 2.0]),
            "trainable": st.booleans(),
            "per": st.sampled_from(["channel", "all"]),
        },
        "batch_norm": {
            "epsilon": st.sampled_from([0.01, 0.1]),
            "scale": st.booleans(),
            "center": st.booleans(),
        },
    }
    if op == "conv":
        return st.one_of(conv, conv, st.builds(_grouped, conv, st.just(shape[-1]), dilations))
    if op == "conv_transpose":
        return conv
    return dense if op == "dense" else st.fixed_dictionaries(fields.get(op, {}))


def _partners(kind: str, shapes: Mapping[str, Shape], shape: Shape) -> st.SearchStrategy[list[str]]:
    """Layers with an output that can be joined with the given shape."""
    like = shape[:-1] if kind == "concat" else shape
    fitting = [n for n, s in shapes.items() if s[: len(like)] == like and len(s) == len(shape)]
    most = 1 if kind == "sample" else 2
    return st.lists(st.sampled_from(fitting), min_size=1, max_size=most)


def _gates(
    shapes: Mapping[str, Shape], shape: Shape
) -> st.SearchStrategy[tuple[dict[str, Any], Shape]]:
    """A layer with values up to one that can multiply the given shape, and its shape."""
    fitting = [n for n, s in shapes.items() if s in (shape, shape[-1:], (1, 1, shape[-1]))]
    bounded = st.sampled_from(["sigmoid", "tanh"])
    return st.builds(
        lambda name, kind: (
            {"op": "activation", "activation": kind, "inputs": [name]},
            shapes[name],
        ),
        st.sampled_from(fitting),
        bounded,
    )


@st.composite
def graphs(draw: st.DrawFn, *, samples: bool = True) -> tuple[Layers, Shape, Shape]:
    """Layers with branches, sums, joins and ties, and the shapes of the image and the output.

    All layers contribute to the output, which is either classes from a dense layer or an image
    like the input.

    Args:
      draw: Hypothesis's draw function.
      samples: True to allow sampling layers, which other frameworks do not support.
    """
    shapes: dict[str, Shape] = {
        INPUT: (draw(st.integers(3, 10)), draw(st.integers(3, 10)), draw(st.integers(1, 3)))
    }
    layers: Layers = {}
    owners: dict[str, Owner] = {}
    learned: dict[str, Shape] = {}  # layers with parameters, and the shape of their input
    for number in range(draw(st.integers(5, 11))):
        images = [name for name, shape in shapes.items() if len(shape) == 3]
        newest = next(reversed(shapes))
        sources = [draw(st.sampled_from([newest] * 4 + [*shapes, *images]))]
        shape = shapes[sources[0]]
        every = IMAGE_KINDS if len(shape) == 3 else VECTOR_KINDS
        kinds = [each for each in every if samples or each != "sample"] if number else ["conv"]
        kind = draw(st.sampled_from(kinds))
        after = NEXT.get(layers[newest]["op"]) if layers else None
        if after and draw(st.booleans()):
            sources, shape, kind = [newest], shapes[newest], after
        owner, layer = None, dict[str, Any](op=kind)
        if kind == "multiply":  # factors up to one, so that values do not grow
            layers[f"gate{number}"], shapes[f"gate{number}"] = draw(_gates(shapes, shape))
            sources = draw(st.permutations([*sources, *[f"gate{number}"] * draw(_ONE_OR_TWO)]))
        elif kind in (*MERGES, "sample"):
            sources += draw(_partners(kind, shapes, shape))
        elif kind == "tied":
            fitting = [n for n, c in owners.items() if c.out_shape[-1] == shape[-1]]
            if not fitting or len(shape) != 3:
                continue
            owner = draw(st.sampled_from(fitting))
            layer = {"op": "conv_transpose", "tie": owner, "activation": draw(activations)}
        else:
            layer |= draw(_options(kind, shape))
            if kind == after == "conv":  # grouped ones are not fused
                layer = {k: v for k, v in layer.items() if k not in ("groups", "dilation")}
        twins = [n for n in learned if learned[n] == shape]
        if twins and draw(_ONE_TO_SIX) == 1:
            twin = draw(st.sampled_from(twins))
            sources, layer = sources[:1], {"weights": twin} | layers[twin]
            owner = layer.get("tie")
        op = parse_layer(layer | {"inputs": sources})
        try:
            made = output_of(op, tuple(shapes[s] for s in sources), owners.get(owner or ""))
        except ShapeError:
            continue
        if math.prod(made.shape) > MOST_VALUES:
            continue
        name = f"layer{number}"
        layers[name], shapes[name] = layer | {"inputs": sources}, made.shape
        if made.params:
            learned[name] = shape
        if isinstance(op, Conv):
            owners[name] = Owner(op, shape, made.shape)
    output = draw(st.sampled_from([(CLASSES,), shapes[INPUT]]))
    return _with_one_end(layers, output), shapes[INPUT], output


def _with_one_end(layers: Layers, output: Shape) -> Layers:
    read = {source for layer in layers.values() for source in layer["inputs"]}
    ends = [name for name in layers if name not in read] or [INPUT]
    flat: Layers = {f"flat_{end}": {"op": "flatten", "inputs": [end]} for end in ends}
    join: Layers = {"join": {"op": "concat", "inputs": list(flat)}} if len(flat) > 1 else {}
    last: Layers = {"out": {"op": "dense", "units": math.prod(output)}}
    image: Layers = {"image": {"op": "reshape", "shape": output}} if len(output) == 3 else {}
    return layers | flat | join | last | image
