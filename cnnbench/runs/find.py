"""Run selection: all runs, the newest of each experiment, or those that a user names."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path

from cnnbench.errors import (
    IncomparableError,
    SpecError,
    StoreError,
    UsageError,
    did_you_mean,
    or_list,
)
from cnnbench.formatting import enumeration, epochs_text
from cnnbench.runs.folder import (
    RECORD_FILE,
    RunEntry,
    disk,
    read_run,
    read_run_entry,
)
from cnnbench.runs.index.entries import read_entries
from cnnbench.runs.index.resolved import read_recipe, read_recipes
from cnnbench.runs.records import TRIAL, RunRecord, RunResult, Status
from cnnbench.spec.document import read_document
from cnnbench.spec.shipped import find_file
from cnnbench.system import commands

_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")

_SKIPPED = "skipped"
SKEW = timedelta(minutes=1)  # tolerated between clocks of machines that share a folder


@dataclass(frozen=True, slots=True)
class Listing:
    """Runs in the order of their start, and warnings about unreadable ones, a sentence each."""

    entries: tuple[RunEntry, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Runs to compare.

    Args:
      runs: the runs, in the order in which they were requested.
      warnings: notes on the runs and on skipped ones, a sentence each.
      paths: the folder of each run.
      known: the runs that they were selected from, if not from named ones; without trials.
    """

    runs: tuple[RunResult, ...]
    warnings: tuple[str, ...]
    paths: tuple[Path, ...] = ()
    known: tuple[RunEntry, ...] = ()


def list_runs(results_dir: Path) -> Listing:
    """Lists all runs of all experiments, oldest first.

    Raises:
      StoreError: the folder of results or of an experiment cannot be read.
    """
    return _list_folders(run_folders(results_dir))


def run_folders(results_dir: Path) -> list[Path]:
    """Lists the folders of all runs of all experiments.

    Raises:
      StoreError: the folder of results or of an experiment cannot be read.
    """
    return [path for name in _folders(results_dir) for path in _run_folders(name)]


def newest_finished(results_dir: Path) -> Selection:
    """Selects the newest finished run of each experiment that has one, without trials of tuning.

    The experiment whose first finished run is the oldest comes first, so it remains the baseline
    when it is trained again.

    Raises:
      StoreError: a folder or the epochs of a chosen run cannot be read.
    """
    listings = _by_experiment(results_dir)
    finished = sorted(filter(None, map(_finished, listings)), key=lambda runs: _start(runs[0]))
    warnings = (warning for listing in listings for warning in listing.warnings)
    return _select((runs[-1].path for runs in finished), warnings, listings)


def newest_group(
    results_dir: Path, baseline: str | None = None, command: str = "compare"
) -> Selection:
    """Selects the newest comparable runs: one of each experiment.

    Finished runs that can be compared form a group. Of the groups that contain the baseline, or
    else of all, those with several experiments take precedence; the one with the newest run is
    selected.

    Args:
      results_dir: folder of all results.
      baseline: an experiment's name or title, a run's id or its beginning, or a tag.
      command: the command that shows all groups, for the warning about the others.

    Returns:
      The runs, in the order of the first runs of their experiments. The warnings name the
      experiments that were left out.

    Raises:
      StoreError: a folder or the epochs of a chosen run cannot be read.
    """
    all_runs = _by_experiment(results_dir)
    warnings = [w for runs in all_runs for w in runs.warnings]
    finished = sorted(filter(_finished, all_runs), key=lambda runs: _start(_finished(runs)[0]))
    if not finished:
        return _select((), warnings, all_runs)
    group = _shown_group(finished, baseline)
    if baseline:
        group = [_narrowed(runs, own, baseline) for runs, own in group]
    taken = _choose([entries for _, entries in group], [1] * len(group))
    for (runs, _), own in zip(group, taken, strict=True):
        warnings += _skipped(_Named(own[-1].facts.name, runs), own)
    shown = [own[-1].facts.name for own in taken]
    names = [runs.entries[0].facts.name for runs in finished]
    if left := [name for name in names if name not in shown]:
        everything = commands.cnnbench(command, "--all", *commands.results_dir_option(results_dir))
        apart = f"skipped, not comparable with {enumeration(shown)}: {enumeration(left)}"
        warnings.append(f"{apart}; show all with: {everything}")
    return _select((own[-1].path for own in taken), warnings, all_runs)


