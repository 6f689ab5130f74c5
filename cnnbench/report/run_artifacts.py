"""Artifacts of a run for the report: network, kernels, confusion matrix, errors, images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.errors import CnnbenchError, DataError
from cnnbench.formatting import enumeration
from cnnbench.graph.plan import Plan
from cnnbench.runs.experiment import load_trained_experiment
from cnnbench.runs.folder import disk
from cnnbench.runs.records import RunResult
from cnnbench.runs.summary import lost_seeds
from cnnbench.spec.loader import Loaded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cnnbench.analysis.confusion import Kernels, Mistake
    from cnnbench.analysis.trained_network import TrainedNetwork
    from cnnbench.data.splits import Split
    from cnnbench.nn.submodules import Outline
    from cnnbench.training.metrics.classification import CalibrationBins

    TestImages = Callable[[TrainedNetwork], Split]

MOST_MISTAKES, MOST_WORST, MOST_KERNELS = 5, 10, 32


@dataclass(slots=True)
class RunArtifacts:
    """Artifacts of a run; `remarks` names those that are missing.

    Args:
      run: the run.
      label: its name in tables.
      loaded: its experiment; None if it cannot be read.
      outline: submodules of its Python model; None for a graph of layers, or if it cannot be read.
      seed: the seed whose weights give the kernels and the latent space.
      kernels: of the layers that read the image.
      judged: the seeds summed up in `confusion` and `mistakes`.
      confusion: counts by class (rows) and prediction (columns), over the test images and seeds.
      calibration: the test images in bins by confidence, for each seed in `judged`.
      mistakes: the misclassified test images with the highest mean loss.
      reconstructions: a PNG file.
      latent: a PNG file of the latent space.
      worst: a PNG file of the test images with the highest loss, for targets and several labels.
      tuning: a PNG file of the trials that chose its settings.
      remarks: what is missing and why, a sentence each.
    """

    run: RunResult
    label: str
    loaded: Loaded | None = None
    outline: "Outline | None" = None
    seed: int | None = None
    kernels: "tuple[Kernels, ...]" = ()
    judged: tuple[int, ...] = ()
    confusion: "NDArray[Any] | None" = None
    calibration: "tuple[CalibrationBins, ...]" = ()
    mistakes: "tuple[Mistake, ...]" = ()
    reconstructions: bytes | None = None
    latent: bytes | None = None
    worst: bytes | None = None
    tuning: bytes | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Plan | None:
        """Its network; None for a Python model, or if the experiment cannot be read."""
        return self.loaded.plan if self.loaded else None


def read_artifacts(
    run: RunResult,
    label: str,
    folder: Path,
    data_dir: Path | None,
    tests: "dict[str, Split] | None" = None,
) -> RunArtifacts:
    """Reads the artifacts in a run's folder; what is missing becomes a remark.

    Args:
      run: the run.
      label: its name in tables.
      folder: its folder.
      data_dir: folder of prepared datasets.
      tests: cache of test images by the digest of their dataset, shared by several runs.
    """
    shown, tests = RunArtifacts(run, label), {} if tests is None else tests
    _try(shown, "Network unavailable", lambda: _read_network(shown, folder, data_dir))
    _try(shown, "Reconstructions unavailable", lambda: _read_pictures(shown, folder))
    images = partial(_test_images, data_dir=data_dir, tests=tests)
    _try(
        shown,
        "Kernels and predictions unavailable",
        lambda: _inspect(shown, folder, data_dir, images),
    )
    return shown


def _try(shown: RunArtifacts, consequence: str, look: Callable[[], None]) -> None:
    try:
        look()
    except CnnbenchError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        shown.remarks.append(f"{consequence}: {reason}.")


def _read_network(shown: RunArtifacts, folder: Path, data_dir: Path | None) -> None:
    shown.loaded = load_trained_experiment(folder, shown.run.record, data_dir=data_dir)
    if shown.plan is None:
        from cnnbench.analysis.trained_network import kept_class
        from cnnbench.nn.submodules import experiment_outline

        experiment = shown.loaded.experiment
        make = kept_class(experiment, folder)
        shown.outline = experiment_outline(experiment, make, shown.loaded.info)


def _read_pictures(shown: RunArtifacts, folder: Path) -> None:
    trials = folder / "tuning.png"
    with disk(trials, "read"):
        shown.tuning = trials.read_bytes() if trials.is_file() else None
    if shown.run.record.task == "reconstruct":
        path = folder / "reconstructions.png"
        with disk(path, "read"):
            shown.reconstructions = path.read_bytes()


def _test_images(
    network: "TrainedNetwork", data_dir: Path | None, tests: "dict[str, Split]"
) -> "Split":
    digest = network.record.dataset.digest
    if digest not in tests:
        tests[digest] = network.dataset(data_dir, lambda _: None).test
    return tests[digest]


def _inspect(
    shown: RunArtifacts, folder: Path, data_dir: Path | None, images: "TestImages"
) -> None:
    from cnnbench.analysis.confusion import first_kernels
    from cnnbench.analysis.trained_network import load_seeds

    networks = load_seeds(folder, data_dir=data_dir)
    network = _first_whole(shown, networks)
    shown.seed = network.seed
    if network.plan is not None:
        shown.kernels = tuple(first_kernels(network.plan, network.parameters, MOST_KERNELS))
    if shown.run.record.task == "classify":
        missing = "Confusion matrix and errors unavailable"
        _try(shown, missing, lambda: _find_mistakes(shown, networks, images))
    elif shown.run.record.task in {"regress", "multilabel"}:
        missing = "Errors unavailable"
        _try(shown, missing, lambda: _draw_worst(shown, networks, images))
    elif network.plan is not None and shown.run.record.task == "reconstruct":
        missing = "Latent space unavailable"
        _try(shown, missing, lambda: _draw_latent(shown, network, images))


def _first_whole(shown: RunArtifacts, networks: "Sequence[TrainedNetwork]") -> "TrainedNetwork":
    """The first seed that did not diverge; a remark names those skipped."""
    import numpy as np

    lost = set(lost_seeds(shown.run.epochs, shown.run.summary))
    whole = [
        network
        for network in networks
        if network.seed not in lost
        and all(np.isfinite(value).all() for value in network.weights.values())
    ]
    if not whole:
        raise DataError("every seed diverged")
    if whole[0] is not networks[0]:
        passed = enumeration([str(n.seed) for n in networks[: networks.index(whole[0])]])
        shown.remarks.append(
            f"Weights are from seed {whole[0].seed} because seed {passed} diverged."
        )
        shown.reconstructions = None  # saved by the run, from its first seed
    return whole[0]


def _find_mistakes(
    shown: RunArtifacts, networks: "Sequence[TrainedNetwork]", images: "TestImages"
) -> None:
    import numpy as np

    from cnnbench.analysis.confusion import calibrations, confusion, hardest

    test = images(networks[0])
    outputs = {network.seed: network.predictions(test.images) for network in networks}
    finite = {seed: logits for seed, logits in outputs.items() if np.isfinite(logits).all()}
    if not finite:
        raise DataError("the network's outputs are not finite; it diverged")
    if lost := ", ".join(str(seed) for seed in outputs if seed not in finite):
        shown.remarks.append(f"The confusion matrix excludes seed {lost}, which diverged.")
    logits = np.stack(list(finite.values()))
    shown.judged = tuple(finite)
    shown.confusion = confusion(test.labels, logits)
    shown.calibration = calibrations(test.labels, logits)
    shown.mistakes = hardest(test.images, test.labels, logits, MOST_MISTAKES)


def _draw_worst(
    shown: RunArtifacts, networks: "Sequence[TrainedNetwork]", images: "TestImages"
) -> None:
    from cnnbench.analysis.worst import worst_images
    from cnnbench.report.plots.contact_sheet import contact_sheet
    from cnnbench.report.predictions.worst import WorstPredictions, groups

    record, seeds = networks[0].record, tuple(network.seed for network in networks)
    hardest = worst_images(networks, images(networks[0]), MOST_WORST)
    shown.judged = seeds
    shown.worst = contact_sheet(
        groups(WorstPredictions(record, seeds, record.loss, hardest)), "", "png"
    )


def _draw_latent(shown: RunArtifacts, network: "TrainedNetwork", images: "TestImages") -> None:
    from cnnbench.report.plots.image_grid import latent_panels, page

    panels = list(latent_panels(network, images(network), (0, 1)))
    if shown.reconstructions:
        del panels[0]  # also reconstructions
    if panels:
        shown.latent = page(panels, "", "png")
