"""Well-known architectures on images of MNIST's and CIFAR's size, compared with PyTorch.

`make bench BENCH="--only zoo"` measures them. Images are random, since training times do not depend
on them.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.random_specs import measure_all
from cnnbench.bench.measurements import Benchmark
from cnnbench.bench.scheduler import Settings
from cnnbench.spec.loader import Loaded, load_experiment

ROOT = Path(__file__).parent.parent
_ZOO, _OWN = ROOT / "experiments" / "zoo", Path(__file__).parent / "zoo"
_MNIST, _CIFAR = "dataset.name=random/28x28x1/10", "dataset.name=random/32x32x3/10"
_BATCH = "train.batch_size=128"

# Experiment and overrides, by name.
NETWORKS: Mapping[str, tuple[Path, tuple[str, ...]]] = {
    "resnet20": (_ZOO / "resnet.yaml", (_CIFAR, _BATCH)),
    "resnet20_28": (_ZOO / "resnet.yaml", (_MNIST, _BATCH)),
    "wrn_16_2": (_ZOO / "wide_resnet.yaml", (_CIFAR,)),
    "densenet40": (_OWN / "densenet40.yaml", ()),
    "mobilenet_v2": (
        _ZOO / "mobilenet_v2.yaml",
        (_CIFAR, _BATCH, "model.layers.stem.stride=1", "model.layers.classifier.units=10"),
    ),
    "convnext_blocks": (_OWN / "convnext_blocks.yaml", ()),
    "vit_tiny": (
        _ZOO / "vit_tiny.yaml",
        (
            _MNIST,
            _BATCH,
            "model.params.patch=4",
            "model.params.patches=49",
            "model.layers.head.units=10",
            "model.layers.head.init=lecun_normal",
        ),
    ),
    "unet": (_ZOO / "unet.yaml", (_MNIST,)),
    "mlp_mixer": (
        _ZOO / "mlp_mixer.yaml",
        (
            _MNIST,
            _BATCH,
            "model.params.width=128",
            "model.params.depth=8",
            "model.params.patch=4",
            "model.params.tokens=49",
            "model.params.token_units=64",
            "model.params.channel_units=512",
            "model.layers.head.units=10",
            "model.layers.head.init=lecun_normal",
        ),
    ),
}


def load(name: str) -> Loaded:
    """The experiment of a name."""
    path, overrides = NETWORKS[name]
    return load_experiment(path, [*overrides, f"name={name}"])


def race(
    settings: Settings, notify: Callable[[str], None], patterns: str
) -> Iterator[tuple[str, Benchmark | None]]:
    """Measure each network against variants of PyTorch, as `measure_all`."""
    yield from measure_all(map(load, NETWORKS), settings, notify, patterns)