_Group = list[tuple[Listing, list[RunEntry]]]


def _shown_group(finished: Sequence[Listing], baseline: str | None) -> _Group:
    """Chooses the group that `newest_group` shows.

    Args:
      finished: the runs of each experiment that has finished ones.
      baseline: name of the baseline.

    Returns:
      For each experiment of the group: all its runs, and those in the group, oldest first.
    """
    groups: dict[object, _Group] = {}
    for runs in finished:
        by_key = _by_key(_finished(runs), lambda entry: entry.facts.comparable)
        for key, entries in by_key.items():
            groups.setdefault(key, []).append((runs, entries))

    def holds(group: _Group) -> bool:
        return any(_is_called(entry, baseline or "") for _, own in group for entry in own)

    asked = [group for group in groups.values() if baseline and holds(group)]
    candidates = asked or list(groups.values())
    several = [group for group in candidates if len(group) > 1]
    return max(several or candidates, key=lambda group: max(_start(own[-1]) for _, own in group))


def _narrowed(runs: Listing, own: list[RunEntry], baseline: str) -> tuple[Listing, list[RunEntry]]:
    """The runs of an experiment that the baseline names, or all of them if it names none."""
    called = [entry for entry in own if _is_called(entry, baseline)]
    if not called or len(called) == len(own):
        return runs, own
    return Listing(tuple(called), ()), called


def _is_called(entry: RunEntry, name: str) -> bool:
    facts = entry.facts
    tags = [*facts.tags, *(f"{facts.name}@{tag}" for tag in facts.tags)]
    exact = (facts.name, facts.title, f"{facts.name}/{facts.run_id}", *tags)
    return name in exact or facts.run_id.startswith(name)


@dataclass(frozen=True, slots=True)
class _Named:
    """The runs that an argument may refer to.

    Args:
      argument: the argument as written.
      runs: candidates for a name or a tag, including unfinished ones; empty if `path` is known.
      path: folder of the run, if the argument is a folder or a run ID; it may be unreadable.
      folder: location of the runs, for messages.
    """

    argument: str
    runs: Listing
    path: Path | None = None
    folder: str = ""


def find_runs(arguments: Sequence[str], results_dir: Path) -> Selection:
    """Finds the runs that are named on a command line, in its order.

    Args:
      arguments: for each run its folder, its run ID or the beginning of it, or a name: of an
        experiment or its folder, of a tag, or both as `NAME@TAG`. A name refers to the newest
        finished run with the same settings as the other runs, or to the newest finished run if
        there is none; given twice, to the newest two, the older one first.
      results_dir: folder of all results.

    Returns:
      The runs; the warnings name newer runs that were skipped, with the reason.

    Raises:
      UsageError: an argument matches no run, or several.
      IncomparableError: an experiment has no finished run.
      StoreError: a run cannot be read.
    """
    counts = Counter(arguments)
    named = [_named(argument, results_dir) for argument in counts]
    entries = [_entries(one) for one in named]
    taken = _choose(entries, list(counts.values()))
    own = {one.argument: list(runs) for one, runs in zip(named, taken, strict=True)}
    notes = [line for one, runs in zip(named, taken, strict=True) for line in _skipped(one, runs)]
    warnings = [w for one in named for w in one.runs.warnings]
    paths = [
        own[argument].pop(0).path if len(own[argument]) > 1 else own[argument][0].path
        for argument in arguments
    ]
    return _select(paths, [*warnings, *notes])


def finished_runs_of(
    argument: str, results_dir: Path
) -> tuple[tuple[RunEntry, ...], tuple[str, ...]]:
    """Finds all finished runs that an argument may refer to.

    Args:
      argument: as in `find_runs`.
      results_dir: folder of all results.

    Returns:
      The runs, oldest first, and warnings.

    Raises:
      UsageError: it matches no run, or several experiments.
      StoreError: a run cannot be read.
    """
    named = _named(argument, results_dir)
    if named.path is not None:
        return (read_run_entry(named.path),), ()
    return tuple(_finished(named.runs)), named.runs.warnings


