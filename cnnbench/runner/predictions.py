"""Results for each image of finished runs that have none, from their stored weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.errors import Notify
from cnnbench.runner.open_run import alone
from cnnbench.runs.experiment import load_trained_experiment
from cnnbench.runs.folder import RunFolder, kept_seeds, predictions_file, read_weights
from cnnbench.runs.records import RunResult, SeedSummary
from cnnbench.runs.verify import misfit
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.settings import pinned
from cnnbench.system.stopwatch import Stopwatch

if TYPE_CHECKING:
    from cnnbench.training.executables import Job


def missing_predictions(run: RunResult) -> tuple[int, ...]:
    """The seeds of a run that have weights, but no results for each image.

    Raises:
      StoreError: the folder cannot be read.
    """
    if run.path is None:
        return ()
    kept = set(kept_seeds(run.path))
    path = run.path
    return tuple(
        seed
        for seed in run.record.seeds
        if seed in kept and not (path / predictions_file(seed)).exists()
    )


def compute_predictions(run: RunResult, data_dir: Path | None, notify: Notify) -> None:
    """Computes the results of a finished run for each image from its weights, and stores them.

    They are stored only if their means are those in the summary.

    Args:
      run: the run, in a folder.
      data_dir: where datasets are looked up.
      notify: called with messages for the user.

    Raises:
      CnnbenchError: the weights or the images cannot be read, or are not those of the run.
    """
    seeds, path = missing_predictions(run), run.path
    if not seeds or path is None or run.summary is None:
        return
    summaries = {seed.seed: seed for seed in run.summary.seeds}
    folder = RunFolder(path)
    with pinned(), alone(folder):
        for seed, found in _results(run, path, seeds, data_dir, notify):
            if problem := _problem(run, summaries[seed], found):
                notify(f"{path}, seed {seed}: computed from its weights, {problem}; not stored")
            else:
                folder.write_predictions(seed, found)


def _results(
    run: RunResult, path: Path, seeds: Sequence[int], data_dir: Path | None, notify: Notify
) -> Iterator[tuple[int, NamedArrays]]:
    """Results of each seed, by the programs that evaluated the run."""
    from cnnbench.training.autotune import usable
    from cnnbench.training.evaluation import image_results
    from cnnbench.training.executables import compile_evaluation, set_up
    from cnnbench.training.resume import recorded_strategy
    from cnnbench.training.state import TrainState, with_weights
    from cnnbench.training.strategy import Strategy

    job = _job(run, path, data_dir, notify)
    strategy = recorded_strategy(run.record.engine) or Strategy("plain", None, 1, 1)
    setup = set_up(job, usable(strategy, accelerator=job.accelerator))
    network = setup.network(seeds[0])
    state = setup.place(TrainState(network.params, network.rest, ()))
    programs = compile_evaluation(setup, network, state)
    try:
        for seed in seeds:
            where, layers = f"{path}, seed {seed}", job.plan is not None
            own = with_weights(network, read_weights(path, seed), layers=layers, where=where)
            yield seed, image_results(programs, own, seed)
    finally:
        if setup.feed:
            setup.feed.close()


def _job(run: RunResult, path: Path, data_dir: Path | None, notify: Notify) -> "Job":
    """The training of a run, with its images."""
    from cnnbench.analysis.trained_network import dataset_of_run, kept_class, require_trained
    from cnnbench.data.streaming.source import StreamOptions
    from cnnbench.system.compile_cache import enable_compile_cache
    from cnnbench.system.devices import pick_devices, use_all_cores
    from cnnbench.training.executables import Job

    loaded = load_trained_experiment(path, run.record, data_dir=data_dir)
    experiment, reference = loaded.experiment, loaded.experiment.model.python or ""
    require_trained(experiment, run.record, path)
    if reference:
        kept_class(experiment, path)  # the run's own copy
        reference = f"model:{reference.partition(':')[2]}"
    dataset = dataset_of_run(path, run.record, experiment, data_dir, notify)
    use_all_cores(notify)
    enable_compile_cache(notify)
    return Job(
        experiment,
        loaded.plan,
        path,
        dataset,
        pick_devices("auto"),
        Stopwatch(),
        reference=reference,
        workers=StreamOptions().num_workers,
    )


def _problem(run: RunResult, seed: SeedSummary, found: NamedArrays) -> str:
    """How the results differ from the summary; empty if they do not."""
    problems = ((name, misfit(run, seed, name, values)) for name, values in found.items())
    return next((f"{name} {problem}" for name, problem in problems if problem), "")
