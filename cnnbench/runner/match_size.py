"""Adds a widened copy of the first experiment, matched in size to the largest of the others."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from cnnbench.errors import UsageError
from cnnbench.graph.plan import Plan
from cnnbench.graph.widen import MatchedSize, widen
from cnnbench.runner.run import Request
from cnnbench.spec.loader import Loaded
from cnnbench.system import commands


def with_match(
    requests: Sequence[Request], size: MatchedSize, notify: Callable[[str], None]
) -> list[Request]:
    """Inserts a widened copy of the first experiment after it.

    Args:
      requests: the experiments.
      size: the size to match: parameters or FLOPs.
      notify: called with a sentence on the copy.

    Raises:
      SpecError: an experiment is invalid.
      UsageError: there is one experiment only, or a Python model.
    """
    if len(requests) < 2:
        raise UsageError("--match: needs two experiments, got one; name another one to match.")
    loaded = [request.load() for request in requests]
    first, *others = zip(loaded, map(_plan, loaded), strict=True)
    largest, plan = max(others, key=lambda other: size.of(other[1]))
    (base, base_plan), target = first, size.of(plan)
    name, title = base.experiment.name, base.experiment.type_title
    found = widen(base_plan, size, target)
    if found is None:
        have = f"{size.of(base_plan):,} {size.words}"
        notify(
            f"--match {size}: {name} has {have}, at least as many as the others; not widened. List"
            " the smaller experiment first."
        )
        return list(requests)
    wide, other = f"{name}-wide", largest.experiment.name
    where = commands.results_dir_option(requests[0].results_dir)
    names = (f"name={wide}", f"title={json.dumps(f'{title} ({found.factor:.2f}x wide)')}")
    notify(
        f"--match {size}: added {wide}, which is {name} with {found.factor:.2f}x wider layers:"
        f" {size.of(found.plan):,} {size.words}; {other} has {target:,}.\n"
        f"Then run: {commands.cnnbench('compare', name, wide, other, '--baseline', other, *where)}"
    )
    copy = replace(requests[0], overrides=(*requests[0].overrides, *found.overrides, *names))
    return [requests[0], copy, *requests[1:]]


def _plan(loaded: Loaded) -> Plan:
    if loaded.plan is None:
        message = (
            f"--match: the size of the Python model {loaded.experiment.name} is unknown before"
        )
        raise UsageError(f"{message} it runs; define it with model.layers.")
    return loaded.plan