def find_run(argument: str, results_dir: Path) -> tuple[Path, tuple[str, ...]]:
    """Finds the folder of one run, as `find_runs` does.

    Args:
      argument: the argument as written.
      results_dir: folder of all results.

    Returns:
      The folder, and warnings.
    """
    named = _named(argument, results_dir)
    if named.path is not None:
        return named.path, ()
    taken = _entries(named)[-1:]
    return taken[0].path, (*named.runs.warnings, *_skipped(named, taken))


def find_unfinished(argument: str, results_dir: Path) -> tuple[Path, tuple[str, ...]]:
    """Finds the folder of a run to resume.

    Args:
      argument: as in `find_runs`; a name refers to its newest run that has not finished.
      results_dir: folder of all results.

    Returns:
      The folder, and warnings.

    Raises:
      UsageError: it matches no run, several, or an experiment whose runs are all finished.
      StoreError: a folder cannot be read.
    """
    named = _named(argument, results_dir)
    if named.path is not None:
        return named.path, ()
    runs = named.runs
    open_ = [run for run in runs.entries if run.facts.status is not Status.FINISHED]
    if not open_:
        raise UsageError(_nothing_open(named.folder, runs))
    return open_[-1].path, runs.warnings


def find_newest(argument: str, results_dir: Path) -> tuple[Path, tuple[str, ...]]:
    """Finds the folder of a run to extend.

    Args:
      argument: as in `find_runs`; a name refers to its newest run, finished or not.
      results_dir: folder of all results.

    Returns:
      The folder, and warnings.

    Raises:
      UsageError: it matches no run, or several.
      IncomparableError: none of its runs can be read.
      StoreError: a folder cannot be read.
    """
    named = _named(argument, results_dir)
    if named.path is not None:
        return named.path, ()
    entries = named.runs.entries or _entries(named)
    return entries[-1].path, named.runs.warnings


def _named(argument: str, results_dir: Path) -> _Named:
    """Looks up the runs that an argument may refer to.

    Raises:
      UsageError: there are none, or it is the beginning of several run IDs.
      StoreError: a folder cannot be read.
    """
    candidates = [Path(argument), results_dir / argument] if argument.strip() else []
    with disk(Path(argument), "read"):
        for path in candidates:
            if (path / RECORD_FILE).is_file():
                return _Named(argument, Listing((), ()), path)
        for path in candidates:
            if folders := _run_folders(path):
                return _Named(argument, _without_trials(folders), folder=str(path))
    name, at, tag = argument.rpartition("@")
    if at and tag:
        return _tagged(argument, name, tag, results_dir)
    return _by_id(argument, results_dir)


def _entries(named: _Named) -> tuple[RunEntry, ...]:
    """The finished runs that an argument may refer to, oldest first.

    Raises:
      IncomparableError: there are none.
      StoreError: the run cannot be read.
    """
    if named.path is not None:
        return (read_run_entry(named.path),)
    if finished := _finished(named.runs):
        return tuple(finished)
    if not named.runs.entries:
        reason = (named.runs.warnings or (_only_trials(named.argument),))[-1]
        raise IncomparableError(f"{named.folder}: no finished run; {reason}")
    counts = Counter(entry.status for entry in named.runs.entries)
    states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    remedy = _how_to_finish(named.runs.entries[-1])
    raise IncomparableError(f"{named.folder}: no finished run ({states}); {remedy}")


def _only_trials(argument: str) -> str:
    """Says that an experiment has no runs but trials of tuning."""
    newest = commands.command_line([f"{Path(argument).name}@{TRIAL}"])
    return f"all its runs are trials of --tune; name the newest one as {newest}"


def _how_to_finish(entry: RunEntry) -> str:
    """A remedy for an experiment without finished runs, from the state of its newest run."""
    if entry.status in (Status.INTERRUPTED, "killed"):
        return f"resume it with: {entry.record.how_to_resume(entry.path)}"
    if entry.status == Status.RUNNING:
        return "wait until the run ends"
    return "run the experiment again"


