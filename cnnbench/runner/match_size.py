"""A wider copy of the first experiment beside the others, of the size of the largest."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from cnnbench.errors import UsageError
from cnnbench.graph.plan import Plan
from cnnbench.graph.widen import MatchedSize, widen
from cnnbench.runner.run import Request
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.system import commands


def with_match(
    requests: Sequence[Request], size: MatchedSize, notify: Callable[[str], None]
) -> list[Request]:
    """The requests, and after the first a widened copy of it.

    Args:
      requests: what is to be run.
      size: what the copy has as much of as the largest of the others.
      notify: gets a sentence on what was done.

    Raises:
      SpecError: an experiment is wrong.
      UsageError: there is nothing to match, or nothing to widen.
    """
    if len(requests) < 2:
        raise UsageError("--match: one experiment has nothing to match; name two files.")
    loaded = [load_experiment(r.path, r.overrides, data_dir=r.data_dir) for r in requests]
    first, *others = zip(loaded, map(_plan, loaded), strict=True)
    largest, plan = max(others, key=lambda other: size.of(other[1]))
    (base, base_plan), target = first, size.of(plan)
    name, title = base.experiment.name, base.experiment.type_title
    found = widen(base_plan, size, target)
    if found is None:
        have = f"{size.of(base_plan):,} {size.words}"
        notify(
            f"--match {size}: {name} has {have}, no fewer than the others; nothing is widened."
            " Name the smaller experiment first."
        )
        return list(requests)
    wide, other = f"{name}-wide", largest.experiment.name
    where = commands.in_results(requests[0].results_dir)
    names = (f"name={wide}", f"title={json.dumps(f'{title} ({found.factor:.2f}x wide)')}")
    notify(
        f"--match {size}: {wide} is {name} with layers {found.factor:.2f}x as wide,"
        f" {size.of(found.plan):,} {size.words}; {other} has {target:,}.\n"
        f"Then: {commands.cnnbench('compare', name, wide, other, '--baseline', other, *where)}"
    )
    copy = replace(requests[0], overrides=(*requests[0].overrides, *found.overrides, *names))
    return [requests[0], copy, *requests[1:]]


def _plan(loaded: Loaded) -> Plan:
    if loaded.plan is None:
        message = f"--match: the size of {loaded.experiment.name}, a Python model, is not known"
        raise UsageError(f"{message} before it runs; write model.layers.")
    return loaded.plan
