"""`cnnbench.merge`: one run with the seeds of several."""

from collections.abc import Iterable
from pathlib import Path

from cnnbench.api.messages import names_parameters, warn_all
from cnnbench.api.run import RunList
from cnnbench.api.selection import RunLike, flat
from cnnbench.errors import UsageError
from cnnbench.runner.batches.gathering import merge_named


@names_parameters()
def merge(
    *runs: RunLike | Iterable[RunLike],
    output: str | Path | None = None,
    results_dir: str | Path = "results",
) -> RunList:
    """Merges the seeds of runs into one run per experiment, as ``cnnbench merge`` does.

    Args:
      *runs: results of `run`, names, RUN-IDs or folders of runs, or folders of results, such as
        those of several machines.
      output: folder of results that gets the merged runs; `results_dir` by default.
      results_dir: folder of the runs that are given by name.

    Returns:
      The merged runs; merging again returns the same ones.

    Raises:
      UsageError: there are fewer than two runs of each experiment, or they differ in their
        settings, images, kind of device, or in the results of a seed.
      StoreError: a file cannot be read or written.
    """
    items = list(flat(runs))
    if not items:
        raise UsageError("runs: none given; name runs, or folders of results.")
    folder = Path(results_dir)
    merged, notes = merge_named(items, folder, Path(output or folder))
    warn_all(notes)
    return RunList(run for run, _, _ in merged)
