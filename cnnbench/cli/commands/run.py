"""``cnnbench run``: trains experiments, and prints accuracy, time and verdict."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnbench.cli.completion import complete_datasets, complete_runs
from cnnbench.cli.options import (
    AllowPython,
    Alpha,
    CoresOption,
    CpusOption,
    DataDir,
    Device,
    DeviceOption,
    Engine,
    EngineOption,
    Format,
    GpusOption,
    MaybeSpecs,
    MetricOption,
    MinEffect,
    OnOption,
    OverOption,
    ProcessesOption,
    Quiet,
    ResultsDir,
    SamplerOption,
    SbatchOption,
    SeedTest,
    ShardOption,
    Tags,
    TestOption,
    TrackOption,
    check_tags,
    option_overrides,
    split_words,
    test_name,
)
from cnnbench.cli.processes import leading_others, limit_cores, take_part
from cnnbench.cli.terminal import print_document, stderr, stdout, tell, warn
from cnnbench.errors import SpecError, UsageError
from cnnbench.formatting import epochs_text

if TYPE_CHECKING:  # the help must not wait for them
    from cnnbench.comparisons.comparison import Comparison
    from cnnbench.comparisons.verdict import Criteria
    from cnnbench.runner.batches.left import Left
    from cnnbench.runner.batches.shards import Shard
    from cnnbench.runner.run import Request
    from cnnbench.runner.sweeps.space import SweepAxis
    from cnnbench.runs.records import RunResult
    from cnnbench.spec.experiment import Experiment
    from cnnbench.spec.loader import Loaded


class Match(StrEnum):
    """Sizes that `--match` can equalize."""

    PARAMS = "params"
    FLOPS = "flops"


def run(  # noqa: PLR0913, PLR0917 - one parameter per option
    specs: MaybeSpecs = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Number of seeds, or a list such as 0,1,2.", metavar="N|LIST"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.", metavar="N")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset that replaces the experiments'.",
            metavar="NAME",
            autocompletion=complete_datasets,
        ),
    ] = None,
    device: DeviceOption = Device.AUTO,
    engine: EngineOption = Engine.AUTO,
    retune: Annotated[
        bool,
        typer.Option(
            "--retune", help="Measure again which engine is the fastest, with --engine auto."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that decode the images of a dataset that is streamed; default: one per"
            " core.",
            metavar="N",
            min=1,
            show_default=False,
        ),
    ] = None,
    match: Annotated[
        Match | None,
        typer.Option(
            help="Also train a copy of the first experiment, widened to the parameters or FLOPs of"
            " the largest other.",
        ),
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            help="First tune keys, such as learning_rate: equal trials for every experiment, with"
            " factors (KEY=x0.3:x1:x3) or values (KEY=0.1:0.2); compare them as written and each"
            " at its best (repeatable).",
            metavar="KEY[,KEY]",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Trials of each experiment with --tune, or of a sweep such as"
            " model.params.n=3,5 or 'train.epochs=log(1..8)'; default: all combinations.",
            metavar="N",
            min=1,
            show_default=False,
        ),
    ] = None,
    sweep_seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the trials of a sweep with --trials; default: 0.",
            metavar="N",
            min=0,
            show_default=False,
        ),
    ] = None,
    sampler: SamplerOption = None,
    tune_seeds: Annotated[
        int | None,
        typer.Option(
            help="Seeds of each trial with --tune, from 1000; default: 2.",
            metavar="N",
            min=1,
            show_default=False,
        ),
    ] = None,
    processes: ProcessesOption = None,
    cores: CoresOption = None,
    race: Annotated[
        bool,
        typer.Option(
            "--race",
            help="Train the trials of a sweep seed by seed, and drop those decided worse than the"
            " leader; the best is dropped with probability --alpha at most.",
        ),
    ] = False,
    over: OverOption = None,
    on: OnOption = None,
    sbatch: SbatchOption = "",
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Trace the first epoch for XProf, TensorBoard or Perfetto (slows it down).",
            metavar="DIR",
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Also write event files; view all runs with tensorboard --logdir results.",
        ),
    ] = False,
    track: TrackOption = None,
    resume: Annotated[
        list[str] | None,
        typer.Option(
            help="Resume an interrupted run; extend a finished one with --epochs or --seeds"
            " (repeatable).",
            metavar="RUN",
            autocompletion=complete_runs,
        ),
    ] = None,
    needed: Annotated[
        bool,
        typer.Option(
            "--needed",
            help="Train only seeds that no finished run has, and resume interrupted runs.",
        ),
    ] = False,
    shard: ShardOption = None,
    allow_python: AllowPython = False,
    test: TestOption = None,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided",
            help="Train more seeds until there is a verdict, at looks planned to keep --alpha.",
        ),
    ] = False,
    anytime: Annotated[
        bool,
        typer.Option(
            "--anytime",
            help="Train more seeds until there is a verdict that is valid after any number of them;"
            " those of earlier runs count, too.",
        ),
    ] = False,
    looks: Annotated[
        str | None,
        typer.Option(
            help="Numbers of seeds at which --until-decided looks.",
            metavar="N,N,...",
            show_default=False,
        ),
    ] = None,
    max_seeds: Annotated[
        int | None,
        typer.Option(
            help="Largest number of seeds of --until-decided or --anytime; default: 20.",
            metavar="N",
            min=2,
            show_default=False,
        ),
    ] = None,
    metric: MetricOption = None,
    alpha: Alpha = 0.05,
    min_effect: MinEffect = "0",
    tag: Tags = None,
    results_dir: ResultsDir = Path("results"),
    data_dir: DataDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the experiments without training.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Print layers, every epoch of every seed, and every timing warning in full.",
        ),
    ] = False,
) -> None:
    """Train experiments over several seeds and compare them."""
    _begin((cores, processes, on), data_dir, profile, tag)
    from cnnbench.runner.run import Request  # whose NumPy starts threads

    given = option_overrides(seeds, epochs, dataset)
    make = partial(
        Request,
        results_dir=results_dir,
        data_dir=data_dir,
        device=device.value,
        engine=_engine_name(engine, retune=retune),
        retune=retune,
        profile=profile,
        tensorboard=tensorboard,
        track=[tracker.value for tracker in track or ()],
        allow_python=allow_python,
        tags=tag or (),
        workers=workers,
        on="" if (on or "").startswith("slurm") else on or "",
        cpus=cpus,
        gpus=gpus,
        command=["cnnbench", *sys.argv[1:]],
    )
    requests, axes, own_trials = _requested(make, specs or (), given, resume, needed=needed)
    points = (over, len(requests)) if over else None
    refused: dict[str, object] = {
        "--resume": resume,
        "--match": match,
        "--tune": tune,
        "--until-decided": until_decided,
        "--anytime": anytime,
    }
    apart = refused | {"--race": race, "--sampler optuna": sampler == "optuna"}
    swept = requests, axes, trials or own_trials, sweep_seed
    if _on_slurm(swept, on, sbatch, apart | {"--shard": shard}, dry_run=dry_run):
        return
    if axes or race or sampler or sweep_seed is not None:
        _sweep(
            swept,
            refused
            | {"--over": over, "--profile": profile, "--processes": processes}
            | {"--tune-seeds": tune_seeds},
            (dry_run, json, quiet, verbose, alpha if race else None, sampler, _shard(shard, apart)),
        )
        return
    requests = _part(requests, shard, apart)
    requests = _at_each_value(requests, over, refused)
    if match:
        requests = _matched(requests, match)
    _check_test(test, requests)
    judged = metric, alpha, min_effect, test_name(test)
    wish = until_decided, anytime, looks, max_seeds, seeds, bool(resume)
    if tune or trials is not None or tune_seeds is not None:
        others: dict[str, object] = {"resume": resume, "profile": profile, "metric": metric}
        others |= {"until-decided": until_decided, "anytime": anytime, "looks": looks}
        space = tune or (), trials, tune_seeds, others | {"max-seeds": max_seeds}
        show = partial(_dry_run, requests) if dry_run else None
        _tune(requests, space, judged, (show, json, quiet, verbose))
        return
    requests, criteria = _stopped_by(requests, wish, judged)
    _note_own_files(requests, data_dir)
    if dry_run:
        _dry_run(requests)
        return
    shown = requests, results_dir, criteria, points
    _train_and_print(*shown, json=json, quiet=quiet, verbose=verbose)


def _on_slurm(
    swept: Sequence[Any],
    on: str | None,
    sbatch: str,
    others: Mapping[str, object],
    *,
    dry_run: bool,
) -> bool:
    """Submits the command to SLURM; False if `--on` does not name it."""
    from cnnbench.cli.batches.slurm import is_slurm, run_on_slurm

    if on is None or not is_slurm(on, sbatch):
        return is_slurm(on, sbatch)
    sweep = None
    if swept[1]:  # keys with several values
        from cnnbench.runner.sweeps.planning import plan_sweep

        requests, axes, trials, seed = swept
        sweep = plan_sweep(requests, axes, trials, seed or 0).plan
    run_on_slurm(swept[0], on, sbatch, others, dry_run=dry_run, sweep=sweep)
    return True


def _shard(shard: str | None, others: Mapping[str, object]) -> "Shard | None":
    """The part of the work that `--shard` names.

    Raises:
      UsageError: it is invalid, or cannot be combined with another option.
    """
    if shard is None:
        return None
    from cnnbench.runner.batches.shards import parse_shard, refuse_without_all_seeds

    part = parse_shard(shard)
    refuse_without_all_seeds("--shard", others)
    return part


def _part(
    requests: "list[Request]", shard: str | None, others: Mapping[str, object]
) -> "list[Request]":
    """The part of the seeds that `--shard` names."""
    part = _shard(shard, others)
    if part is None:
        return requests
    from cnnbench.runner.batches.shards import shard_requests

    if own := shard_requests(requests, part):
        return own
    tell(f"--shard {shard}: there are fewer than {part.number} seeds; nothing to train.")
    raise typer.Exit


def _begin(
    places: tuple[int | None, int | None, str | None],
    data_dir: Path | None,
    profile: Path | None,
    tags: list[str] | None,
) -> None:
    """Checks options, after starting other processes or following them."""
    cores, processes, on = places
    limit_cores(cores, processes, on)
    take_part(processes, on)
    check_folders(data_dir, profile)
    check_tags(tags or ())


def _train_and_print(
    requests: "Sequence[Request]",
    results_dir: Path,
    criteria: "Criteria",
    points: tuple[str, int] | None,
    *,
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Runs experiments, and prints those that are finished even if another one fails."""
    from cnnbench.system.signals import handle_signals

    results: list[RunResult] = []
    folders: dict[Path, None] = {}
    try:
        with handle_signals(), leading_others():
            _run_all(requests, results, folders, criteria, quiet=quiet, verbose=verbose)
    finally:
        over = points and _print_over(results, list(folders), points, criteria, json=json)
        if json and not over:
            _print_json(results, () if quiet else folders, criteria, results_dir)
        elif not over:
            _print_results(results, list(folders), results_dir, criteria, verbose=verbose)


