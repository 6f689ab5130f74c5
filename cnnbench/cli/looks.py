"""Options of `cnnbench run` that stop training once a verdict is reached."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cnnbench.comparisons.merge import finished_runs_of
from cnnbench.comparisons.samples import Pairing
from cnnbench.comparisons.verdict import Criteria, require_no_test, require_possible, split_text
from cnnbench.comparisons.verdict_text import parse_effect
from cnnbench.errors import UsageError, or_list, quoted
from cnnbench.runner.run import Request
from cnnbench.runner.until_decided import saved
from cnnbench.runs.records import RunResult
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.metrics import DEFAULT_METRICS
from cnnbench.spec.vocabulary import METRIC
from cnnbench.statistics.looks import Looks
from cnnbench.statistics.sequential import (
    MAX_SEEDS,
    default_looks,
    fewest_for,
    smallest,
    thresholds,
)
from cnnbench.system import commands


class Wish(NamedTuple):
    """Options as they were given.

    Args:
      until_decided: planned looks.
      anytime: a verdict after every seed.
      looks: numbers of seeds.
      max_seeds: largest number of seeds.
      seeds: value of `--seeds`.
      resume: True with `--resume`.
    """

    until_decided: bool
    anytime: bool
    looks: str | None
    max_seeds: int | None
    seeds: str | None
    resume: bool

    @property
    def option(self) -> str:
        """The option that stops training."""
        return "--anytime" if self.anytime else "--until-decided"


def check_seed_test(test: Pairing | None, requests: Sequence[Request]) -> None:
    """Checks before training that the verdict can use a test.

    Raises:
      CnnbenchError: an experiment is invalid, or its seeds share training images.
    """
    for request in requests if test else ():
        split = request.load().experiment.dataset.random_split
        if split and split.varies:
            require_no_test(test, split.folds or 0)


def check_criteria(requests: Sequence[Request], criteria: Criteria) -> None:
    """Checks before training that the experiments can be judged so.

    Raises:
      CnnbenchError: an experiment is invalid, or does not have the metric, or no difference can be
        as large as the noise threshold.
    """
    if criteria.metric is None and not criteria.min_effect.value:
        return
    for request in requests:
        experiment = request.load().experiment
        own = experiment.train.metrics
        names = (*(DEFAULT_METRICS[experiment.task] if own is None else own), "loss")
        known = [*names, *(f"test_{name}" for name in names)]
        if criteria.metric not in {None, *known}:
            message = f"--metric: {experiment.name} has no '{criteria.metric}'"
            hint = METRIC.hint(criteria.metric or "", known)
            raise UsageError(f"{message}{hint}; write {or_list(known)}.")
        headline = "loss" if experiment.task == "reconstruct" else names[0]
        require_possible(criteria.min_effect, criteria.metric or headline)


def stopped_by(
    requests: Sequence[Request],
    wish: Wish,
    judged: tuple[str | None, float, str, Pairing | None],
) -> tuple[list[Request], Criteria]:
    """Adds the rule that stops the runs, and the seeds that are trained at most.

    Args:
      requests: the runs.
      wish: options of the rule.
      judged: values of `--metric`, `--alpha`, `--min-effect` and `--test`.

    Returns:
      The runs, and the settings of their verdicts.

    Raises:
      CnnbenchError: an experiment is invalid, or cannot be stopped by such a rule.
    """
    metric, alpha, min_effect, test = judged
    criteria = Criteria(metric=metric, alpha=alpha, min_effect=parse_effect(min_effect), test=test)
    check_criteria(requests, criteria)
    if not (wish.until_decided or wish.anytime):
        for name, value in (("--looks", wish.looks), ("--max-seeds", wish.max_seeds)):
            if value is not None:
                message = f"{name}: has an effect with --until-decided or --anytime only"
                raise UsageError(f"{message}; add one of them, or write --seeds.")
        return list(requests), criteria
    criteria = replace(criteria, test=_test(wish, test), anytime=wish.anytime)
    _check_options(wish)
    _check_requests(requests, wish)
    experiments = [request.load().experiment for request in requests]
    for experiment in experiments:
        _check_experiment(experiment, wish)
    looks = _rule(experiments, requests[0].results_dir, wish, criteria)
    looks = replace(looks, min_effect=min_effect)
    seeds = f"seeds=[{','.join(map(str, looks.planned))}]"
    again = commands.with_needed(requests[0].command)
    found = [
        replace(r, overrides=[*r.overrides, seeds], looks=looks, again=again) for r in requests
    ]
    return found, criteria


def _test(wish: Wish, test: Pairing | None) -> Pairing:
    """The test of the verdicts.

    Raises:
      UsageError: `--anytime` cannot use it.
    """
    if not wish.anytime:
        return test or "unpaired"
    if test == "unpaired":
        message = "--anytime: is a test of pairs of equal seeds"
        raise UsageError(f"{message}; remove --test unpaired, or write --until-decided.")
    return "paired"


def _check_options(wish: Wish) -> None:
    """Raises UsageError for options that contradict each other."""
    option = wish.option
    if wish.until_decided and wish.anytime:
        message = "--anytime: cannot be combined with --until-decided"
        raise UsageError(f"{message}; remove one of them.")
    if wish.resume:
        message = f"{option}: cannot be combined with --resume"
        raise UsageError(f"{message}; repeat the command of the runs with --needed.")
    if wish.anytime and wish.looks is not None:
        message = "--looks: --anytime looks after every seed"
        raise UsageError(f"{message}; remove --looks, or write --until-decided.")
    if wish.seeds is not None and not wish.anytime:
        message = f"--seeds: {option} decides on the number of seeds"
        raise UsageError(f"{message}; write --max-seeds N, or remove one of them.")
    if wish.seeds is not None and wish.max_seeds is not None:
        raise UsageError("--max-seeds: cannot be combined with --seeds; remove one of them.")


def _check_requests(requests: Sequence[Request], wish: Wish) -> None:
    """Raises UsageError for too few experiments, or for seeds among the overrides."""
    if len(requests) < 2:
        message = f"{wish.option}: compares experiments, and there is only {requests[0].path}"
        raise UsageError(f"{message}; name another one after it.")
    words = [word for request in requests for word in request.overrides]
    found = [word for word in words if word.startswith("seeds=")]
    if found and not (wish.anytime and wish.seeds is not None):
        remedy = "--seeds" if wish.anytime else "--max-seeds N"
        message = f"{wish.option}: decides on the seeds, so '{found[0]}' cannot be set"
        raise UsageError(f"{message}; write {remedy} instead.")


def _check_experiment(experiment: Experiment, wish: Wish) -> None:
    """Raises UsageError if verdicts on an experiment cannot be reached by looks."""
    split = experiment.dataset.random_split
    if split and split.varies:
        key = split_text(split.folds or 0)
        message = f"{wish.option}: with '{key}' in {experiment.name}, the seeds share"
        raise UsageError(
            f"{message} training images, and no number of them keeps alpha at several looks;"
            " remove that key, or train a fixed number of --seeds."
        )


def _rule(
    experiments: Sequence[Experiment], results_dir: Path, wish: Wish, criteria: Criteria
) -> Looks:
    """The rule, fixed before training."""
    comparisons, paired = len(experiments) - 1, criteria.test == "paired"
    numbers: tuple[int, ...] = ()
    levels: tuple[float, ...] = ()
    if wish.anytime:
        seeds = _anytime_seeds(experiments, results_dir, wish)
    else:
        numbers = _numbers(wish, criteria.alpha, comparisons, paired=paired)
        levels = thresholds(numbers, criteria.alpha, paired=paired, comparisons=comparisons)
        seeds = tuple(range(numbers[-1]))
    return Looks(
        numbers=numbers,
        thresholds=levels,
        alpha=criteria.alpha,
        test=criteria.test or "unpaired",
        comparisons=comparisons,
        metric=criteria.metric or "",
        min_effect="0",
        planned=seeds,
    )


def _anytime_seeds(
    experiments: Sequence[Experiment], results_dir: Path, wish: Wish
) -> tuple[int, ...]:
    """The seeds that were named, or the next ones that no run of the experiments has."""
    if wish.seeds is not None:
        return experiments[0].seeds
    names = {experiment.name for experiment in experiments}
    runs = [run for name in names for run in finished_runs_of(name, results_dir)]
    first = max((max(run.record.seeds) + 1 for run in runs), default=0)
    return tuple(range(first, first + (wish.max_seeds or MAX_SEEDS)))


def _numbers(wish: Wish, alpha: float, comparisons: int, *, paired: bool) -> tuple[int, ...]:
    """The looks that were named, or the default ones.

    Raises:
      UsageError: they cannot decide.
    """
    fewest = fewest_for(alpha / comparisons, paired=paired)
    if wish.looks is None:
        most = wish.max_seeds or max(MAX_SEEDS, fewest)
        if most < fewest:
            _refuse("--max-seeds", most, fewest, alpha / comparisons, paired=paired)
        return default_looks(alpha, paired=paired, most=most, comparisons=comparisons)
    parts = [part.strip() for part in wish.looks.split(",")]
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    example = ",".join(map(str, default_looks(alpha, paired=paired, comparisons=comparisons)))
    if len(numbers) < len(parts) or numbers != sorted(set(numbers)):
        message = f"--looks: {quoted(wish.looks)} is not a list of increasing numbers of seeds"
        raise UsageError(f"{message}; write, for example, {example}.")
    if numbers[0] < fewest:
        _refuse("--looks", numbers[0], fewest, alpha / comparisons, paired=paired)
    if wish.max_seeds is not None and wish.max_seeds != numbers[-1]:
        message = f"--max-seeds: {wish.max_seeds} is not the last of --looks {wish.looks}"
        raise UsageError(f"{message}; remove --max-seeds, or write {numbers[-1]}.")
    return tuple(numbers)


def _refuse(option: str, number: int, fewest: int, alpha: float, *, paired: bool) -> None:
    least = smallest(number, paired=paired)
    message = f"{option}: with {number} seeds, p is at least {least:.2g}, which decides nothing"
    raise UsageError(f"{message} at alpha {alpha:.2g}; start at {fewest} seeds.")


def saved_text(results: Sequence[RunResult]) -> str:
    """Says how many seeds were not needed; empty if all were, or none could be saved."""
    found = saved(results)
    if found is None or not found.seeds:
        return ""
    return (
        f"Seeds: {found.seeds} of {found.planned} were not needed (about"
        f" {_duration(found.seconds)} saved)"
    )


def _duration(seconds: float) -> str:
    """A duration with its largest unit.

    >>> _duration(0.4), _duration(59), _duration(250), _duration(9000)
    ('1 s', '59 s', '4 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
