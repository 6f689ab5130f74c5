"""Untuned networks: random graphs of layers, by number.

``python -m benchmarks.random_specs`` benchmarks them against PyTorch and lists the networks at
which PyTorch is faster; ``--write DIR`` only writes their files. The same number always gives the
same network. Images are random, since training times do not depend on them.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from cnnbench.bench.measurements import Benchmark, Ratio
from cnnbench.data.splits import Split
from cnnbench.errors import SpecError
from cnnbench.spec.loader import Loaded, load_experiment

if TYPE_CHECKING:
    from cnnbench.bench.scheduler import Settings

COUNT = 10
COST = (1_000_000, 30_000_000)  # range of forward multiply-adds per image
DATASETS = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
TRAIN_IMAGES, TEST_IMAGES = 2_000, 500
AUTOENCODER_SHARE, BRANCH_SHARE, NORM_SHARE, POOL_SHARE = 0.25, 0.35, 0.35, 0.6
WIDTHS = (8, 12, 16, 24, 32, 48, 64)
ACTIVATIONS = ("relu", "tanh", "elu", "gelu", "leaky_relu", "silu")

LayerSpec = dict[str, Any]


@dataclass
class SpecBuilder:
    """A network under construction: layers in file order."""

    rng: np.random.Generator
    layers: dict[str, LayerSpec] = field(default_factory=dict)

    def add(self, op: str, **options: Any) -> str:
        """Add a layer and return its name."""
        name = f"{op}{len(self.layers) + 1}"
        self.layers[name] = {"op": op, **options}
        return name

    def pick(self, choices: Sequence[Any]) -> Any:
        """A random element."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < share)

    @property
    def last(self) -> str:
        """The last layer, or the input."""
        return next(reversed(self.layers), "input")


def spec_text(number: int) -> str:
    """The experiment file of a number: the first valid draft of its seed within the cost range.

    >>> spec_text(3) == spec_text(3)
    True
    """
    rng = np.random.default_rng([2025, number])
    with tempfile.TemporaryDirectory() as folder:
        while True:
            text = yaml.safe_dump(_draft(rng, number), sort_keys=False)
            path = Path(folder) / "draft.yaml"
            path.write_text(text, encoding="utf-8")
            try:
                plan = load_experiment(path).plan
            except SpecError:
                continue
            if plan is not None and COST[0] <= plan.multiply_adds <= COST[1]:
                return text


def _draft(rng: np.random.Generator, number: int) -> dict[str, Any]:
    draft = SpecBuilder(rng)
    dataset = draft.pick(list(DATASETS))
    reconstructs = draft.chance(AUTOENCODER_SHARE)
    if reconstructs:
        _autoencoder(draft, DATASETS[dataset])
    else:
        _classifier(draft)
    return {
        "name": f"random-{number:02d}",
        "task": "reconstruct" if reconstructs else "classify",
        "dataset": {"name": dataset},
        "model": {"layers": draft.layers},
        "train": {"batch_size": draft.pick((64, 100, 128, 250, 500))},
    }


def _classifier(draft: SpecBuilder) -> None:
    for _ in range(draft.pick((1, 2, 2, 3))):
        if draft.chance(BRANCH_SHARE):
            _branch(draft)
        else:
            _conv(draft, stride=draft.pick((1, 1, 1, 2)))
        if draft.chance(POOL_SHARE):
            _pool(draft)
    if draft.chance(0.3):
        draft.add("global_avg_pool")
    if draft.chance(0.5):
        draft.add("dropout", rate=draft.pick((0.2, 0.5)))
    if draft.chance(0.6):
        draft.add("dense", units=draft.pick((64, 100, 256)), activation=draft.pick(ACTIVATIONS))
    draft.add("dense", units=10)


def _conv(draft: SpecBuilder, **options: Any) -> str:
    """A convolution, sometimes with batch norm before its activation."""
    size, activation = int(draft.rng.integers(2, 8)), draft.pick(ACTIVATIONS)
    kernel = [size, draft.pick((3, 5))] if draft.chance(0.15) else size
    padding = draft.pick(("valid", "same", 1, 2))
    common = {"filters": draft.pick(WIDTHS), "kernel": kernel, "padding": padding} | options
    if not draft.chance(NORM_SHARE):
        return draft.add("conv", **common, activation=activation)
    draft.add("conv", **common, use_bias=False)
    draft.add("batch_norm")
    return draft.add("activation", activation=activation)


def _branch(draft: SpecBuilder) -> None:
    """Two parallel convolutions of one input; sums need equal widths."""
    source, joins = draft.last, draft.pick(("concat", "add"))
    filters = draft.pick(WIDTHS)
    ends = []
    for _ in range(2):
        width = filters if joins == "add" else draft.pick(WIDTHS)
        ends.append(_conv(draft, inputs=source, stride=1, padding="same", filters=width))
    draft.add(joins, inputs=ends)


