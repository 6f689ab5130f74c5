"""Every operation in ONNX, run by onnxruntime, against our network in the form `plain`."""

import functools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.data.scaling import Scaling
from cnnbench.export.onnx import OPSET, onnx_model
from cnnbench.graph.plan import Plan
from cnnbench.layers import OPERATIONS, BatchNorm
from cnnbench.system.arrays import LayerWeights
from tests.bench.frameworks.test_frameworks import (
    CASES,
    EXPERIMENTS,
    Layers,
    Ours,
    case,
    images_for,
    weights_of,
)
from tests.support.oracles import Array, make_plan

TOLERANCE = 1e-5  # relative to the largest output
SCALE = 300.0
SQUARE = st.integers(1, 4)


def named(plan: Plan, weights: LayerWeights) -> dict[str, Array]:
    """Weights as in a run's file, with initial batch statistics."""
    found = {f"{layer}.{key}": v for layer, own in weights.items() for key, v in own.items()}
    for node in plan.nodes:
        if isinstance(node.op, BatchNorm) and node.owner == node.name:
            channels = node.layout.shape[-1:]
            found[f"{node.name}.mean"] = np.zeros(channels, np.float32)
            found[f"{node.name}.var"] = np.ones(channels, np.float32)
    return found


def run(model: onnx.ModelProto, images: Array) -> Array:
    """Outputs of onnxruntime for images."""
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["outputs"], {"images": images})[0]


@functools.cache
def exported(name: str) -> tuple[Plan, onnx.ModelProto]:
    experiment, plan = case(name)
    weights = named(plan, weights_of(plan))
    return plan, onnx_model(plan, weights, experiment.dataset.scaling, {})