def _tune(
    requests: "Sequence[Request]", space: Sequence[Any], judged: Any, display: Sequence[Any]
) -> None:
    from cnnbench.cli.tuning import TuneDisplay, TuneOptions, tune_experiments

    unstopped = False, False, None, None, None, False
    _, criteria = _stopped_by(requests, unstopped, judged)
    keys, trials, seeds, others = space
    options = TuneOptions(keys, trials, seeds, others, criteria)
    tune_experiments(requests, options, TuneDisplay(*display))


def _requested(
    make: "partial[Request]",
    words: Sequence[str],
    given: list[str],
    resume: Sequence[str] | None,
    *,
    needed: bool,
) -> "tuple[list[Request], tuple[SweepAxis, ...], int | None]":
    """Requests of a command line, the keys with several values, and the files' number of trials."""
    from cnnbench.runner.sweeps.space import parse_axes, with_file_sweep

    if resume:
        return _resumed(make, resume, [*given, *words]), (), None
    paths, overrides = split_words(words)
    axes, overrides = parse_axes(overrides)
    # Options apply to the file; overrides after them may be more specific.
    requests = [make(path, given + overrides, needed=needed) for path in paths]
    return requests, *with_file_sweep(requests, axes)


def _sweep(planned: Sequence[Any], refused: Mapping[str, object], display: Sequence[Any]) -> None:
    from cnnbench.cli.sweeps.running import SweepOptions, train_sweep

    requests, axes, trials, seed = planned
    train_sweep(requests, axes, SweepOptions(trials, seed, refused, *display))