def _pool(draft: SpecBuilder) -> None:
    size = draft.pick((2, 2, 3))
    options = {"stride": 2} if size == 3 and draft.chance(0.5) else {}
    draft.add(draft.pick(("max_pool", "max_pool", "avg_pool")), size=size, **options)


def _autoencoder(draft: SpecBuilder, shape: tuple[int, int, int]) -> None:
    """Convolutions followed by their adjoints in reverse, tied or with separate kernels."""
    convs = []
    for _ in range(draft.pick((1, 2, 2))):
        options = {
            "filters": draft.pick(WIDTHS),
            "kernel": int(draft.rng.integers(2, 8)),
            "stride": draft.pick((1, 2)),
            "padding": "valid",
        }
        name = draft.add("conv", **options, activation=draft.pick(ACTIVATIONS))
        convs.append((name, options))
    tied = draft.chance(0.5)
    if draft.chance(0.5):
        draft.add("dropout", rate=0.2)
    for place in reversed(range(len(convs))):
        name, options = convs[place]
        out = convs[place - 1][1]["filters"] if place else shape[2]
        own = {"tie": name} if tied else options | {"filters": out}
        draft.add("conv_transpose", **own, activation="relu" if place else "linear")


def write_specs(folder: Path, count: int) -> list[Path]:
    """Write the experiment files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"random-{number:02d}.yaml" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_text(spec_text(number), encoding="utf-8")
    return paths


def random_splits(loaded: Loaded) -> tuple[Split, Split]:
    """Images of the dataset's shape, the same for every network."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (TRAIN_IMAGES + TEST_IMAGES, *loaded.info.shape), np.uint8)
    labels = rng.integers(0, loaded.info.num_classes, len(images), np.int32)
    test = slice(TRAIN_IMAGES, None)
    return Split(images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES]), Split(images[test], labels[test])


def race(
    count: int, settings: "Settings", notify: Callable[[str], None], patterns: str = "*"
) -> Iterator[tuple[str, Benchmark | None]]:
    """Measure each random network, as `measure_all`."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = map(load_experiment, write_specs(Path(folder), count))
        yield from measure_all(loaded, settings, notify, patterns)


def measure_all(
    experiments: Iterable[Loaded],
    settings: "Settings",
    notify: Callable[[str], None],
    patterns: str = "*",
) -> Iterator[tuple[str, Benchmark | None]]:
    """Measure each network on random images against variants of PyTorch.

    Args:
      experiments: the networks.
      settings: settings of the benchmark.
      notify: called with progress messages.
      patterns: of the variants' names, as of `session.measure`.

    Yields:
      Name and measurements; None if our own variant failed, which counts as slower and does not
      stop the other networks.
    """
    from cnnbench.bench.scheduler import BenchError
    from cnnbench.bench.session import measure, task_on

    for loaded in experiments:
        name, task = (
            loaded.experiment.name,
            task_on(loaded, *random_splits(loaded), "random images"),
        )
        try:
            yield name, measure(task, ("torch",), settings, notify, patterns)
        except BenchError as error:
            notify(str(error))
            yield name, None


def slower(ratios: Mapping[str, Ratio | None]) -> list[str]:
    """Networks at which the fastest PyTorch variant is faster, or that could not be compared."""
    return [name for name, ratio in ratios.items() if ratio is None or ratio.value < 1]


def torch_ratios(results: Mapping[str, Benchmark | None]) -> dict[str, Ratio | None]:
    """Time of the fastest PyTorch variant relative to ours, by network."""
    return {
        name: each.ratio(each.best("torch")) if each else None for name, each in results.items()
    }


def main() -> None:
    """Print the ratio of every network, and the names of the slower ones."""
    from rich.console import Console

    from cnnbench.bench.report import ratio_with_interval
    from cnnbench.bench.scheduler import Settings

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="number of networks")
    parser.add_argument("--rounds", type=int, default=7, help="maximum number of timed rounds")
    parser.add_argument("--budget", type=float, default=30, help="seconds of training per network")
    parser.add_argument("--variants", default="*", metavar="PATTERN,...", help="of PyTorch")
    parser.add_argument("--write", type=Path, metavar="DIR", help="only write the files to DIR")
    arguments = parser.parse_args()
    console, errors = Console(), Console(stderr=True, highlight=False)
    if arguments.write:
        write_specs(arguments.write, arguments.count)
        return
    done = {}
    settings = Settings(arguments.rounds, arguments.budget)
    for name, each in race(arguments.count, settings, errors.print, arguments.variants):
        done[name] = each
        best = each.best("torch") if each else None
        ratio = each.ratio(best) if each else None
        text = f"{best.variant} {ratio_with_interval(ratio)}" if best and ratio else "not compared"
        console.print(f"{name}: {text}", highlight=False)
    lost = slower(torch_ratios(done))
    console.print(
        f"{len(done) - len(lost)} of {len(done)} are no slower than the fastest PyTorch variant"
    )
    console.print(f"slower: {', '.join(lost) or 'none'}")


if __name__ == "__main__":
    main()
