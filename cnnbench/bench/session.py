"""A benchmark session: experiments, frameworks, measurement and reports on disk."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from cnnbench.bench.frameworks import VARIANTS, initial_weights
from cnnbench.bench.measurements import Benchmark
from cnnbench.bench.report import Report, best_notes, json_text, markdown
from cnnbench.bench.scheduler import OURS, OURS_BFLOAT16, BenchTask, Settings, run_benchmark
from cnnbench.bench.tuning import torch_variants
from cnnbench.bench.worker_process import BenchVariant
from cnnbench.data.dataset import dataset_of
from cnnbench.data.splits import Split
from cnnbench.errors import Notify, StoreError, UsageError, cannot_write, or_list
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.spec.vocabulary import FAMILY
from cnnbench.system import commands
from cnnbench.system.host import cores, has_bfloat16, kept_memory
from cnnbench.system.settings import pinned

FAMILIES = tuple(dict.fromkeys(VARIANTS.values()))
TITLES = {"torch": "PyTorch", "keras": "Keras", "flax": "Flax"}
MOST_TESTED = 2_000  # test images for the final evaluation of every variant


@dataclasses.dataclass(frozen=True, slots=True)
class Families:
    """Frameworks to compare with.

    Args:
      chosen: frameworks to measure.
      missing: frameworks that are not installed and were not requested by name.
    """

    chosen: tuple[str, ...]
    missing: tuple[str, ...]


def choose_families(text: str | None, installed: Callable[[str], object] = find_spec) -> Families:
    """Parse the frameworks requested on the command line.

    Args:
      text: comma-separated names; None for all installed frameworks.
      installed: predicate on a package's name.

    Raises:
      UsageError: a framework is unknown or not installed, or none is given.
    """
    if text is None:
        here = tuple(family for family in FAMILIES if installed(family))
        return Families(here, tuple(family for family in FAMILIES if family not in here))
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--against: no framework given; write {or_list(FAMILIES)}.")
    for name in names:
        if name not in FAMILIES:
            hint = FAMILY.hint(name, FAMILIES)
            message = f"--against: unknown framework '{name}'{hint}"
            raise UsageError(f"{message}; write {or_list(FAMILIES)}.")
        if not installed(name):
            message = f"--against {name}: {TITLES[name]} is not installed"
            raise UsageError(f"{message}; run {commands.pip_install('cnnbench[peers]')}.")
    return Families(names, ())


def variants(families: Sequence[str], engine: str | None = None) -> tuple[BenchVariant, ...]:
    """Our variant, and every variant of the frameworks.

    With PyTorch, and on a processor with products in bfloat16, this includes both in bfloat16.

    Args:
      families: the frameworks.
      engine: our convolution algorithms, as in `run`; None for ``CNNBENCH_ENGINE``, or ``auto``.
    """
    chosen = kept_memory(os.environ) | ({"CNNBENCH_ENGINE": engine} if engine else {})
    ours = dataclasses.replace(OURS, environment=chosen)
    ours_bfloat16 = dataclasses.replace(OURS_BFLOAT16, environment=chosen)
    others = [BenchVariant(name, family) for name, family in VARIANTS.items() if family in families]
    if "torch" not in families:
        return (ours, *others)
    bfloat16 = has_bfloat16()
    torch = torch_variants(cores(), os.environ, bfloat16=bfloat16)
    others = [*torch, *(each for each in others if each.family != "torch")]
    return (ours, *([ours_bfloat16] if bfloat16 else []), *others)


def load_all(
    paths: Sequence[Path], overrides: Sequence[str], data_dir: Path | None
) -> tuple[Loaded, ...]:
    """Load and check all experiments before any is measured.

    Raises:
      SpecError: an experiment file is invalid.
      UsageError: two experiments have the same name, or one is a Python class.
    """
    loaded = tuple(load_experiment(path, overrides, data_dir=data_dir) for path in paths)
    names = [each.experiment.name for each in loaded]
    for each in loaded:
        name = each.experiment.name
        if names.count(name) > 1:
            message = f"command line: two experiments are named '{name}'"
            raise UsageError(f"{message}; measure one of them.")
        if each.plan is None:
            message = f"{name}: model.python only runs in Flax"
            raise UsageError(f"{message}; write model.layers to compare frameworks.")
    return loaded


def make_task(loaded: Loaded, data_dir: Path | None, notify: Notify) -> BenchTask:
    """The task of an experiment: its images, and initial weights from its first seed.

    Raises:
      DataError: the dataset is not available.
    """
    dataset = dataset_of(loaded.experiment.dataset, data_dir, notify)
    known = dataset.pool or dataset.train
    loaded = loaded.with_statistics(known.images, dataset.typical_labels)
    train = dataset.of_seed(loaded.experiment.seeds[0]).train
    return task_on(loaded, train, dataset.test, dataset.info.name, data_dir)


def task_on(
    loaded: Loaded, train: Split, test: Split, dataset: str, data_dir: Path | None = None
) -> BenchTask:
    """The task of an experiment on given images, with initial weights from its first seed."""
    assert loaded.plan is not None
    with pinned():
        weights = initial_weights(loaded.plan, loaded.experiment.seeds[0])
    return BenchTask(loaded, train, test.first(MOST_TESTED), dataset, weights, data_dir)


def measure(
    task: BenchTask,
    families: Sequence[str],
    settings: Settings,
    notify: Notify,
    patterns: str = "*",
    engine: str | None = None,
) -> Benchmark:
    """Measure one network in every variant of the frameworks and report the fastest.

    Args:
      task: network and data to train.
      families: frameworks to compare with.
      settings: settings of the benchmark.
      notify: called with progress messages.
      patterns: of the variants' names, comma-separated, such as `torch-tcmalloc-*,torch-eager-*`.
      engine: our convolution algorithms; see `variants`.

    Raises:
      BenchError: our own variant failed.
    """
    chosen = [
        each
        for each in variants(families, engine)
        if each.name == OURS.name
        or any(fnmatch(each.name, pattern) for pattern in patterns.split(","))
    ]
    benchmark = run_benchmark(task, chosen, settings, notify)
    for line in best_notes(benchmark):
        notify(f"{benchmark.name}: {line}")
    return benchmark


def make_report(
    benchmarks: Sequence[Benchmark],
    families: Sequence[str],
    command: Sequence[str],
    started_at: datetime,
) -> Report:
    """The measurements with machine and package versions."""
    from cnnbench.runs.environment import environment
    from cnnbench.system.devices import pick_devices

    where = environment(pick_devices("auto"), command)
    return Report(tuple(benchmarks), where, _versions(families), started_at)


def _versions(families: Sequence[str]) -> dict[str, str]:
    """Versions of the frameworks; those in every `Environment` are not repeated."""
    found = {}
    for name in families:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a module without a distribution
            continue
    return found


def make_folder(folder: Path) -> None:
    """Create the folder of the reports, before anything is measured.

    Raises:
      StoreError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        message = f"--output {folder}: cannot create the folder: {reason}"
        raise StoreError(f"{message}; choose another one.") from error


def write_report(report: Report, folder: Path) -> Path:
    """Write a report as JSON and Markdown to an existing folder, named by its start time.

    Returns:
      The JSON file; the Markdown file is next to it.

    Raises:
      StoreError: a file cannot be written.
    """
    path = folder / f"{report.started_at.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"
    try:
        path.write_text(json_text(report), encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error, "name another folder") from error
    return path