def _tagged(argument: str, name: str, tag: str, results_dir: Path) -> _Named:
    """Looks up the runs of one experiment with a tag.

    Raises:
      UsageError: there are none, or several experiments have them.
    """
    runs = list_runs(results_dir)
    entries = [entry for entry in runs.entries if name in {"", entry.facts.name}]
    found = [entry for entry in entries if tag in entry.facts.tags]
    names = sorted({entry.facts.name for entry in found})
    match names:
        case [_]:
            of = argument if name else f"{names[0]}@{tag}"
            return _Named(argument, Listing(tuple(found), runs.warnings), folder=of)
        case []:
            raise UsageError(_no_tag(name, tag, entries))
    message = f"command line: runs of {enumeration(names)} have the tag '{tag}'"
    raise UsageError(f"{message}; write {_tag_names((each, tag) for each in names)}.")


def _no_tag(name: str, tag: str, entries: Sequence[RunEntry]) -> str:
    of = f" of '{name}'" if name else ""
    known = sorted({known for entry in entries for known in entry.facts.tags})
    message = f"command line: no run{of} has the tag '{tag}'{did_you_mean(tag, known)}"
    if not known:
        give = commands.cnnbench("run", "--resume", "RUN", "--tag", tag)
        return f"{message}; add it with: {give}"
    return f"{message}; write {_tag_names((name, each) for each in known)}."


def _tag_names(pairs: Iterable[tuple[str, str]]) -> str:
    """NAME@TAG for each pair, quoted for a shell."""
    return or_list(commands.command_line([f"{name}@{tag}"]) for name, tag in pairs)


def _by_id(argument: str, results_dir: Path) -> _Named:
    """Looks up the run whose ID starts with the argument, or else the runs with that tag."""
    experiments = _folders(results_dir)
    runs = [path for folder in experiments for path in _run_folders(folder)]
    matches = [path for path in runs if path.name.startswith(argument)] if argument.strip() else []
    match matches:
        case [path]:
            return _Named(argument, Listing((), ()), path)
        case []:
            entries = _list_folders(runs).entries
            if any(argument in entry.facts.tags for entry in entries):
                return _tagged(argument, "", argument, results_dir)
            ids = [path.name for path in runs]
            ids += sorted({tag for entry in entries for tag in entry.facts.tags})
            raise UsageError(_unknown(argument, results_dir, [f.name for f in experiments], ids))
    newest = max(path.name for path in matches)
    message = f"command line: {argument!r} matches {len(matches)} run IDs"
    raise UsageError(f"{message}; write more characters, as in {newest}")


def _choose(
    groups: Sequence[Sequence[RunEntry]], counts: Sequence[int]
) -> list[tuple[RunEntry, ...]]:
    """Chooses the newest runs of each group that have the same settings in all groups.

    The settings are all of `train` if possible, or else the images, epochs, batch size and seeds,
    or else those that a comparison needs. If no settings are common, the newest runs are chosen.

    Args:
      groups: groups of runs, oldest first, at least one in each.
      counts: number of runs to choose from each; fewer if there are fewer.
    """
    wanted = [min(count, len(group)) for group, count in zip(groups, counts, strict=True)]
    newest = [tuple(group[-count:]) for group, count in zip(groups, wanted, strict=True)]
    if len(groups) == 1 and wanted[0] == 1:
        return newest
    for level in (_recipe_keys, _setup_keys, _comparable_keys):
        if len(set(level(list(chain(*newest))).values())) == 1:
            return newest
        keys = level(list(chain(*groups)))
        parts = [_by_key(group, lambda entry: keys[entry.path]) for group in groups]  # noqa: B023
        common = [
            found
            for found in parts[0]
            if all(len(p.get(found, ())) >= n for p, n in zip(parts, wanted, strict=True))
        ]
        if common:  # the settings that all groups had most recently
            best = max(common, key=lambda k: min(_start(part[k][-1]) for part in parts))
            return [tuple(p[best][-n:]) for p, n in zip(parts, wanted, strict=True)]
    return newest


def _by_key(
    entries: Iterable[RunEntry], key: Callable[[RunEntry], object]
) -> dict[object, list[RunEntry]]:
    found: dict[object, list[RunEntry]] = {}
    for entry in entries:
        found.setdefault(key(entry), []).append(entry)
    return found


_Keys = dict[Path, object]  # by the folder of a run


def _comparable_keys(entries: Sequence[RunEntry]) -> _Keys:
    return {entry.path: entry.facts.comparable for entry in entries}