def close(got: Array, want: Array) -> None:
    assert (got.shape, got.dtype) == (want.shape, np.float32)
    assert np.abs(got.astype(np.float64) - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("name", [*CASES, *EXPERIMENTS])
def test_onnxruntime_computes_the_same_network(name: str) -> None:
    plan, model = exported(name)
    images, _ = images_for(plan)
    want = Ours("plain", case(name)[0], plan, weights_of(plan)).outputs(images)
    close(run(model, images), want)
    close(run(model, images[:1]), want[:1])  # another batch size


def test_a_sample_is_its_mean() -> None:
    layers: Layers = {
        "mean": {"op": "dense", "units": 4},
        "log": {"op": "dense", "units": 4, "inputs": "input"},
        "code": {"op": "sample", "inputs": ["mean", "log"]},
        "out": {"op": "dense", "units": 3},
    }
    plan = make_plan(layers, (3, 3, 1), (3,))
    weights = named(plan, weights_of(plan))
    images, _ = images_for(plan)
    code = (images / SCALE).reshape(len(images), -1) @ weights["mean.kernel"] + weights["mean.bias"]
    want = code @ weights["out.kernel"] + weights["out.bias"]
    close(run(onnx_model(plan, weights, Scaling(SCALE), {}), images), want)


def test_pixels_are_normalized_by_channel() -> None:
    plan = make_plan({"a": {"op": "dense", "units": 3}}, (3, 2, 2), (3,))
    weights, (images, _) = named(plan, weights_of(plan)), images_for(plan)
    scaling = Scaling(256.0, mean=(0.3, 0.6), std=(0.2, 0.4))
    x = ((images / 255 - [0.3, 0.6]) / [0.2, 0.4]).reshape(len(images), -1)
    want = x @ weights["a.kernel"] + weights["a.bias"]
    close(run(onnx_model(plan, weights, scaling, {}), images), want)


def test_the_cases_cover_every_other_operation() -> None:
    held = {node.op.op for name in CASES for node in exported(name)[0].nodes}
    assert held == set(OPERATIONS) - {"sample", "vector_quantizer"}


@settings(max_examples=25)
@given(
    kernel=st.tuples(SQUARE, SQUARE),
    stride=st.tuples(SQUARE, SQUARE),
    padding=st.sampled_from(["valid", "same", [0, 1], [2, 0]]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    tied=st.booleans(),
)
def test_convolutions_of_any_geometry(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Any,
    size: tuple[int, int],
    tied: bool,
) -> None:
    """A convolution and its adjoint, tied or with a separate kernel, against NumPy loops."""
    like = {"kernel": list(kernel), "stride": list(stride), "padding": padding}
    back = {"tie": "a"} if tied else {"filters": 2, **like}
    layers: Layers = {
        "a": {"op": "conv", "filters": 3, **like},
        "b": {"op": "conv_transpose", "inputs": "a", **back},
        "c": {"op": "flatten"},
        "d": {"op": "dense", "units": 1},
    }
    plan = make_plan(layers, (*size, 2), (1,))
    rng = np.random.default_rng(0)
    weights = {
        f"{node.name}.{key}": rng.normal(size=shape).astype(np.float32)
        for node in plan.nodes
        for key, shape in node.layout.params.items()
    }
    images = rng.integers(0, 256, (2, *size, 2), np.uint8)
    x = convolved(plan, weights, images / SCALE)
    want = x.reshape(2, -1) @ weights["d.kernel"] + weights["d.bias"]
    close(run(onnx_model(plan, weights, Scaling(SCALE), {}), images), want)


def convolved(plan: Plan, weights: dict[str, Array], x: Array) -> Array:
    """Layers a and b as sums over the elements of the kernel."""
    from cnnbench.graph.geometry import geometry

    for node in plan.nodes[:2]:
        of = geometry(plan, node)
        kernel = weights[f"{node.kernel_owner}.kernel"].astype(np.float64)
        adjoint = node.op.op == "conv_transpose"
        rows, columns = (x if adjoint else np.zeros((2, *node.layout.shape))).shape[1:3]
        steps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
        (top, bottom), (left, right) = of.pads
        border = ((0, 0), (top, bottom), (left, right), (0, 0))
        wide = np.zeros((2, *of.size, kernel.shape[2])) if adjoint else x
        wide = np.pad(wide, border)
        out: Any = 0.0
        for i, j in steps:
            at = (
                slice(None),
                slice(i, i + (rows - 1) * of.stride[0] + 1, of.stride[0]),
                slice(j, j + (columns - 1) * of.stride[1] + 1, of.stride[1]),
            )
            if adjoint:
                wide[at] += x @ kernel[i, j].T
            else:
                out = out + wide[at] @ kernel[i, j]
        inner = wide[:, top : top + of.size[0], left : left + of.size[1]]
        x = (inner if adjoint else out) + weights[f"{node.name}.bias"]
    return x


def test_batch_norm_uses_running_statistics() -> None:
    plan = make_plan({"a": {"op": "batch_norm"}, "b": {"op": "dense", "units": 1}}, (2, 2, 3), (1,))
    rng = np.random.default_rng(1)
    weights = {f"a.{key}": rng.uniform(0.5, 2, 3).astype(np.float32) for key in
               ("scale", "bias", "mean", "var")}  # fmt: skip
    weights |= {"b.kernel": rng.normal(size=(12, 1)).astype(np.float32), "b.bias": np.ones(1, "f")}
    images = rng.integers(0, 256, (4, 2, 2, 3), np.uint8)
    deviation = np.sqrt(weights["a.var"] + 1e-5)
    normal = (images / SCALE - weights["a.mean"]) / deviation * weights["a.scale"]
    want = (normal + weights["a.bias"]).reshape(4, -1) @ weights["b.kernel"] + 1
    close(run(onnx_model(plan, weights, Scaling(SCALE), {}), images), want)


def test_shared_weights_are_stored_once() -> None:
    plan, model = exported("shared weights")
    sizes = {c.name: int(np.prod(c.dims)) for c in model.graph.initializer}
    weights = named(plan, weights_of(plan))
    assert {name: sizes[name] for name in weights} == {n: v.size for n, v in weights.items()}
    constants = sizes.keys() - weights.keys()
    assert {name.rpartition(".")[2] for name in constants} == {"scale", "shape"}


def test_a_tied_kernel_is_stored_once() -> None:
    plan, model = exported("autoencoder")
    names = [constant.name for constant in model.graph.initializer]
    assert [name for name in names if name.endswith("kernel")] == [
        f"{layer}.kernel" for layer in ("conv1", "conv2", "code", "dense1")
    ]
    values = sum(
        int(np.prod(c.dims)) for c in model.graph.initializer if c.name.split(".")[-1] in
        ("kernel", "bias")
    )  # fmt: skip
    assert values == plan.num_params


def test_the_file_has_metadata() -> None:
    _, plan = case("standard")
    model = onnx_model(
        plan, named(plan, weights_of(plan)), Scaling(256.0), {"seed": "3", "run_id": "a"}
    )
    onnx.checker.check_model(model, full_check=True)
    assert {prop.key: prop.value for prop in model.metadata_props} == {"seed": "3", "run_id": "a"}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    (images,), (outputs,) = model.graph.input, model.graph.output
    for value, name, kind, sizes in (
        (images, "images", onnx.TensorProto.UINT8, ["batch", 28, 28, 1]),
        (outputs, "outputs", onnx.TensorProto.FLOAT, ["batch", 10]),
    ):
        tensor = value.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        assert (value.name, tensor.elem_type, shape) == (name, kind, sizes)
    assert [node.name for node in model.graph.node if node.name.startswith("conv1")] == [
        "conv1.Conv",
        "conv1.Relu",
    ]