def _stopped_by(
    requests: "Sequence[Request]", wish: Sequence[Any], judged: Any
) -> "tuple[list[Request], Criteria]":
    from cnnbench.cli.looks import Wish, stopped_by

    return stopped_by(requests, Wish(*wish), judged)


def _matched(requests: "Sequence[Request]", match: Match) -> "list[Request]":
    from cnnbench.graph.widen import MatchedSize
    from cnnbench.runner.match_size import with_match

    return with_match(requests, MatchedSize(match.value), tell)


def _is_explicit(data_dir: Path | None) -> bool:
    """True for a folder from the command line, not from the environment."""
    return data_dir is not None and str(data_dir) != os.environ.get("TFDS_DATA_DIR")


def _note_own_files(requests: "Sequence[Request]", data_dir: Path | None) -> None:
    """Says which experiments `--data-dir` has no effect on; invalid ones are reported later."""
    told: set[str] = set()
    for request in requests if _is_explicit(data_dir) else ():
        try:
            dataset = request.load().experiment.dataset
        except SpecError:
            continue
        key = "folder" if dataset.folder else "arrays"
        if dataset.name is None and key not in told:
            told.add(key)
            remedy = f"to train on other images, write dataset.{key}=PATH"
            tell(f"--data-dir is for datasets by name, not for dataset.{key}; {remedy}.")