def _setup_keys(entries: Sequence[RunEntry]) -> _Keys:
    found = {entry.path: entry.facts for entry in entries}
    return {path: (f.comparable, f.epochs, f.batch_size, f.seeds) for path, f in found.items()}


def _recipe_keys(entries: Sequence[RunEntry]) -> _Keys:
    setups = _setup_keys(entries)
    recipes = read_recipes(list(setups))
    return {
        path: (setup, recipe) for (path, setup), recipe in zip(setups.items(), recipes, strict=True)
    }


def _recipe(entry: RunEntry) -> dict[str, str]:
    """Training and preprocessing of a run by dotted names; empty if they cannot be read."""
    return read_recipe(entry.path, entry.facts.epochs)


def _skipped(named: _Named, taken: Sequence[RunEntry]) -> Iterator[str]:
    """Yields a warning about newer runs that a name does not refer to."""
    own = taken[-1]
    newer = [entry for entry in named.runs.entries if _start(entry) > _start(own)]
    if not newer:
        return
    names = [f"{entry.facts.run_id} ({_reason(entry, own)})" for entry in newer[:-4:-1]]
    names += [f"{len(newer) - 3} more"] * (len(newer) > 3)
    yield f"{named.argument}: using {own.facts.run_id}; skipped newer {enumeration(names)}"


def _reason(entry: RunEntry, taken: RunEntry) -> str:
    """The reason why a newer run was skipped."""
    if entry.facts.status is not Status.FINISHED:
        return entry.status
    found = list(_differences(entry.record, taken.record))
    if not found:
        one, two = _recipe(entry), _recipe(taken)
        found = [
            _difference(key, one.get(key), two.get(key))
            for key in dict.fromkeys((*one, *two))
            if one.get(key) != two.get(key)
        ]
    return "; ".join(found[:3]) or "different settings"


def _difference(key: str, one: str | None, two: str | None) -> str:
    """Describes an option by the run that was skipped.

    >>> [_difference("clip", *values) for values in (("1", "2"), (None, "2"), ("1", None))]
    ['clip 1, not 2', 'clip is not set', 'clip is set to 1']
    """
    if one is None:
        return f"{key} is not set"
    return f"{key} is set to {one}" if two is None else f"{key} {one}, not {two}"


def _differences(one: RunRecord, two: RunRecord) -> Iterator[str]:
    """Yields the differences between the settings of two runs."""
    if one.dataset.name != two.dataset.name:
        yield f"on {one.dataset.name}, not {two.dataset.name}"
    elif one.dataset.split != two.dataset.split:
        yield f"with {_split_words(one)}, not {_split_words(two)}"
    elif one.dataset.digest != two.dataset.digest:
        mine, other = one.dataset.num_train, two.dataset.num_train
        few = f"{mine:,} training images, not {other:,}"
        yield few if mine != other else f"different images of {one.dataset.name}"
    if one.epochs != two.epochs:
        yield f"{epochs_text(one.epochs)}, not {two.epochs}"
    if one.batch_size != two.batch_size:
        yield f"batches of {one.batch_size:,}, not {two.batch_size:,}"
    elif one.drop_last != two.drop_last:
        yield f"with{'out' * one.drop_last} the incomplete last batch"
    if one.seeds != two.seeds:
        counts = len(one.seeds), len(two.seeds)
        few = f"{counts[0]} seed{'s' * (counts[0] != 1)}, not {counts[1]}"
        yield few if counts[0] != counts[1] else "different seeds"
    if one.environment.device_kind != two.environment.device_kind:
        yield f"on {one.environment.device_kind}, not {two.environment.device_kind}"


def _split_words(record: RunRecord) -> str:
    return record.dataset.split.text if record.dataset.split else "a split by number"


def _nothing_open(folder: str, runs: Listing) -> str:
    skipped = [warning for warning in runs.warnings if warning.startswith(_SKIPPED)]
    if not skipped:
        further = "add --epochs N to extend the newest one"
        return f"--resume: all runs in {folder} are finished; name another, or {further}."
    others = f"all others in {folder} are finished" if runs.entries else "there are no others"
    return f"--resume: {skipped[-1].rstrip('.')}; {others}."


