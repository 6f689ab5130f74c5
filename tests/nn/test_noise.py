"""Layers that are random in training, and the divergence of a variational code."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from flax import nnx

from cnnbench.errors import Issue
from cnnbench.layers import (
    Dropout,
    DropPath,
    GaussianNoise,
    MaskingNoise,
    Sample,
    SpatialDropout,
)
from cnnbench.nn import noise
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.microbatch import Microbatching
from cnnbench.nn.noise import Random, RandomLayer, apply_noise, divergence, draw
from cnnbench.nn.ops.convolution import EngineName
from cnnbench.nn.python_model import split_model
from cnnbench.nn.result import Result
from cnnbench.spec.experiment import Experiment
from cnnbench.training.losses import objective, scores
from cnnbench.training.state import split_network
from tests.support.oracles import Array, make_plan

MANY = 200_000
RANDOM: Mapping[str, Random] = {
    "dropout": Dropout(op="dropout", rate=0.25),
    "spatial_dropout": SpatialDropout(op="spatial_dropout", rate=0.25),
    "drop_path": DropPath(op="drop_path", rate=0.25),
    "gaussian_noise": GaussianNoise(op="gaussian_noise", stddev=0.5),
    "masking_noise": MaskingNoise(op="masking_noise", rate=0.25),
    "sample": Sample(op="sample"),
}


def disturbed(op: Random, *inputs: float) -> Array:
    drawn = draw(op, jax.random.key(3), jnp.arange(4), (MANY // 4,)).reshape(MANY)
    return np.asarray(apply_noise(op, drawn, *(jnp.full(MANY, value) for value in inputs)))


def test_gaussian_noise_is_normal_around_the_value() -> None:
    values = disturbed(RANDOM["gaussian_noise"], 2.0)
    assert scipy.stats.kstest(values, scipy.stats.norm(2.0, 0.5).cdf).pvalue > 0.01


def test_a_sample_has_the_mean_and_the_variance_that_it_reads() -> None:
    values = disturbed(RANDOM["sample"], -1.0, np.log(0.49))
    assert scipy.stats.kstest(values, scipy.stats.norm(-1.0, 0.7).cdf).pvalue > 0.01


@pytest.mark.parametrize(("name", "kept"), [("masking_noise", 3.0), ("dropout", 4.0)])
def test_only_dropout_rescales_kept_values(name: str, kept: float) -> None:
    values = disturbed(RANDOM[name], 3.0)
    assert set(np.unique(values)) == {0.0, kept}
    zeros = int((values == 0).sum())
    assert scipy.stats.binomtest(zeros, MANY, 0.25).pvalue > 0.01


@pytest.mark.parametrize(
    ("name", "shape"), [("spatial_dropout", (500, 1, 1, 4)), ("drop_path", (2000, 1, 1, 1))]
)
def test_whole_channels_and_images_are_dropped(name: str, shape: tuple[int, ...]) -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=(shape[0], 2, 3, 4)))
    found = np.asarray(RandomLayer(RANDOM[name], nnx.Rngs(0))(x) / x)
    one = found[tuple(slice(size) for size in shape)]
    np.testing.assert_allclose(found, np.broadcast_to(one, found.shape), rtol=1e-6)
    np.testing.assert_allclose(np.unique(np.round(one, 5)), [0, 1.33333])
    assert scipy.stats.binomtest(int((one > 0).sum()), one.size, 0.75).pvalue > 0.01


def test_images_of_vectors_are_dropped_as_a_whole() -> None:
    found = np.asarray(RandomLayer(RANDOM["drop_path"], nnx.Rngs(0))(jnp.ones((100, 3))))
    assert {tuple(image) for image in found.round(5)} == {(0, 0, 0), (np.float32(1.33333),) * 3}


@pytest.mark.parametrize("name", RANDOM)
def test_every_layer_is_its_first_input_in_evaluation(name: str) -> None:
    layer = RandomLayer(RANDOM[name], nnx.Rngs(0))
    x = jnp.arange(1, 49.0).reshape(4, 2, 2, 3)
    other = jnp.ones_like(x)
    inputs = (x, other) if name == "sample" else (x,)
    one, two = layer(*inputs), layer(*inputs)
    assert (one != x).any()
    assert (one != two).any()  # new numbers are drawn
    layer.eval()
    np.testing.assert_array_equal(layer(*inputs), x)


@pytest.mark.parametrize(
    "op",
    [
        Dropout(op="dropout", rate=0),
        SpatialDropout(op="spatial_dropout", rate=0),
        DropPath(op="drop_path", rate=0),
        MaskingNoise(op="masking_noise", rate=0),
    ],
)
def test_a_rate_of_zero_draws_nothing(op: Random) -> None:
    assert not op.draws
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(RandomLayer(op, nnx.Rngs(0))(x), x)


@pytest.mark.parametrize("name", RANDOM)
def test_an_image_draws_by_its_key_and_number_alone(name: str) -> None:
    """Independent of other images and of the dtype, and for several keys at once."""
    op, key, shape = RANDOM[name], jax.random.key(3), (5, 4, 30)
    numbers = np.array([7, 0, 3, *range(20), 7])
    drawn = np.asarray(draw(op, key, jnp.asarray(numbers), shape))
    assert drawn.shape == (24, *op.drawn_shape(shape))
    np.testing.assert_array_equal(drawn[0], drawn[-1])
    assert len(np.unique(drawn, axis=0)) == (2 if drawn[0].size == 1 else 20)
    every = np.asarray(draw(op, key, jnp.arange(20), shape))
    other = np.asarray(draw(op, jax.random.key(4), jnp.asarray(numbers), shape))
    keys = jax.random.wrap_key_data(
        jnp.stack([jax.random.key_data(jax.random.key(k)) for k in (4, 3)])
    )
    both = jax.vmap(lambda key: draw(op, key, jnp.asarray(numbers), shape))(keys)
    assert (other != drawn).any()
    with jax.enable_x64(True):
        wide = np.asarray(draw(op, key, jnp.asarray(numbers), shape))
    if drawn.dtype == bool:
        alike: Any = np.testing.assert_array_equal
    else:
        assert wide.dtype == np.float64
        alike = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    alike(every[numbers], drawn)
    alike(both, np.stack([other, drawn]))
    alike(wide, drawn)


def test_normal_values_are_symmetric_and_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest and the highest of 2**24 values are quantiles of the normal distribution."""
    ends = np.array([0, 2**32 - 1], np.uint32)
    monkeypatch.setattr(noise, "random_bits", lambda *_: jnp.asarray(ends)[None])
    low, high = np.asarray(draw(RANDOM["sample"], jax.random.key(0), jnp.arange(1), (2,)))[0]
    assert low == -high
    np.testing.assert_allclose(high, scipy.stats.norm.isf(2.0**-25), rtol=1e-6)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (1.5, 0.2), (-0.3, 4.0)])