def check_folders(data_dir: Path | None, profile: Path | None = None) -> None:
    """Checks the folders that options name.

    Raises:
      UsageError: there is no folder of datasets, or a file where traces are to be written.
    """
    if _is_explicit(data_dir) and not os.path.isdir(str(data_dir)):  # noqa: PTH112 - Path raises for a long name
        raise UsageError(f"--data-dir: no such folder: '{data_dir}'; check the path.")
    if profile is not None and os.path.exists(profile) and not os.path.isdir(profile):  # noqa: PTH110, PTH112
        raise UsageError(f"--profile: '{profile}' is not a folder; name a new one.")


def _engine_name(engine: Engine, *, retune: bool) -> str:
    """The name of an engine.

    Raises:
      UsageError: it is to be measured again, but is not chosen by measurement.
    """
    if retune and engine is not Engine.AUTO:
        message = f"--retune: has no effect with --engine {engine.value}, which is not measured"
        raise UsageError(f"{message}; remove one of them.")
    return engine.value


def _resumed(
    make: "partial[Request]", runs: Sequence[str], words: Sequence[str]
) -> "list[Request]":
    """Requests to resume runs, as they were started, or with other epochs or more seeds.

    Raises:
      UsageError: something else is to be changed, or there is no such run.
    """
    from cnnbench.runs.find import find_newest, find_unfinished
    from cnnbench.runs.folder import RESOLVED_FILE, read_run_entry

    epochs = [word for word in words if word.startswith("train.epochs=")]
    seeds = [word for word in words if word.startswith("seeds=")]
    if others := [word for word in words if word not in epochs + seeds]:
        message = f"--resume: a resumed run keeps its settings, so '{others[0]}' cannot be set"
        raise UsageError(f"{message}; remove it, or start a new run without --resume.")
    if epochs and seeds:
        message = "--resume: takes either more seeds or another number of epochs"
        raise UsageError(f"{message}; run --epochs first, then --seeds.")
    find = find_newest if epochs or seeds or make.keywords["tags"] else find_unfinished
    found = [find(run, make.keywords["results_dir"]) for run in runs]
    warn(list(dict.fromkeys(warning for _, warnings in found for warning in warnings)))
    folders = dict.fromkeys(folder for folder, _ in found)  # once, even if named twice
    records = {folder: read_run_entry(folder).record for folder in folders}
    for folder, record in records.items():
        if record.looks and record.looks.reason is None:
            message = f"--resume: {folder} is stopped by its comparison with other runs"
            raise UsageError(f"{message}; resume all with: {record.how_to_resume(folder)}")
    requests = [
        make(folder / RESOLVED_FILE, [*record.overrides, *epochs], resume=folder)
        for folder, record in records.items()
    ]
    if not seeds:
        return requests
    from cnnbench.runner.batches.growing import growing

    pairs = zip(requests, records.values(), strict=True)
    return list(chain.from_iterable(growing(*pair, seeds[-1]) for pair in pairs))


