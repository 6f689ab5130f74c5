"""``run --on slurm``: prints or submits the job array of a command."""

import shutil
import sys
from collections.abc import Mapping, Sequence

from cnnbench.cli.terminal import tell
from cnnbench.errors import UsageError
from cnnbench.runner.batches.shards import refuse_without_all_seeds
from cnnbench.runner.batches.slurm import make_array, parse_slurm, submit
from cnnbench.runner.run import Request, check_all
from cnnbench.runs.sweeps.plans import SweepPlan
from cnnbench.system import commands


def is_slurm(on: str | None, sbatch: str) -> bool:
    """True if `--on` names SLURM.

    Raises:
      UsageError: there are options of sbatch without it.
    """
    slurm = on is not None and on.partition(":")[0] == "slurm"
    if sbatch and not slurm:
        raise UsageError("--sbatch: is for --on slurm; add that, or remove --sbatch.")
    return slurm


def run_on_slurm(
    requests: Sequence[Request],
    on: str,
    sbatch: str,
    refused: Mapping[str, object],
    *,
    dry_run: bool,
    sweep: SweepPlan | None = None,
) -> None:
    """Submits the array, or prints its script.

    Args:
      requests: the experiments.
      on: value of `--on`.
      sbatch: options of sbatch.
      refused: options that need the seeds of all tasks.
      dry_run: True to print the script only.
      sweep: the trials that the experiments are trained in; None without a sweep.

    Raises:
      CnnbenchError: an experiment or an option is invalid, or sbatch refuses the script.
    """
    count = parse_slurm(on)
    refuse_without_all_seeds("--on slurm", refused)
    check_all(requests)
    loaded = [request.load().experiment for request in requests]
    seeds = {seed for experiment in loaded for seed in experiment.seeds}
    names = list(dict.fromkeys(experiment.name for experiment in loaded))
    words = commands.without_options(["cnnbench", *sys.argv[1:]], "--on", "--sbatch")
    words = [word for word in words if word not in {"--needed", "--dry-run"}]
    where = requests[0].results_dir
    units = len(sweep.trials) if sweep else len(seeds)
    array = make_array(words, names, min(count or units, units), sbatch, where)
    if dry_run:
        tell(array.script.rstrip("\n"), err=False)
        return
    job = submit(array)
    tasks = f"{array.count} task{'s' * (array.count > 1)}"
    what = f"{units} trials" if sweep else f"{units} seeds"
    tell(f"Submitted job {job}: {tasks}, {what} of {', '.join(names)}.", err=False)
    tell(f"State: squeue --job {job}   (all tasks, also ended: sacct --jobs {job})", err=False)
    tell(f"Logs:  {array.logs}/{job}_*.txt", err=False)
    tell(f"Stop:  scancel {job}", err=False)
    option = commands.results_dir_option(where)
    show = ("sweep", "show", sweep.sweep) if sweep else ("compare", *names)
    tell(f"Then:  {commands.cnnbench(*show, *option)}", err=False)
    if shutil.which("scontrol") is None:
        tell("warning: 'scontrol' is not on PATH; tasks cannot be requeued at the time limit.")