def test_the_divergence_is_the_integral_that_defines_it(mean: float, variance: float) -> None:
    one, prior = scipy.stats.norm(mean, variance**0.5), scipy.stats.norm()

    def density(x: float) -> float:
        return float(one.pdf(x) * (one.logpdf(x) - prior.logpdf(x)))

    expected, _ = scipy.integrate.quad(density, mean - 30, mean + 30, points=[mean], limit=200)
    got = divergence(jnp.full((2, 3), mean), jnp.full((2, 3), np.log(variance)))
    np.testing.assert_allclose(got, 3 * expected, rtol=1e-5, atol=1e-6)


# Both heads read an image, a flattened one, or a normalized one, which starts a new stage.
def variational(size: Any, *, norm: bool = False) -> dict[str, Any]:
    head = {"op": "conv", "filters": 2, "kernel": 3, "inputs": "body"}
    if size == "vector":
        head = {"op": "dense", "units": 3, "inputs": "body"}
    body = {"op": "batch_norm"} if norm else {"op": "activation", "activation": "tanh"}
    after = {"late": {"op": "batch_norm", "inputs": "z"}} if norm else {}
    return {
        "conv": {"op": "conv", "filters": 4, "kernel": 3},
        "body": body,
        "mean": head,
        "spread": head | {"init": "he_normal"},
        "z": {"op": "sample", "inputs": ["mean", "spread"], "kl_weight": 0.7},
        **after,
        "out": {"op": "dense", "units": 5},
    }


