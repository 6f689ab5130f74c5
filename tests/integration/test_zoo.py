"""The networks of `experiments/zoo/` are those of torchvision and the papers."""

import functools
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.graph.plan import Plan
from cnnbench.layers import BatchNorm
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.ops.convolution import EngineName
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.system.arrays import Array
from cnnbench.training.state import Arrays, TrainState, split_network
from cnnbench.training.step import gradients, make_rules
from tests.support.paths import EXPERIMENTS

ZOO = EXPERIMENTS / "zoo"
# Parameters that torchvision documents for its weights, at 224x224x3 and 1,000 classes.
DOCUMENTED: Mapping[str, int] = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnext50_32x4d": 25_028_904,
    "densenet121": 7_978_856,
    "squeezenet1_1": 1_235_496,
    "shufflenet_v2_x1_0": 2_278_604,
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "convnext_tiny": 28_589_128,
    "regnet_y_400mf": 4_344_144,
    "vgg11_bn": 132_868_840,
    "googlenet": 6_624_904,
    "vit_b_16": 86_567_656,
}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False, "transform_input": False}
}

# The small networks, with 10 classes and without dropout.
SMALL: Mapping[str, tuple[str, ...]] = {
    "resnet18": ("model.fc.units=10",),
    "squeezenet1_1": ("model.conv10.filters=10", "model.drop.rate=0"),
    "mobilenet_v2": ("model.classifier.units=10", "model.drop.rate=0"),
    "shufflenet_v2_x1_0": ("model.fc.units=10",),
}


def plan_of(name: str, *overrides: str) -> Plan:
    loaded = load_experiment(ZOO / f"{name}.yaml", overrides)
    assert loaded.plan is not None
    return loaded.plan


@pytest.mark.parametrize("name", DOCUMENTED)
def test_parameters_are_those_that_torchvision_documents(name):
    plan = plan_of(name)
    assert (plan.input_shape, plan.output_shape) == ((224, 224, 3), (1000,))
    assert plan.num_params == DOCUMENTED[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in ZOO.glob("*.yaml")))
def test_headers_have_the_number_of_parameters(name):
    found = re.search(r"^# Params: +([\d,]+)", (ZOO / f"{name}.yaml").read_text(), re.MULTILINE)
    assert found
    assert found[1] == f"{plan_of(name).num_params:,}"


def test_other_sizes_are_parameters_of_the_network():
    """torchvision's vit_l_16."""
    sizes = ("depth=24", "width=1024", "heads=16")
    plan = plan_of("vit_b_16", *[f"model.params.{size}" for size in sizes])
    assert plan.num_params == 304_326_632


def test_transformers_read_small_images_in_small_patches():
    data = ("dataset.name=cifar10", "model.params.patch=4", "model.head.units=10")
    vit = plan_of("vit_tiny", *data, "model.params.patches=64")
    assert vit.by_name["positions"].layout.shape == (65, 1, 192)
    mixer = plan_of("mlp_mixer", *data, "model.params.tokens=64")
    assert mixer.by_name["mixer.0.tokens"].layout.shape == (192 * 4, 1, 64)
    assert (vit.output_shape, mixer.output_shape) == ((10,), (10,))


def ours(
    plan: Plan, weights: Mapping[str, Mapping[str, Array]], form: EngineName = "plain"
) -> GraphNet:
    """Our network with weights."""
    net = GraphNet(plan, form=form, rngs=nnx.Rngs(0))
    for node in plan.nodes:
        part: Any = net.parts if isinstance(node.op, BatchNorm) else net.weights
        for key, value in weights.get(node.name, {}).items():
            kept = part[node.name]
            target = getattr(kept, key) if isinstance(node.op, BatchNorm) else kept[key]
            assert target.shape == value.shape, (node.name, key)
            target[...] = value
    net.eval()
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTED)
def test_outputs_are_those_of_torchvision(name):
    pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from tests.support.torchvision_models import torchvision_model, transferred

    plan, model = plan_of(name), torchvision_model(name, **OPTIONS.get(name, {}))
    assert_same_outputs(plan, model, transferred(model, plan))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_a_step_are_those_of_torchvision(name):
    """In double precision: statistics of small batches amplify rounding errors."""
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from tests.support.torchvision_models import torchvision_model, transferred

    loaded = load_experiment(ZOO / f"{name}.yaml", ["dataset.name=random/32x32x3/10", *SMALL[name]])
    assert loaded.plan is not None
    images = np.random.default_rng(0).integers(0, 256, (8, *loaded.plan.input_shape), np.uint8)
    labels = np.arange(8)
    model = torchvision_model(name, num_classes=10)
    loss, found = step_gradients(loaded, transferred(model, loaded.plan), images, labels)

    for module in model.double().train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    scaled = torch.from_numpy(images.transpose(0, 3, 1, 2) / 256)
    want = torch.nn.functional.cross_entropy(model(scaled), torch.from_numpy(labels))
    want.backward()
    assert loss == pytest.approx(want.item(), rel=1e-5)
    for value in model.parameters():
        value.data.copy_(value.grad)
    slopes = transferred(model.float().eval(), loaded.plan)
    assert {(layer, key) for layer in found for key in found[layer]} == {
        (node.name, key) for node in loaded.plan.nodes for key in node.layout.params
    }
    largest = max(np.abs(slopes[layer][key]).max() for layer in found for key in found[layer])
    for layer, values in found.items():
        for key, value in values.items():
            slope = slopes[layer][key]
            # That of a bias before batch norm is zero, up to rounding.
            allowed = 1e-4 * np.abs(slope).max() + 1e-7 * largest
            assert np.abs(value - slope).max() <= allowed, (layer, key)