def _run_all(
    requests: "Sequence[Request]",
    results: "list[RunResult]",
    folders: dict[Path, None],
    criteria: "Criteria",
    *,
    quiet: bool,
    verbose: bool,
) -> None:
    """Runs experiments; finished ones are in `results` and `folders` even if another one fails."""
    from cnnbench.cli.progress import listening
    from cnnbench.runner.batches.dividing import with_interrupted
    from cnnbench.runner.distributed import run_requests
    from cnnbench.runner.run import check_all
    from cnnbench.runner.until_decided import run_until_decided

    check_all(requests)
    parts = with_interrupted(requests)
    asked = parts.requests
    with listening(stderr(), len(asked), quiet=quiet, verbose=verbose) as listeners:
        parts.tell(listeners[0].note)
        try:
            if asked[0].looks:
                watcher = listeners[0]
                results[:] = run_until_decided(asked, listeners, watcher, criteria, results.append)
            else:
                results[:] = run_requests(asked, listeners, results.append)
        finally:
            results[:] = parts.joined(results)
            folders.update((each.folder, None) for each in listeners if each.folder)
    if any(request.grows for request in requests):
        _unite(requests, results, folders)


def _unite(
    requests: "Sequence[Request]", results: "list[RunResult]", folders: dict[Path, None]
) -> None:
    """Replaces runs that got more seeds, and those of the seeds, by the runs that have all."""
    from cnnbench.runner.batches.growing import united

    results[:] = united(requests, results)
    folders.clear()
    folders.update((run.path, None) for run in results if run.path)


def _check_test(test: SeedTest | None, requests: "Sequence[Request]") -> None:
    if test:
        from cnnbench.cli.looks import check_seed_test

        check_seed_test(test_name(test), requests)


def _at_each_value(
    requests: "list[Request]", over: str | None, others: Mapping[str, object]
) -> "list[Request]":
    if over is None:
        return requests
    from cnnbench.cli.over import over_requests, refuse_with_over

    refuse_with_over(others)
    return over_requests(requests, over)


def _print_over(
    results: "Sequence[RunResult]",
    folders: Sequence[Path],
    points: tuple[str, int],
    criteria: "Criteria",
    *,
    json: bool,
) -> bool:
    """Prints the comparison at each value of `--over`, given with the number of experiments.

    Returns:
      False if there is none.
    """
    from cnnbench.cli.over import print_trained
    from cnnbench.comparisons.verdict_text import criteria_words
    from cnnbench.system import commands

    form = Format.JSON if json else Format.TABLE
    if not print_trained(results, *points, criteria, form):
        return False
    for line in _ending((), folders, Path()):
        tell(line, err=json)
    names = list(dict.fromkeys(folder.parent.name for folder in folders))
    if len(names) == points[1] and not json:
        where = commands.results_dir_option(folders[0].parent.parent)
        words = ["--over", points[0], *criteria_words(criteria), *where]
        tell(f"Next:  {commands.cnnbench('report', *names, *words)}", err=False)
    return True


def _print_json(
    results: "Sequence[RunResult]",
    folders: Iterable[Path],
    criteria: "Criteria",
    results_dir: Path,
) -> None:
    from cnnbench.comparisons.comparison import compare_groups
    from cnnbench.comparisons.merge import all_seeds
    from cnnbench.report.csv_json import json_text

    if results:
        shown = all_seeds(results, results_dir) if criteria.anytime else results
        print_document(json_text(compare_groups(shown, criteria)), "json")
    for folder in folders:
        tell(f"Files: {folder}")