def net_of(
    layers: Mapping[str, Any], form: EngineName, cut: Microbatching | None = None
) -> GraphNet:
    return GraphNet(make_plan(layers, (6, 6, 1), (5,)), form=form, rngs=nnx.Rngs(1), cut=cut)


IMAGES = np.random.default_rng(0).normal(size=(8, 6, 6, 1)).astype(np.float32)


@pytest.mark.parametrize("size", ["image", "vector"])
@pytest.mark.parametrize("form", ["plain", "direct"])
def test_a_result_has_the_divergence_of_each_image(size: str, form: EngineName) -> None:
    net = net_of(variational(size), form)
    net.eval()
    result = net.result(jnp.asarray(IMAGES))
    values = net_of(variational(size), "plain")
    values.eval()
    given = values.activations(jnp.asarray(IMAGES))
    known = {name: np.asarray(value, np.float64) for name, value in given.items()}
    mean, spread = (known[name].reshape(8, -1) for name in ("mean", "spread"))
    expected = (np.exp(spread) + mean**2 - 1 - spread).sum(1) / 2
    np.testing.assert_allclose(result.divergences["z"], expected, rtol=2e-5)
    np.testing.assert_allclose(result.output, known["out"], atol=2e-6)
    np.testing.assert_array_equal(known["z"], known["mean"])


@pytest.mark.parametrize("size", ["image", "vector"])
def test_micro_batches_equal_the_whole_batch(size: str) -> None:
    """With batch norm before and after the sample, so that its heads are of an early stage."""
    layers = variational(size, norm=True)
    found = []
    for cut in (Microbatching(8, None), Microbatching(2, None)):
        graphdef, params, rest = split_model(net_of(layers, "direct", cut))

        def loss(params: Any, graphdef: Any = graphdef, rest: Any = rest) -> jax.Array:
            net = nnx.merge(graphdef, params, rest, copy=True)

            def head(result: Result) -> jax.Array:
                return (jnp.tanh(result.output).sum(1) + result.divergences["z"]).sum()

            total: jax.Array = net.sum_of(jnp.asarray(IMAGES), net.prepare(), head, ())
            return total

        found.append(jax.jit(jax.value_and_grad(loss))(params))
    (whole, one), (rows, other) = found
    np.testing.assert_allclose(rows, whole, rtol=1e-5)
    for got, want in zip(jax.tree.leaves(other), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * max(1, float(np.abs(want).max())))


def test_the_gradient_goes_through_mean_and_spread() -> None:
    """Against the formula: d z / d mean = 1, d z / d log variance = noise * deviation / 2."""
    op, noise = Sample(op="sample"), jnp.array([0.5, -2.0])
    mean, spread = jnp.array([1.0, 2.0]), jnp.array([0.2, -0.4])

    def total(mean: jax.Array, spread: jax.Array) -> jax.Array:
        return apply_noise(op, noise, mean, spread).sum()

    by_mean, by_spread = jax.grad(total, (0, 1))(mean, spread)
    np.testing.assert_allclose(by_mean, [1, 1])
    np.testing.assert_allclose(by_spread, noise * np.exp(spread / 2) / 2, rtol=1e-6)


def experiment(weight: float, loss: str, metrics: list[str]) -> Experiment:
    layers = variational("vector")
    layers["z"]["kl_weight"] = weight
    layers["image"] = {"op": "reshape", "shape": [5, 1, 1]}
    return Experiment.model_validate(
        {
            "name": "x",
            "task": "reconstruct",
            "dataset": {"name": "mnist", "pixel_scale": 255.0},
            "model": {"layers": layers},
            "train": {"loss": loss, "metrics": metrics},
        }
    )


