"""Shape rules and costs against counting: positions of windows, products of loops."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cnnbench.layers import Conv, ConvTranspose, LayerOp, output_of
from cnnbench.layers.base import LayerOutput, Owner, Shape, ShapeError
from cnnbench.layers.conv import (
    OWNERS_KEYS,
    adjoint_kernel,
    conv_pads,
    conv_size,
    same_pad,
    transposed_size,
)

parse = TypeAdapter[LayerOp](LayerOp).validate_python

SIZES = st.integers(1, 12)
STEPS = st.integers(1, 4)


def starts(size: int, window: int, stride: int) -> list[int]:
    """Start positions of windows, by exhaustive search."""
    return [i for i in range(size) if i % stride == 0 and i + window <= size]


def shape_of(op: dict[str, Any], *shapes: Shape) -> LayerOutput:
    return output_of(parse(op), shapes)


def op_strategy(kind: str, **keys: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"op": st.just(kind), **keys})


@given(SIZES, SIZES, STEPS, st.integers(0, 3), st.integers(0, 3))
def test_conv_size_counts_the_places_of_the_kernel(
    size: int, kernel: int, stride: int, before: int, after: int
) -> None:
    padded = size + before + after
    if kernel <= padded:
        count = len(starts(padded, kernel, stride))
        assert conv_size(size, kernel, stride, (before, after)) == count


@given(SIZES, SIZES, STEPS)
def test_same_padding_is_the_least_that_keeps_every_stride(
    size: int, kernel: int, stride: int
) -> None:
    before, after = same_pad(size, kernel, stride)
    wanted = len(range(0, size, stride))
    assert len(starts(size + before + after, kernel, stride)) == wanted
    assert 0 <= after - before <= 1
    if before + after:
        fewer = starts(size + before + after - 1, kernel, stride)
        assert len(fewer) < wanted


@given(
    st.tuples(SIZES, SIZES, st.integers(1, 3)),
    op_strategy(
        "conv",
        filters=st.integers(1, 3),
        kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)).map(list),
        stride=st.tuples(STEPS, STEPS).map(list),
        padding=st.sampled_from(["valid", "same"])
        | st.tuples(st.integers(0, 2), st.integers(0, 2)).map(list),
        use_bias=st.booleans(),
    ),
)
@settings(max_examples=150)
def test_convolution_by_loops(shape: Shape, op: dict[str, Any]) -> None:
    conv = parse(op)
    assert isinstance(conv, Conv)
    pads = conv_pads(conv, shape, conv.kernel)
    padded = np.pad(np.zeros(shape, bool), (*pads, (0, 0)))
    rows = starts(padded.shape[0], conv.kernel[0], conv.stride[0])
    columns = starts(padded.shape[1], conv.kernel[1], conv.stride[1])
    if not rows or not columns:
        with pytest.raises(ShapeError, match="kernel is larger than"):
            output_of(conv, (shape,))
        return
    multiply_adds = sum(
        padded[r : r + conv.kernel[0], c : c + conv.kernel[1]].size
        for r, c, _ in itertools.product(rows, columns, range(conv.filters))
    )
    found = output_of(conv, (shape,))
    assert found.shape == (len(rows), len(columns), conv.filters)
    assert found.multiply_adds == multiply_adds
    kernel = (*conv.kernel, shape[2], conv.filters)
    assert found.params == {"kernel": kernel} | ({"bias": (conv.filters,)} if conv.use_bias else {})


@given(
    st.tuples(SIZES, SIZES, st.integers(1, 3)),
    st.sampled_from(["max_pool", "avg_pool"]),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.none() | st.tuples(STEPS, STEPS),
)
def test_pooling_drops_windows_that_the_border_cuts(
    shape: Shape, kind: str, size: tuple[int, int], stride: tuple[int, int] | None
) -> None:
    op = {"op": kind, "size": list(size)} | ({"stride": list(stride)} if stride else {})
    rows, columns = (starts(shape[i], size[i], (stride or size)[i]) for i in (0, 1))
    if not rows or not columns:
        with pytest.raises(ShapeError, match="window is larger than"):
            shape_of(op, shape)
        return
    assert shape_of(op, shape) == LayerOutput((len(rows), len(columns), shape[2]))


@given(
    st.tuples(SIZES, SIZES),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(STEPS, STEPS),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.booleans(),
)
def test_padded_pooling_has_the_shapes_of_pytorch(
    image: tuple[int, int],
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    ceil_mode: bool,
) -> None:
    functional = pytest.importorskip("torch").nn.functional
    zeros = pytest.importorskip("torch").zeros(1, 1, *image)
    op = {"op": "max_pool", "size": list(size), "stride": list(stride), "padding": list(padding)}
    try:
        want = functional.max_pool2d(zeros, size, stride, padding, ceil_mode=ceil_mode).shape[2:]
    except RuntimeError:
        with pytest.raises(ShapeError, match=r"larger than|more than half"):
            shape_of(op | {"ceil_mode": ceil_mode}, (*image, 1))
        return
    if any(n + 2 * p < k for n, p, k in zip(image, padding, size, strict=True)):
        return  # PyTorch keeps a window that is larger than the image with `ceil_mode`; we do not
    assert shape_of(op | {"ceil_mode": ceil_mode}, (*image, 1)).shape == (*want, 1)


@given(st.tuples(SIZES, SIZES), st.integers(1, 5), STEPS)
def test_same_pooling_has_as_many_windows_as_tensorflow(
    image: tuple[int, int], size: int, stride: int
) -> None:
    op = {"op": "avg_pool", "size": size, "stride": stride, "padding": "same"}
    want = tuple(-(-length // stride) for length in image)
    assert shape_of(op, (*image, 1)).shape == (*want, 1)


@given(
    st.integers(1, 6),
    st.integers(1, 5),
    STEPS,
    st.integers(0, 2),
)
def test_transposed_size_is_the_smallest_image_of_that_many_outputs(
    size: int, kernel: int, stride: int, pad: int
) -> None:
    fitting = [
        n
        for n in range(1, 60)
        if n + 2 * pad >= kernel and len(starts(n + 2 * pad, kernel, stride)) == size
    ]
    found = transposed_size(size, kernel, stride, pad)
    if found >= 1:
        assert found == fitting[0]
    assert transposed_size(size, kernel, stride, "valid") == (size - 1) * stride + kernel
    assert len(range(0, transposed_size(size, kernel, stride, "same"), stride)) == size


@given(
    st.tuples(SIZES, SIZES, st.integers(1, 3)),
    st.integers(1, 3),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(STEPS, STEPS),
    st.sampled_from(["valid", "same", 1]),
)
def test_tied_layer_turns_its_owners_output_into_its_owners_input(
    shape: Shape, filters: int, kernel: tuple[int, int], stride: tuple[int, int], padding: Any
) -> None:
    owner = parse(
        {
            "op": "conv",
            "filters": filters,
            "kernel": list(kernel),
            "stride": list(stride),
            "padding": padding,
        }
    )
    assert isinstance(owner, Conv)
    try:
        made = output_of(owner, (shape,))
    except ShapeError:
        return
    tied = ConvTranspose(op="conv_transpose", tie="conv")
    found = output_of(tied, (made.shape,), Owner(owner, shape, made.shape))
    assert found.shape == shape
    assert found.params == {"bias": (shape[2],)}
    assert found.multiply_adds == made.multiply_adds


def test_tied_layer_with_another_image_size_uses_the_owners_stride_and_padding() -> None:
    owner = Conv(op="conv", filters=4, kernel=(3, 5), stride=(2, 3), padding=(1, 0))
    tie = Owner(owner, (9, 11, 2), (5, 3, 4))
    tied = ConvTranspose(op="conv_transpose", tie="conv", use_bias=False)
    assert output_of(tied, ((2, 2, 4),), tie).shape == (3, 8, 2)
    assert output_of(tied, ((2, 2, 4),), tie).params == {}


@pytest.mark.parametrize("key", OWNERS_KEYS)
def test_a_tied_layer_has_none_of_its_owners_keys(key: str) -> None:
    given_value = {"filters": 3, "kernel": 3, "stride": 1, "padding": "valid", "init": "zeros"}
    tied = parse({"op": "conv_transpose", "tie": "conv", key: given_value[key]})
    owner = Owner(Conv(op="conv", filters=3, kernel=(3, 3)), (5, 5, 1), (3, 3, 3))
    assert isinstance(tied, ConvTranspose)
    with pytest.raises(ShapeError) as caught:
        adjoint_kernel(tied, 3, owner)
    assert caught.value.key == key
    assert caught.value.message == f"'{key}' is inherited from 'conv' (tie)"
    assert caught.value.remedy == "remove it, or remove tie"


@pytest.mark.parametrize(
    ("op", "shapes", "expected"),
    [
        ({"op": "upscale", "size": [2, 3]}, [(4, 5, 6)], LayerOutput((8, 15, 6))),
        (
            {"op": "dense", "units": 10},
            [(3, 4, 5)],
            LayerOutput((10,), {"kernel": (60, 10), "bias": (10,)}, 600),
        ),
        (
            {"op": "dense", "units": 7, "use_bias": False},
            [(9,)],
            LayerOutput((7,), {"kernel": (9, 7)}, 63),
        ),
        ({"op": "dropout", "rate": 0.5}, [(9,)], LayerOutput((9,))),
        ({"op": "spatial_dropout", "rate": 0.5}, [(2, 3, 4)], LayerOutput((2, 3, 4))),
        ({"op": "drop_path", "rate": 0.5}, [(9,)], LayerOutput((9,))),
        (
            {"op": "vector_quantizer", "codes": 8},
            [(5, 6, 4)],
            LayerOutput((5, 6, 4), {"codebook": (8, 4)}, 5 * 6 * 8 * 4),
        ),
        (
            {"op": "vector_quantizer", "codes": 8},
            [(4,)],
            LayerOutput((4,), {"codebook": (8, 4)}, 8 * 4),
        ),
        ({"op": "flatten"}, [(2, 3, 4)], LayerOutput((24,))),
        ({"op": "flatten"}, [(24,)], LayerOutput((24,))),
        ({"op": "reshape", "shape": [2, 3, 4]}, [(24,)], LayerOutput((2, 3, 4))),
        ({"op": "reshape", "shape": [24]}, [(2, 3, 4)], LayerOutput((24,))),
        ({"op": "permute", "order": [3, 1, 2]}, [(2, 3, 4)], LayerOutput((4, 2, 3))),
        ({"op": "concat"}, [(2,), (3,), (2,)], LayerOutput((7,))),
        ({"op": "concat"}, [(2, 3, 4), (2, 3, 1)], LayerOutput((2, 3, 5))),
        ({"op": "add"}, [(2, 3, 4)] * 3, LayerOutput((2, 3, 4))),
        ({"op": "multiply"}, [(2, 3, 4)] * 3, LayerOutput((2, 3, 4))),
        ({"op": "multiply"}, [(4,), (4,)], LayerOutput((4,))),
        ({"op": "multiply"}, [(2, 3, 4), (4,)], LayerOutput((2, 3, 4))),
        ({"op": "multiply"}, [(4,), (1, 1, 4), (2, 3, 4), (4,)], LayerOutput((2, 3, 4))),
        ({"op": "multiply"}, [(4,), (1, 1, 4)], LayerOutput((1, 1, 4))),
        ({"op": "activation", "activation": "tanh"}, [(2, 3, 4)], LayerOutput((2, 3, 4))),
        ({"op": "softmax"}, [(2, 3, 4)], LayerOutput((2, 3, 4))),
        ({"op": "softmax"}, [(6,)], LayerOutput((6,))),
        (
            {"op": "position_embedding"},
            [(2, 3, 4)],
            LayerOutput((2, 3, 4), {"embedding": (2, 3, 4)}),
        ),
        (
            {"op": "position_embedding", "kind": "sincos2d"},
            [(2, 3, 4)],
            LayerOutput((2, 3, 4)),
        ),
        ({"op": "class_token"}, [(2, 3, 4)], LayerOutput((7, 1, 4), {"token": (4,)})),
        (
            {"op": "attention", "heads": 3},
            [(4, 5, 6)],
            LayerOutput(
                (4, 5, 6),
                {"kernel": (6, 18), "out_kernel": (6, 6), "bias": (18,), "out_bias": (6,)},
                20 * 6 * 18 + 3 * (20 * 20 * 2 + 20 * 20 * 2) + 20 * 6 * 6,
            ),
        ),
        ({"op": "batch_norm"}, [(2, 3, 4)], LayerOutput((2, 3, 4), {"scale": (4,), "bias": (4,)})),
        (
            {"op": "batch_norm", "scale": False, "center": False},
            [(2, 3, 4)],
            LayerOutput((2, 3, 4)),
        ),
        ({"op": "layer_norm"}, [(2, 3, 4)], LayerOutput((2, 3, 4), {"scale": (4,), "bias": (4,)})),
        ({"op": "layer_norm", "scale": False}, [(6,)], LayerOutput((6,), {"bias": (6,)})),
        (
            {"op": "group_norm", "groups": 2, "center": False},
            [(2, 3, 4)],
            LayerOutput((2, 3, 4), {"scale": (4,)}),
        ),
        ({"op": "scale", "value": 1e-6}, [(2, 3, 4)], LayerOutput((2, 3, 4), {"scale": (4,)})),
        ({"op": "scale", "value": 0, "per": "all"}, [(6,)], LayerOutput((6,), {"scale": (1,)})),
        ({"op": "scale", "value": 0.5, "trainable": False}, [(6,)], LayerOutput((6,))),
        ({"op": "prelu"}, [(2, 3, 4)], LayerOutput((2, 3, 4), {"slope": (1,)})),
        ({"op": "prelu", "per_channel": True}, [(6,)], LayerOutput((6,), {"slope": (6,)})),
        ({"op": "batch_norm"}, [(6,)], LayerOutput((6,), {"scale": (6,), "bias": (6,)})),
        ({"op": "global_avg_pool"}, [(2, 3, 4)], LayerOutput((4,))),
        ({"op": "global_max_pool"}, [(2, 3, 4)], LayerOutput((4,))),
        (
            {"op": "conv", "filters": 6, "kernel": [2, 3], "groups": 3, "dilation": [3, 1]},
            [(5, 6, 9)],
            LayerOutput((2, 4, 6), {"kernel": (2, 3, 3, 6), "bias": (6,)}, 2 * 4 * 6 * 2 * 3 * 3),
        ),
        (
            {"op": "conv", "filters": 6, "kernel": 3, "groups": "depthwise", "padding": "same"},
            [(5, 6, 3)],
            LayerOutput((5, 6, 6), {"kernel": (3, 3, 1, 6), "bias": (6,)}, 5 * 6 * 6 * 9),
        ),
        ({"op": "zero_pad", "padding": [1, 2, 3, 4]}, [(5, 6, 7)], LayerOutput((8, 13, 7))),
        ({"op": "zero_pad", "channels": [1, 2]}, [(5, 6, 7)], LayerOutput((5, 6, 10))),
        ({"op": "crop", "cropping": [1, 2]}, [(5, 6, 7)], LayerOutput((3, 2, 7))),
        ({"op": "channel_shuffle", "groups": 2}, [(5, 6, 8)], LayerOutput((5, 6, 8))),
        ({"op": "space_to_depth", "size": 2}, [(4, 6, 3)], LayerOutput((2, 3, 12))),
        ({"op": "depth_to_space", "size": 2}, [(4, 6, 12)], LayerOutput((8, 12, 3))),
        (
            {"op": "conv_transpose", "filters": 2, "kernel": 3, "stride": 2, "padding": 1},
            [(4, 5, 6)],
            LayerOutput((7, 9, 2), {"kernel": (3, 3, 2, 6), "bias": (2,)}, 4 * 5 * 9 * 6 * 2),
        ),
        (
            {
                "op": "conv_transpose",
                "filters": 2,
                "kernel": [2, 3],
                "stride": 2,
                "padding": "same",
            },
            [(4, 5, 6)],
            LayerOutput((8, 10, 2), {"kernel": (2, 3, 2, 6), "bias": (2,)}, 4 * 5 * 6 * 6 * 2),
        ),
    ],
)
def test_other_operations(op: dict[str, Any], shapes: list[Shape], expected: LayerOutput) -> None:
    assert shape_of(op, *shapes) == expected


IMAGE_OPS: list[dict[str, Any]] = [
    {"op": "conv", "filters": 1, "kernel": 1},
    {"op": "conv_transpose", "filters": 1, "kernel": 1},
    {"op": "max_pool", "size": 1},
    {"op": "avg_pool", "size": 1},
    {"op": "upscale", "size": 1},
    {"op": "global_avg_pool"},
    {"op": "global_max_pool"},
    {"op": "zero_pad", "padding": 1},
    {"op": "crop", "cropping": 1},
    {"op": "channel_shuffle", "groups": 1},
    {"op": "spatial_dropout", "rate": 0.5},
    {"op": "space_to_depth", "size": 2},
    {"op": "depth_to_space", "size": 2},
    {"op": "permute", "order": [1, 3, 2]},
    {"op": "attention", "heads": 1},
    {"op": "position_embedding"},
    {"op": "class_token"},
]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"groups": 4}, "6 input channels cannot be divided into 4 groups; use a divisor of 6"),
        ({"groups": 3}, "4 filters cannot be divided into 3 groups; use a multiple of 3"),
        ({"groups": "depthwise"}, "4 filters cannot be divided into 6 groups; use a multiple of 6"),
        (
            {"dilation": 4},
            "a 9x9 dilated kernel is larger than the 5x8x6 input; use [5, 8] or less, or"
            " padding: same",
        ),
    ],
)
def test_groups_and_dilation_must_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError) as error:
        shape_of({"op": "conv", "filters": 4, "kernel": 3} | keys, (5, 8, 6))
    assert f"{error.value.message}; {error.value.remedy}" == message


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ShapeError) as error:
        shape_of({"op": "attention", "heads": 4}, (5, 8, 6))
    assert error.value.key == "heads"
    assert error.value.message == "6 channels cannot be divided into 4 heads"
    assert error.value.remedy == "use a divisor of 6"


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        (
            {"kind": "sincos2d"},
            "kind",
            "sincos2d needs a multiple of 4 channels, but its input has 6; use learned, or a"
            " multiple of 4 channels",
        ),
        (
            {"kind": "sincos2d", "stddev": 0.1},
            "stddev",
            "sincos2d has no parameters; remove it, or use kind: learned",
        ),
        (
            {"kind": "sincos2d", "trainable": False},
            "trainable",
            "sincos2d has no parameters; remove it, or use kind: learned",
        ),
    ],
)
def test_sines_have_four_parts_and_no_parameters(
    keys: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(ShapeError) as error:
        shape_of({"op": "position_embedding"} | keys, (5, 8, 6))
    assert error.value.key == key
    assert f"{error.value.message}; {error.value.remedy}" == message


@pytest.mark.parametrize("keys", [{"groups": 3}, {"dilation": 2}], ids=["groups", "dilation"])
def test_the_transpose_of_groups_and_dilation_is_refused(keys: dict[str, Any]) -> None:
    conv = parse({"op": "conv", "filters": 3, "kernel": 3} | keys)
    owner = Owner(conv, (8, 8, 3), output_of(conv, ((8, 8, 3),)).shape)
    with pytest.raises(ShapeError) as error:
        output_of(parse({"op": "conv_transpose", "tie": "c"}), (owner.out_shape,), owner)
    (key,) = keys
    assert error.value.key == "tie"
    assert error.value.message == f"'c' has {key}, and its transpose is not supported"
    assert error.value.remedy == f"remove {key} there, or remove tie"


@pytest.mark.parametrize(
    ("op", "key", "message"),
    [
        (
            {"op": "channel_shuffle", "groups": 4},
            "groups",
            "6 channels cannot be divided into 4 groups; use a divisor of 6",
        ),
        (
            {"op": "space_to_depth", "size": 4},
            "size",
            "a 9x12 image cannot be divided into 4x4 blocks; use a divisor of 3, or add a crop or"
            " zero_pad before it",
        ),
        (
            {"op": "depth_to_space", "size": 2},
            "size",
            "6 channels cannot be divided into 2x2 blocks; use a multiple of 4 channels",
        ),
    ],
)
def test_blocks_and_groups_must_divide_the_input(
    op: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(ShapeError) as error:
        shape_of(op, (9, 12, 6))
    assert error.value.key == key
    assert f"{error.value.message}; {error.value.remedy}" == message


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ({"op": "zero_pad"}, "zero_pad adds nothing; add padding: 1, or channels: [0, 8]"),
        ({"op": "zero_pad", "padding": 0}, "zero_pad adds nothing; add padding: 1, or"),
        (
            {"op": "crop", "cropping": [0, 0, 3, 3]},
            "removes all of the 4x6x1 input; remove at most 3 rows and 5 columns",
        ),
    ],
)
def test_edges_that_leave_nothing_to_do_are_refused(op: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError) as error:
        shape_of(op, (4, 6, 1))
    assert f"{error.value.message}; {error.value.remedy}".startswith(message)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            {"op": "max_pool", "size": 3, "padding": 2},
            "padding [2, 2] is more than half of a 3x3 window; use [1, 1] or less",
        ),
        (
            {"op": "avg_pool", "size": [2, 9], "padding": [0, 1]},
            "a 2x9 window is larger than the 4x6x1 input; use [4, 8] or less",
        ),
        (
            {"op": "group_norm", "groups": 2},
            "1 channel cannot be divided into 2 groups; use a divisor of 1, such as groups: 1",
        ),
        (
            {"op": "max_pool", "size": 5, "ceil_mode": True},
            "a 5x5 window is larger than the 4x6x1 input; use [4, 6] or less",
        ),
    ],
)
def test_windows_and_groups_that_do_not_fit_are_refused(op: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError) as error:
        shape_of(op, (4, 6, 1))
    assert f"{error.value.message}; {error.value.remedy}" == message


@pytest.mark.parametrize("op", IMAGE_OPS, ids=lambda op: op["op"])
def test_operations_on_images_refuse_a_vector(op: dict[str, Any]) -> None:
    message = f"{op['op']} takes images, but its input is a vector of size 256"
    with pytest.raises(ShapeError, match=re.escape(message)):
        shape_of(op, (256,))


@pytest.mark.parametrize(
    ("shapes", "message", "remedy"),
    [
        ([(4,), (5,)], "multiply needs inputs of the same shape", "make the shapes equal"),
        (
            [(4, 4, 8), (1, 1, 8), (2, 4, 8)],
            "cannot multiply images of different heights or widths",
            "make them equal, or reduce one to a value per channel with a global_avg_pool",
        ),
        (
            [(4,), (28, 28, 8)],
            "cannot multiply different numbers of channels",
            "use 8 for all: a vector has one value per channel of an image",
        ),
        (
            [(28, 28, 8), (1, 1, 1)],
            "cannot multiply different numbers of channels",
            "use 8 for all: a vector has one value per channel of an image",
        ),
        (
            [(2, 3, 1), (2, 3, 5)],
            "cannot multiply different numbers of channels",
            "use 1 for all: a vector has one value per channel of an image",
        ),
    ],
)
def test_a_product_refuses_other_shapes(shapes: list[Shape], message: str, remedy: str) -> None:
    with pytest.raises(ShapeError) as caught:
        shape_of({"op": "multiply"}, *shapes)
    assert (caught.value.key, caught.value.message) == ("inputs", message)
    assert caught.value.remedy == remedy


def test_a_wide_image_may_be_too_low_for_a_kernel() -> None:
    op = {"op": "conv", "filters": 1, "kernel": [3, 1], "stride": 2}
    with pytest.raises(ShapeError) as caught:
        shape_of(op, (2, 9, 1))
    assert caught.value.message == "a 3x1 kernel is larger than the 2x9x1 input"
    assert caught.value.remedy == "use [2, 9] or less, or padding: same"
