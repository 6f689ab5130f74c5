"""Shards: the seeds of a command that one of several machines trains."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cnnbench.errors import UsageError, quoted
from cnnbench.runner.run import Request

Shared = TypeVar("Shared")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts.

    Args:
      number: the part, from 1.
      count: number of parts.
    """

    number: int
    count: int


def parse_shard(text: str) -> Shard:
    """Parses the value of `--shard`.

    Raises:
      UsageError: `text` is not I/N with I from 1 to N.

    >>> parse_shard("3/12")
    Shard(number=3, count=12)
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        message = f"--shard: {quoted(text)} is not I/N with I from 1 to N"
        raise UsageError(f"{message}; write, for example, 1/4 for the first of four parts.")
    return Shard(number, count)


def share(units: Sequence[Shared], shard: Shard) -> list[Shared]:
    """The units of a shard: every N-th unit, so that shard sizes differ by at most one.

    One machine trains all of a unit: a seed of all experiments, or a trial of a sweep.

    >>> share([0, 1, 2, 3, 4], Shard(1, 2)), share([0, 1, 2, 3, 4], Shard(2, 2))
    ([0, 2, 4], [1, 3])
    """
    return list(units[shard.number - 1 :: shard.count])


def refuse_without_all_seeds(option: str, others: Mapping[str, object]) -> None:
    """Rejects options that depend on results of other machines.

    Args:
      option: `--shard` or `--on slurm`.
      others: values of other options.

    Raises:
      UsageError: such an option is set.
    """
    reasons = {
        "--until-decided": "a look needs all seeds",
        "--anytime": "a look needs all seeds",
        "--race": "dropping a trial needs all seeds",
        "--sampler optuna": "proposing a trial needs all results",
        "--tune": "choosing the best trial needs all trials",
        "--resume": "a resumed run keeps its seeds",
        "--shard": "each task gets its own shard",
    }
    for name, value in others.items():
        if value and name in reasons:
            message = f"{option}: cannot be combined with {name}: {reasons[name]}"
            raise UsageError(f"{message}; remove one of them.")


def shard_requests(requests: Sequence[Request], shard: Shard) -> list[Request]:
    """Reduces requests to the seeds of a shard.

    Args:
      requests: the experiments; a unit is a seed of all of them.
      shard: the shard.

    Returns:
      The requests with seeds in the shard; none if there are more shards than seeds.

    Raises:
      SpecError: an experiment is invalid.
    """
    own = [request.load().experiment.seeds for request in requests]
    blocks = share(list(dict.fromkeys(seed for seeds in own for seed in seeds)), shard)
    parts = [[seed for seed in seeds if seed in blocks] for seeds in own]
    return [
        dataclasses.replace(
            request, overrides=[*request.overrides, f"seeds=[{','.join(map(str, part))}]"]
        )
        for request, part in zip(requests, parts, strict=True)
        if part
    ]