def step_gradients(
    loaded: Loaded,
    weights: Mapping[str, Mapping[str, Array]],
    images: Array,
    labels: Array,
) -> tuple[float, dict[str, dict[str, Array]]]:
    """Loss and gradients by layer of a training step, computed in double precision."""
    assert loaded.plan is not None
    with jax.enable_x64(True):
        network = split_network(ours(loaded.plan, weights, form="direct"))
        rules = make_rules(loaded.experiment, None)._replace(dtype=jnp.float64)
        step = jax.jit(functools.partial(gradients, graphdef=network.training, rules=rules))
        state = TrainState(network.params, network.rest, None)
        arrays = Arrays(jnp.asarray(images), jnp.asarray(labels))
        gradient, _, loss = step(state, arrays, jnp.arange(len(images)))
    tree = nnx.to_pure_dict(gradient)
    return float(loss), {**tree["weights"], **tree.get("parts", {})}


@pytest.mark.parametrize("option", ["A", "B"])
def test_outputs_of_resnets_for_cifar_are_those_of_pytorch(option):
    torch = pytest.importorskip("torch")
    from tests.support.published_models import CifarResNet
    from tests.support.torchvision_models import randomized, transferred

    kind = {"A": "pad", "B": "conv"}[option]
    plan = plan_of("resnet", "model.params.n=2", f"model.params.shortcut={kind}")
    torch.manual_seed(0)
    model = randomized(CifarResNet(2, option))
    assert_same_outputs(plan, model, transferred(model, plan))


@pytest.mark.slow
def test_outputs_of_airbench94_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    from tests.support.published_models import Airbench94
    from tests.support.torchvision_models import randomized

    plan = plan_of("airbench94")
    torch.manual_seed(0)
    model = randomized(Airbench94())
    assert plan.num_params == sum(p.numel() for p in model.parameters() if p.requires_grad)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.fill_(1)
    values = [value.numpy() for key, value in model.state_dict().items() if "tracked" not in key]
    assert_same_outputs(plan, model, airbench_weights(values))


def airbench_weights(values: Sequence[Array]) -> dict[str, dict[str, Array]]:
    """Weights of PyTorch's network in the names of ours."""
    whiten, bias, *others, out = values
    weights = {"whiten": {"kernel": whiten.transpose(2, 3, 1, 0), "bias": bias}}
    weights["out"] = {"kernel": out.T}
    for i, before in enumerate((24, 64, 256), start=1):
        conv1, _, *norm1, conv2, _ = others[10 * (i - 1) : 10 * i - 3]
        norm2 = others[10 * i - 3 : 10 * i]
        first, second = (kernel.transpose(2, 3, 1, 0) for kernel in (conv1, conv2))
        one = "conv3.conv" if i == 3 else f"conv{i}.identity.conv"
        weights[one] = {"kernel": first[..., :before]}
        if i < 3:
            weights[f"conv{i}.new"] = {"kernel": first[..., before:]}
        weights[f"group{i}.conv2.conv"] = {"kernel": second}
        for name, norm in (("norm1", norm1), ("norm2", norm2)):
            weights[f"group{i}.{name}.norm"] = dict(zip(("bias", "mean", "var"), norm, strict=True))
    return weights


def assert_same_outputs(plan: Plan, model: Any, weights: Mapping[str, Mapping[str, Array]]) -> None:
    """Compare our outputs with those of a PyTorch module."""
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).uniform(-1, 1, (2, *plan.input_shape)).astype(np.float32)
    with torch.no_grad():
        want = model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    graph, state = nnx.split(ours(plan, weights))
    found = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, images)
    assert np.abs(found - want).max() <= 1e-4 * np.abs(want).max()
    assert np.abs(want[0] - want[1]).max() > 1e-3 * np.abs(want).max()  # depends on the image