def _print_results(
    results: "Sequence[RunResult]",
    folders: Sequence[Path],
    results_dir: Path,
    criteria: "Criteria",
    *,
    verbose: bool,
) -> None:
    """Prints table, verdict and notes, then the folders of the runs."""
    if not results:
        return
    from cnnbench.cli.looks import saved_text
    from cnnbench.comparisons.comparison import compare_groups
    from cnnbench.comparisons.merge import all_seeds
    from cnnbench.comparisons.verdict_text import criteria_words
    from cnnbench.report.columns import TableOptions
    from cnnbench.report.comparison import terminal_table

    shown = all_seeds(results, results_dir) if criteria.anytime else results
    comparisons = compare_groups(shown, criteria)
    stdout().print(terminal_table(comparisons, wide=False, look=TableOptions(verbose=verbose)))
    if saved := saved_text(results):
        tell(saved, err=False)
    for line in _ending(comparisons, folders, results_dir, criteria_words(criteria)):
        tell(line, err=False)


def _ending(
    comparisons: "Sequence[Comparison]",
    folders: Sequence[Path],
    results_dir: Path,
    words: Sequence[str] = (),
) -> list[str]:
    """Says where the files of runs are, and which command shows more."""
    from cnnbench.system import commands

    lines = [f"{'' if number else 'Files:':6} {path}" for number, path in enumerate(folders)]
    usual = all(folder.parent.parent == results_dir for folder in folders)
    if len(comparisons) == 1 and len(folders) > 1 and usual:
        names = dict.fromkeys(folder.parent.name for folder in folders)
        where = commands.results_dir_option(results_dir)
        line = commands.cnnbench("compare", *names, *words, *where)
        lines.append(f"Next:  {line}")
    return lines


def _dry_run(requests: "Sequence[Request]") -> None:
    """Shows experiments, and what would be trained of them."""
    from cnnbench.cli.commands.show import show_layers
    from cnnbench.runner.batches.dividing import alike, with_interrupted
    from cnnbench.runner.batches.left import left_of
    from cnnbench.runner.open_run import model_source
    from cnnbench.runs.find import list_runs
    from cnnbench.runs.folder import read_run
    from cnnbench.training.resume import require_epochs

    first: Loaded | None = None
    sources: dict[object, bytes] = {}
    parts = with_interrupted(requests)
    entries = list_runs(requests[0].results_dir).entries if any(r.needed for r in requests) else ()
    for number, request in zip(parts.origins, parts.requests, strict=True):
        whole = requests[number]
        run = request.resume or request.grows or number  # a run and its new seeds are one network
        if run not in sources:
            data = whole.data_dir
            loaded, outline = show_layers(
                whole.path, whole.overrides, data, first, allow_python=whole.allow_python
            )
            first = first or loaded
            reference = str(loaded.experiment.model.python or "") if outline else ""
            sources[run] = model_source(reference, whole.path.resolve().parent)
        spec = request.load().experiment
        if request.resume:
            require_epochs(read_run(request.resume), request.resume, spec)
        tell(_left_text(spec, left_of(request, alike(spec, entries, sources[run]))), err=False)
    parts.tell(tell)


def _left_text(experiment: "Experiment", left: "Left") -> str:
    """Says what would be trained."""
    from cnnbench.formatting import enumeration, named_seeds

    where = enumeration([str(path) for path in left.there])
    there = f"{where} {'has' if len(left.there) == 1 else 'have'}"
    if not left.seeds:
        return f"nothing to train: {there} all seeds"
    train = experiment.train
    verb = f"resume {left.resumed} and train" if left.resumed else "train"
    most = "at most " if train.early_stopping else ""
    others = f"; {there} the others" if left.there else ""
    return (
        f"would {verb} {most}{epochs_text(train.epochs)} in batches of {train.batch_size} on"
        f" {experiment.dataset.label}, {named_seeds(left.seeds)}{others}"
    )
