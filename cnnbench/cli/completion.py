"""Words that a shell completes: experiments, runs and datasets.

A callback never fails, since what it printed would end up on the line that is being typed.
"""

import shlex
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import typer

from cnnbench.errors import CnnbenchError

_ID_BEGINNING = 3  # characters from which run IDs are offered, since there may be hundreds


def complete_experiments(incomplete: str) -> list[str]:
    """Lists experiments by name, or the experiment files of the folder that is being typed.

    If nothing matches, shells complete files and folders themselves.
    """
    from cnnbench.spec.shipped import ENDINGS, all_names

    folder = "".join(incomplete.rpartition("/")[:2])
    if not folder:
        return _plain(all_names())
    return _plain(f"{folder}{file.name}" for file in _entries(folder) if file.suffix in ENDINGS)


def complete_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Lists runs by experiment and tag, and by run ID once three characters are typed."""
    from cnnbench.runs.find import list_runs

    results_dir = ctx.params.get("results_dir") or Path("results")
    try:
        entries = list_runs(Path(results_dir)).entries
    except CnnbenchError:
        return []
    records = [entry.facts for entry in entries]
    names = [record.name for record in records]
    tags = [tag for record in records for tag in record.tags]
    tagged = [f"{record.name}@{tag}" for record in records for tag in record.tags]
    ids = [record.run_id for record in records] if len(incomplete) >= _ID_BEGINNING else []
    return _plain([*sorted(names), *sorted(tags), *sorted(tagged), *sorted(ids)])


def complete_datasets() -> list[str]:
    """Lists the datasets of the built-in table."""
    from cnnbench.data.catalog import KNOWN

    return list(KNOWN)


def complete_metrics() -> list[str]:
    """Lists metrics, on validation and on test images."""
    from cnnbench.comparisons.comparability import TEST
    from cnnbench.spec.metrics import METRICS

    return [*METRICS, *(f"{TEST}{name}" for name in METRICS)]


def _entries(folder: str) -> Iterator[Path]:
    with suppress(OSError, ValueError):
        yield from sorted(Path(folder).iterdir())


def _plain(words: Iterable[str]) -> list[str]:
    """Drops duplicates, and words that a shell would have to quote."""
    return [word for word in dict.fromkeys(words) if not _needs_quotes(word)]


def _needs_quotes(word: str) -> bool:
    """Returns True if a shell would have to quote a word.

    >>> [_needs_quotes(word) for word in ("größe.yaml", "two words", "~/a", "“a”", "a\u00a0b")]
    [False, True, True, True, True]
    """
    # `shlex.quote` also quotes letters (L), combining marks (M) and digits (N) that are not ASCII.
    known = "".join("_" if unicodedata.category(c)[0] in "LMN" else c for c in word)
    return shlex.quote(known) != known