def _unknown(argument: str, results_dir: Path, names: list[str], others: list[str]) -> str:
    """The message if nothing has that name, with similar names."""
    place = (
        f"command line: {argument!r} is not a run folder, run ID, tag or experiment in"
        f" {results_dir}"
    )
    if (spec := find_file(argument)) is not None:
        return _untrained(argument, spec, results_dir)
    if not names:
        start = commands.cnnbench("run", "standard", *commands.results_dir_option(results_dir))
        return f"{place}, which contains no runs; start one with: {start}"
    hint = did_you_mean(argument, [*names, *others])
    see = commands.cnnbench("list", *commands.results_dir_option(results_dir))
    return f"{place}{hint}; write {or_list(names)}, or list all with: {see}"


def _untrained(argument: str, spec: Path, results_dir: Path) -> str:
    """The message on an experiment file, or the name of one, that has no runs by that name."""
    name = name_in(spec)
    if _run_folders(results_dir / name):
        return (
            f"command line: {argument!r} is an experiment file; write the name of its runs, {name}."
        )
    word = Path(argument) if spec == Path(argument) else argument
    train = commands.cnnbench("run", word, *commands.results_dir_option(results_dir))
    return f"command line: {argument!r} has no run in {results_dir}; train it with: {train}"


def name_in(spec: Path) -> str:
    """The name in an experiment file, or else that of the file."""
    try:
        data = read_document(spec).data
    except SpecError:
        return spec.stem
    return str(data.get("name", spec.stem)) if isinstance(data, dict) else spec.stem


def _finished(runs: Listing) -> list[RunEntry]:
    return [entry for entry in runs.entries if entry.facts.status is Status.FINISHED]


def _select(
    paths: Iterable[Path], warnings: Iterable[str], known: Iterable[Listing] = ()
) -> Selection:
    folders = tuple(paths)
    runs = tuple(map(read_run, folders))
    entries = tuple(entry for listing in known for entry in listing.entries)
    notes = (*warnings, *(w for run in runs for w in run.warnings))
    return Selection(runs, notes, folders, entries)


def _list_folders(folders: Iterable[Path]) -> Listing:
    return _listing(read_entries(list(folders)))


def _listing(found: Iterable[RunEntry | StoreError]) -> Listing:
    entries, warnings = [], []
    for one in found:
        if isinstance(one, StoreError):
            warnings.append(f"{_SKIPPED}: {one}")
        else:
            entries.append(one)
    entries.sort(key=_start)
    return Listing(tuple(entries), (*filter(None, map(_from_future, entries[-1:])), *warnings))


def _without_trials(folders: Iterable[Path]) -> Listing:
    """Lists runs except trials of tuning, which only their RUN-ID, folder or tag refers to."""
    return _no_trials(_list_folders(folders))


def _no_trials(listing: Listing) -> Listing:
    entries = tuple(entry for entry in listing.entries if not entry.facts.is_trial)
    return Listing(entries, listing.warnings)


def _by_experiment(results_dir: Path) -> list[Listing]:
    """Lists the runs of each experiment except trials, reading all of them at once."""
    folders = {experiment: _run_folders(experiment) for experiment in _folders(results_dir)}
    found = iter(read_entries([path for own in folders.values() for path in own]))
    return [_no_trials(_listing(islice(found, len(own)))) for own in folders.values()]


def _from_future(newest: RunEntry) -> str | None:
    """A warning if a run starts in the future, which makes the order of runs unreliable."""
    started = newest.facts.started_at
    if started <= datetime.now(UTC) + SKEW:
        return None
    return (
        f"{newest.path} started at {started:%Y-%m-%d %H:%M} UTC, which is in the future by this"
        " machine's clock, so it counts as the newest; select runs by run ID, or set the clock."
    )


def _start(entry: RunEntry) -> tuple[datetime, str]:
    return entry.facts.started_at, entry.facts.run_id


def _folders(parent: Path) -> list[Path]:
    with disk(parent, "read"):
        if not parent.exists():
            return []
        with os.scandir(parent) as found:
            names = [one.name for one in found if not one.name.startswith(".") and one.is_dir()]
    return [parent / name for name in sorted(names)]


def _run_folders(experiment: Path) -> list[Path]:
    with disk(experiment, "read"):
        folders = _folders(experiment) if experiment.is_dir() else []
        return [f for f in folders if _RUN_ID.fullmatch(f.name) or (f / RECORD_FILE).exists()]