def test_the_loss_is_the_negative_evidence_lower_bound_per_pixel() -> None:
    rng = np.random.default_rng(0)
    outputs, targets = rng.uniform(0.1, 0.9, (2, 4, 5, 2, 1)).astype(np.float32)
    kl = np.array([3.0, 1.0, 0.0, 8.0], np.float32)
    result = Result(jnp.asarray(outputs), {"z": jnp.asarray(kl)}, {})
    wanted = experiment(1.0, "binary_cross_entropy", ["kl", "mse"])
    got = objective(wanted)(result, jnp.asarray(targets))
    log_likelihood = scipy.special.xlogy(targets, outputs) + scipy.special.xlog1py(
        1 - targets, -outputs
    )
    bound = log_likelihood.reshape(4, -1).sum(1) - kl
    np.testing.assert_allclose(10 * got, -bound, rtol=1e-5)
    measured = {name: score(result, jnp.asarray(targets)) for name, score in scores(wanted).items()}
    np.testing.assert_array_equal(measured["kl"], kl)
    half = objective(experiment(0.5, "binary_cross_entropy", []))(result, jnp.asarray(targets))
    np.testing.assert_allclose(10 * (got - half), kl / 2, atol=1e-5)


FLAWS = {
    "one input": (
        {"op": "sample"},
        "sample takes two inputs, got one",
        "use inputs: [MEAN, LOG_VARIANCE]",
    ),
    "three": (
        {"op": "sample", "inputs": ["a", "a", "a"]},
        "sample takes two inputs, got 3",
        "use inputs: [MEAN, LOG_VARIANCE]",
    ),
    "shapes": (
        {"op": "sample", "inputs": ["a", "input"]},
        "sample needs inputs of the same shape (a is 4, input is 6x6x1)",
        "make the shapes equal",
    ),
    "long slice": (
        {"op": "slice", "start": 1, "size": 4},
        "values 1 to 4 are out of range: the input has 4",
        "use at most 3",
    ),
    "late slice": (
        {"op": "slice", "start": 4, "size": 1},
        "values 4 to 4 are out of range: the input has 4",
        "use at most 3",
    ),
    "channels": (
        {"op": "slice", "size": 2, "inputs": "input"},
        "channels 0 to 1 are out of range: the input has 1",
        "use at most 1",
    ),
}


@pytest.mark.parametrize("name", FLAWS)
def test_invalid_sizes_are_reported(name: str) -> None:
    from cnnbench.graph.build import build_plan
    from cnnbench.graph.plan import Goal
    from tests.support.oracles import _LAYER

    layer, message, remedy = FLAWS[name]
    layers = {"a": {"op": "dense", "units": 4}, "x": layer}
    operations = {key: _LAYER.validate_python(op) for key, op in layers.items()}
    _, issues = build_plan(operations, Goal((6, 6, 1), (4,), "", ""), known={})
    found: list[Issue] = [issue for issue in issues if issue.message == message]
    assert [issue.remedy for issue in found] == [remedy], issues


def test_a_slice_is_numpys() -> None:
    layers = {
        "conv": {"op": "conv", "filters": 5, "kernel": 3},
        "some": {"op": "slice", "start": 1, "size": 3},
        "flat": {"op": "flatten"},
        "few": {"op": "slice", "start": 7, "size": 4},
        "out": {"op": "dense", "units": 5},
    }
    net = net_of(layers, "plain")
    values = net.activations(jnp.asarray(IMAGES))
    np.testing.assert_array_equal(values["some"], values["conv"][..., 1:4])
    np.testing.assert_array_equal(values["few"], values["flat"][:, 7:11])
    fast = net_of(layers, "fast")(jnp.asarray(IMAGES))
    np.testing.assert_allclose(fast, values["out"], atol=3e-6)


def test_only_the_loss_is_computed_with_a_sample() -> None:
    """The evidence lower bound is an expectation over codes; evaluation decodes the mean."""
    network = split_network(net_of(variational("vector"), "plain"))
    models = {
        name: nnx.merge(getattr(network, name), network.params, network.rest, copy=True)
        for name in ("training", "evaluation", "scoring")
    }
    x = jnp.asarray(IMAGES)
    values = {name: model.activations(x)["z"] for name, model in models.items()}
    np.testing.assert_array_equal(values["training"], values["scoring"])
    assert (values["scoring"] != values["evaluation"]).all()
    layers = {"drop": {"op": "dropout", "rate": 0.5}} | variational("vector")
    scoring = split_network(net_of(layers, "plain")).scoring
    model = nnx.merge(scoring, *split_model(net_of(layers, "plain"))[1:], copy=True)
    np.testing.assert_array_equal(model.activations(x)["drop"], x)
