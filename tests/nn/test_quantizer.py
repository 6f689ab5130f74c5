"""The vector quantizer of a VQ-VAE, against PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.data.scaling import Scaling
from cnnbench.errors import UsageError
from cnnbench.export.onnx import onnx_model
from cnnbench.gradcheck.check import require_layer
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.microbatch import Microbatching
from cnnbench.nn.ops import quantizer
from cnnbench.nn.ops.convolution import EngineName
from cnnbench.nn.python_model import split_model
from cnnbench.nn.result import Result
from cnnbench.runs.experiment import objective_name
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.loader import load_experiment
from cnnbench.training.losses import objective
from cnnbench.training.state import split_network, weights_of
from tests.support.oracles import make_plan

NUM_IMAGES = 6
SHAPE = (4, 3, 2)
LAYERS: dict[str, dict[str, Any]] = {
    "conv": {"op": "conv", "filters": 5, "kernel": 2, "padding": "same"},
    "norm": {"op": "batch_norm"},
    "code": {"op": "vector_quantizer", "codes": 7, "commitment": 0.5},
    "back": {"op": "conv_transpose", "filters": 2, "kernel": 1},
}


def experiment(layers: dict[str, dict[str, Any]]) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "vq",
            "task": "reconstruct",
            "dataset": {"name": "mnist"},
            "model": {"layers": layers},
        }
    )


def without_norm() -> dict[str, dict[str, Any]]:
    return {name: op for name, op in LAYERS.items() if name != "norm"}


def images() -> Any:
    return np.random.default_rng(0).normal(size=(NUM_IMAGES, *SHAPE)).astype(np.float32)


def sum_of_losses(
    layers: dict[str, dict[str, Any]], form: EngineName, cut: Microbatching | None = None
) -> Any:
    """The summed objective in training, its gradients, and the weights by name."""
    plan = make_plan(layers, SHAPE, SHAPE)
    net = GraphNet(plan, form=form, rngs=nnx.Rngs(0), cut=cut)
    net.weights["code"]["codebook"][...] *= 10  # so that images have different codes
    net.train()
    structure, params, rest = split_model(net)
    score, x = objective(experiment(layers)), jnp.asarray(images())

    @jax.jit
    def run(params: Any) -> Any:
        def total(params: Any) -> jax.Array:
            model = nnx.merge(structure, params, rest, copy=True)

            def head(found: Result, targets: jax.Array) -> jax.Array:
                return score(found, targets).sum()

            result: jax.Array = model.sum_of(x, model.prepare(), head, (x,))
            return result

        return jax.value_and_grad(total)(params)

    value, gradients = run(params)
    weights = weights_of(params, rest, layers=True)
    return float(value), weights_of(gradients, nnx.State({}), layers=True), weights


@pytest.mark.parametrize("form", ["plain", "direct"])
def test_gradients_are_those_of_the_paper(form: EngineName) -> None:
    """Equation 3 of van den Oord et al. 2017, with means, by PyTorch's autograd."""
    torch = pytest.importorskip("torch", reason="the peers extra is not installed")
    value, gradients, weights = sum_of_losses(without_norm(), form)
    own = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in weights.items()}
    x = torch.tensor(images(), dtype=torch.float64)
    padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (0, 1, 0, 1))
    kernel = own["conv.kernel"].permute(3, 2, 0, 1)
    z = torch.nn.functional.conv2d(padded, kernel, own["conv.bias"]).permute(0, 2, 3, 1)
    numbers = torch.cdist(z.reshape(-1, 5), own["code.codebook"]).argmin(1)
    assert len(set(numbers.tolist())) > 3
    e = own["code.codebook"][numbers].reshape(z.shape)
    passed = z + (e - z).detach()
    outputs = passed @ own["back.kernel"][0, 0].T + own["back.bias"]
    each = ((outputs - x) ** 2).mean((1, 2, 3))
    each = each + ((z.detach() - e) ** 2).mean((1, 2, 3))
    each = each + 0.5 * ((z - e.detach()) ** 2).mean((1, 2, 3))
    total = each.sum()
    total.backward()
    assert value == pytest.approx(total.item(), rel=1e-5)
    for name, tensor in own.items():
        np.testing.assert_allclose(gradients[name], tensor.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_codes_far_from_zero_are_the_nearest(offset: float) -> None:
    """At ten thousand standard deviations, products of the values have no digit left."""
    rng = np.random.default_rng(0)
    x, codebook = ((offset + rng.normal(size=(n, 16))).astype(np.float32) for n in (200, 64))
    wide, codes = x.astype(np.float64), codebook.astype(np.float64)
    numbers = ((wide[:, None] - codes) ** 2).sum(axis=2).argmin(axis=1)
    found = quantizer.nearest(jnp.asarray(x), jnp.asarray(codebook))
    np.testing.assert_array_equal(found, codebook[numbers])


def test_rows_of_a_batch_have_the_same_loss() -> None:
    """A batch norm follows, so the codebook is used in one stage, and by the loss in another."""
    later = without_norm() | {
        "again": {"op": "batch_norm", "inputs": "back"},
        "end": {"op": "conv", "filters": 2, "kernel": 1},
    }
    value, gradients, _ = sum_of_losses(later, "direct")
    cut_value, cut_gradients, _ = sum_of_losses(later, "direct", Microbatching(2, None))
    assert cut_value == pytest.approx(value, rel=1e-5)
    assert np.abs(gradients["code.codebook"]).max() > 0.1
    for name, gradient in gradients.items():
        np.testing.assert_allclose(cut_gradients[name], gradient, rtol=1e-3, atol=1e-4)


def test_codes_start_within_one_over_their_number() -> None:
    net = GraphNet(make_plan(LAYERS, SHAPE, SHAPE), form="plain", rngs=nnx.Rngs(0))
    codebook = np.asarray(net.weights["code"]["codebook"][...])
    assert codebook.shape == (7, 5)
    assert 0.8 / 7 < np.abs(codebook).max() <= 1 / 7


def test_the_objective_names_its_terms() -> None:
    assert objective_name(experiment(LAYERS)) == "mse + codebook + 0.5 commitment"


@pytest.mark.parametrize("vector", [False, True])
def test_onnx_has_the_same_outputs(vector: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    layers = {"flat": {"op": "dense", "units": 5}} if vector else {"conv": LAYERS["conv"]}
    layers |= {"code": LAYERS["code"], "out": {"op": "dense", "units": 3}}
    plan = make_plan(layers, SHAPE, (3,))
    network = split_network(GraphNet(plan, form="plain", rngs=nnx.Rngs(0)))
    weights = weights_of(network.params, network.rest, layers=True)
    pixels = np.random.default_rng(1).integers(0, 256, (NUM_IMAGES, *SHAPE), np.uint8)
    session = onnxruntime.InferenceSession(
        onnx_model(plan, weights, Scaling(256.0), {}).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    (found,) = session.run(None, {"images": pixels})
    model = nnx.merge(network.evaluation, network.params, network.rest, copy=True)
    want = model(jnp.asarray(pixels, jnp.float32) / 256)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_gradcheck_refuses_it(tmp_path: Any) -> None:
    path = tmp_path / "vq.yaml"
    path.write_text(
        "name: vq\ntask: classify\ndataset: {name: mnist}\nmodel:\n  layers:\n"
        "    code: {op: vector_quantizer, codes: 4}\n    out: {op: dense, units: 10}\n"
    )
    with pytest.raises(UsageError) as caught:
        require_layer(load_experiment(path), None)
    assert str(caught.value) == (
        "vq: the gradient of layer 'code' is straight-through, not the derivative; check a"
        " network without quantizers."
    )
