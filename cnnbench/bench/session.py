"""A run of the benchmark from files to files: who takes part, on what images, what is kept."""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from cnnbench.bench.frameworks import VARIANTS, initial_weights
from cnnbench.bench.measurements import Benchmark
from cnnbench.bench.report import Report, best_notes, json_text, markdown
from cnnbench.bench.scheduler import OURS, BenchTask, Settings, run_contest
from cnnbench.bench.worker_process import BenchVariant
from cnnbench.data.dataset import Split, dataset_of
from cnnbench.errors import Notify, StoreError, UsageError, cannot_write, or_list
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.spec.vocabulary import FAMILY
from cnnbench.system import commands
from cnnbench.system.settings import pinned

FAMILIES = tuple(dict.fromkeys(VARIANTS.values()))
TITLES = {"torch": "PyTorch", "keras": "Keras", "flax": "Flax"}
MOST_TESTED = 2_000  # test images that every variant evaluates in the end


@dataclasses.dataclass(frozen=True, slots=True)
class Families:
    """Frameworks to compare with.

    Args:
      chosen: those that take part.
      missing: those that nobody asked for by name and that are not installed.
    """

    chosen: tuple[str, ...]
    missing: tuple[str, ...]


def choose_families(text: str | None, installed: Callable[[str], object] = find_spec) -> Families:
    """The frameworks that a command line asks for; all that are installed if it says nothing.

    Args:
      text: names with commas between them.
      installed: whether there is a package of a name.

    Raises:
      UsageError: there is no such framework here, or none at all.
    """
    if text is None:
        here = tuple(family for family in FAMILIES if installed(family))
        return Families(here, tuple(family for family in FAMILIES if family not in here))
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--against: no framework is named; write {or_list(FAMILIES)}.")
    for name in names:
        if name not in FAMILIES:
            hint = FAMILY.hint(name, FAMILIES)
            message = f"--against: there is no framework '{name}'{hint}"
            raise UsageError(f"{message}; write {or_list(FAMILIES)}.")
        if not installed(name):
            message = f"--against {name}: {TITLES[name]} is not installed"
            raise UsageError(f"{message}; run {commands.pip_install('cnnbench[peers]')}.")
    return Families(names, ())


def contestants(families: Sequence[str]) -> tuple[BenchVariant, ...]:
    """We, and every variant of the frameworks."""
    others = (BenchVariant(name, family) for name, family in VARIANTS.items() if family in families)
    return (OURS, *others)


def load_all(
    paths: Sequence[Path], overrides: Sequence[str], data_dir: Path | None
) -> tuple[Loaded, ...]:
    """Reads and checks every experiment before the first is measured.

    Raises:
      SpecError: what is wrong with one.
      UsageError: two have one name, or one is a Python class.
    """
    loaded = tuple(load_experiment(path, overrides, data_dir=data_dir) for path in paths)
    names = [each.experiment.name for each in loaded]
    for each in loaded:
        name = each.experiment.name
        if names.count(name) > 1:
            message = f"command line: '{name}' is the name of two experiments"
            raise UsageError(f"{message}; measure one of them.")
        if each.plan is None:
            message = f"{name}: model.python runs in Flax alone"
            raise UsageError(f"{message}; write model.layers to compare frameworks.")
    return loaded


def make_task(loaded: Loaded, data_dir: Path | None, notify: Notify) -> BenchTask:
    """What is trained: the experiment's images, and weights from its first seed.

    Raises:
      DataError: the images cannot be had.
    """
    dataset = dataset_of(loaded.experiment.dataset, data_dir, notify)
    return task_on(loaded, dataset.train, dataset.test, dataset.info.name, data_dir)


def task_on(
    loaded: Loaded, train: Split, test: Split, dataset: str, data_dir: Path | None = None
) -> BenchTask:
    """Likewise, with images that are given."""
    assert loaded.plan is not None
    with pinned():
        weights = initial_weights(loaded.plan, loaded.experiment.seeds[0])
    return BenchTask(loaded, train, test.first(MOST_TESTED), dataset, weights, data_dir)


def measure(
    task: BenchTask, families: Sequence[str], settings: Settings, notify: Notify
) -> Benchmark:
    """Measures one network in every variant of some frameworks, and says who is the best.

    Raises:
      BenchError: our own variant did not come to the end.
    """
    benchmark = run_contest(task, contestants(families), settings, notify)
    for line in best_notes(benchmark):
        notify(f"{benchmark.name}: {line}")
    return benchmark


def make_report(
    benchmarks: Sequence[Benchmark],
    families: Sequence[str],
    command: Sequence[str],
    started_at: datetime,
) -> Report:
    """Measurements with the machine and the versions they were made on."""
    from cnnbench.runs.environment import environment
    from cnnbench.system.devices import pick_devices

    where = environment(pick_devices("auto"), command)
    return Report(tuple(benchmarks), where, _versions(families), started_at)


def _versions(families: Sequence[str]) -> dict[str, str]:
    """Versions beside those that every environment has."""
    found = {}
    for name in families:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a module without a distribution
            continue
    return found


def make_folder(folder: Path) -> None:
    """Makes the folder of reports, before anything is measured for it.

    Raises:
      StoreError: the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        message = f"--output {folder}: the folder cannot be made: {reason}"
        raise StoreError(f"{message}; name another one.") from error


def write_report(report: Report, folder: Path) -> Path:
    """Keeps a report as JSON and as Markdown in a folder that exists, named by its start.

    Returns:
      The JSON file; the other one lies beside it.

    Raises:
      StoreError: the disk refuses.
    """
    path = folder / f"{report.started_at.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"
    try:
        path.write_text(json_text(report), encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error, "name another folder") from error
    return path
