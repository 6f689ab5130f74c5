"""`cnnbench.run`: trains experiments."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.api.cores import keep_to_cores
from cnnbench.api.criteria import require_alpha, require_test
from cnnbench.api.frames import load_runs
from cnnbench.api.messages import names_parameters
from cnnbench.api.notebook import comparisons_html
from cnnbench.api.requests import (
    DeviceChoice,
    EngineChoice,
    Experiments,
    Overrides,
    Training,
    criteria_options,
    list_text,
    option_words,
    over_text,
    progress_console,
    requests_of,
    seeds_text,
)
from cnnbench.api.selection import number_text
from cnnbench.cli.looks import Wish, check_seed_test, saved_text, stopped_by
from cnnbench.cli.over import over_requests, refuse_with_over
from cnnbench.cli.progress import listening
from cnnbench.comparisons.comparison import JUDGED, compare_groups
from cnnbench.comparisons.merge import all_seeds
from cnnbench.comparisons.samples import Pairing
from cnnbench.comparisons.verdict import Criteria
from cnnbench.runner.batches.dividing import with_interrupted
from cnnbench.runner.distributed import run_requests
from cnnbench.runner.run import Request, check_all
from cnnbench.runner.until_decided import run_until_decided
from cnnbench.runs.records import RunResult

if TYPE_CHECKING:
    import pandas as pd


class RunList(tuple[RunResult, ...]):
    """Finished runs, in the order in which they were requested.

    Attributes:
      criteria: how they are judged where they are displayed: by `metric`, `alpha`, `min_effect`,
        `test` and `anytime` of `run`.
    """

    criteria: Criteria = JUDGED

    def to_frame(self) -> "pd.DataFrame":
        """Returns the learning curves as `load_runs` does: a row per run, seed and epoch.

        Raises:
          UsageError: pandas is not installed, or the list is empty.
        """
        return load_runs(self)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self))}]"

    def _repr_html_(self) -> str:
        if not self:
            return "[]"
        path = self[0].path if self.criteria.anytime else None
        shown = all_seeds(self, path.parent.parent) if path else self
        return comparisons_html(compare_groups(shown, self.criteria), wide=False)


@names_parameters()
def run(  # noqa: PLR0913 - one parameter per option
    *experiments: Experiments,
    dataset: str | None = None,
    seeds: int | str | Iterable[int] | None = None,
    epochs: int | None = None,
    overrides: Overrides = (),
    over: str | Mapping[str, Iterable[object]] | None = None,
    until_decided: bool = False,
    anytime: bool = False,
    looks: str | Sequence[int] | None = None,
    max_seeds: int | None = None,
    metric: str | None = None,
    alpha: float = 0.05,
    min_effect: float | str = 0,
    test: Pairing | None = None,
    results_dir: str | Path = "results",
    data_dir: str | Path | None = None,
    device: DeviceChoice = "auto",
    engine: EngineChoice | None = None,
    workers: int | None = None,
    cores: int | None = None,
    on: str | None = None,
    tags: str | Iterable[str] = (),
    needed: bool = False,
    tensorboard: bool = False,
    allow_python: bool = False,
    progress: bool = True,
) -> RunList:
    """Trains experiments, as ``cnnbench run`` does, and writes a folder for each.

    Args:
      *experiments: files, or names such as ``"standard"``, one by one or in lists.
      dataset: another dataset than the files say.
      seeds: number of seeds, or the seeds themselves, as in ``[0, 1]`` or ``"0,1"``.
      epochs: number of epochs.
      overrides: other values by dotted path, as in ``{"train.optimizer": "adam"}``, or texts as
        on the command line, as in ``["train.optimizer=adam"]``.
      over: train every experiment at each value of a key: ``{"train_examples": [1000, 2000]}``, or
        a text as on the command line. `compare_over` compares the runs.
      until_decided: train seeds until there is a verdict on each experiment against the first, at
        planned looks.
      anytime: the same by a test that is valid after any number of seeds; those of earlier runs
        count, too. Compare the runs with ``compare(..., anytime=True)``.
      looks: numbers of seeds at which ``until_decided`` looks, such as ``[5, 10]``.
      max_seeds: largest number of seeds of ``until_decided`` or ``anytime``; 20 by default.
      metric: the metric by which ``until_decided`` and ``anytime`` decide, as in `compare`; so are
        `alpha`, `min_effect` and `test`.
      alpha: significance level.
      min_effect: the smallest difference that matters.
      test: ``"unpaired"`` or ``"paired"``.
      results_dir: folder of all results.
      data_dir: prepared datasets, or the original files of one; ``TFDS_DATA_DIR`` by default.
      device: where to train.
      engine: algorithms of convolutions and pooling; ``"auto"`` measures once. By default
        ``CNNBENCH_ENGINE``, or ``"auto"``.
      workers: processes that decode the images of a dataset that is streamed; by default one per
        core.
      cores: restrict this process, with all of its threads and processes, to so many cores, which
        no other one with this option uses if there are enough. It keeps to them until it ends, and
        JAX must not have started yet, since its threads are made then.
      on: train several seeds at a time in worker processes: ``"local"``, or ``"local:2"`` for two
        of them; ``"ray"`` on a Ray cluster.
      tags: a name for the runs, or several.
      needed: train only seeds that no finished run has, and resume interrupted runs.
      tensorboard: also write event files.
      allow_python: import ``model.python`` from anywhere.
      progress: report progress on standard error.

    Returns:
      The runs, in the order of the experiments; with `over`, value by value.

    Raises:
      CnnbenchError: an experiment is invalid, its data are not available, or writing fails.
        Epochs that were trained are kept, also after a KeyboardInterrupt.
    """
    require_alpha(alpha)
    require_test(test)
    count, steps = seeds_text(seeds), list_text(looks)
    training = Training(
        dataset,
        count,
        epochs,
        overrides,
        results_dir,
        data_dir,
        device,
        engine,
        workers,
        tags,
        needed,
        tensorboard,
        allow_python,
    )
    effect, values = number_text(min_effect), over_text(over)
    options = {
        "cores": cores,
        "on": on,
        "over": values,
        "until-decided": until_decided,
        "anytime": anytime,
        "looks": steps,
        "max-seeds": max_seeds,
        "metric": metric,
        **criteria_options(alpha, effect, test),
    }
    made = requests_of(experiments, training, option_words(options))
    requests = [replace(request, on=on or "") for request in made]
    if values is not None:
        refuse_with_over({"--until-decided": until_decided, "--anytime": anytime})
        requests = over_requests(requests, values)
    check_seed_test(test, requests)
    wish = Wish(until_decided, anytime, steps, max_seeds, count, resume=False)
    requests, criteria = stopped_by(requests, wish, (metric, alpha, effect, test))
    keep_to_cores(cores, on)
    return _train(requests, criteria, progress=progress)


def _train(requests: Sequence[Request], criteria: Criteria, *, progress: bool) -> RunList:
    check_all(requests)
    parts = with_interrupted(requests)
    requests = parts.requests
    console = progress_console()
    with listening(console, len(requests), quiet=not progress, tables=False) as listeners:
        parts.tell(listeners[0].note)
        if requests[0].looks:
            runs = RunList(run_until_decided(requests, listeners, listeners[0], criteria))
        else:
            runs = RunList(parts.joined(run_requests(requests, listeners)))
    runs.criteria = criteria
    if progress and (saved := saved_text(runs)):
        console.print(saved, highlight=False)
    return runs
