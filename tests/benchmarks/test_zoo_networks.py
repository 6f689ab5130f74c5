"""The well-known architectures of the benchmark."""

import pytest

from benchmarks import run, zoo_networks
from tests.benchmarks.test_random_specs import network

# Parameters in the papers: ResNet-20 0.27 M, WRN-16-2 0.7 M, DenseNet-40 1.0 M; MobileNetV2 has the
# 2,223,872 of torchvision's without its classifier, and one for 10 classes.
SIZES = {
    "resnet20": (32, 272_474),
    "resnet20_28": (28, 272_186),
    "wrn_16_2": (32, 691_674),
    "densenet40": (32, 1_019_722),
    "mobilenet_v2": (32, 2_223_872 + 12_810),
}


def test_networks_have_the_size_of_their_papers() -> None:
    for name in zoo_networks.NETWORKS:
        loaded = zoo_networks.load(name)
        assert loaded.experiment.name == name
        assert loaded.plan is not None
        height, num_params = SIZES.get(name, (28, loaded.plan.num_params))
        if name != "convnext_blocks":
            assert loaded.plan.input_shape[0] == height
        assert loaded.plan.num_params == num_params
        assert loaded.plan.output_shape in {(10,), (28, 28, 1)}
        assert loaded.experiment.train.batch_size == 128


def test_each_network_has_a_target() -> None:
    found = run.zoo_check("unet", network(1.3))
    assert found.target.name == "unet: tuned PyTorch / ours"
    assert found.measured == pytest.approx(1.3)
    assert found.holds
    assert found.note.startswith("torch-eager-nchw 1.30")
    assert run.zoo_check("unet", network(1.1)).holds is False
    assert run.zoo_check("unet", None).holds is None


def test_the_zoo_is_measured_only_if_named() -> None:
    assert "zoo" not in run.BY_DEFAULT
    assert "zoo" in run.SECTIONS
