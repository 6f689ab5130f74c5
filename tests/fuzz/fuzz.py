"""Fuzzing of all code that reads user input.

    python -m tests.fuzz.fuzz --inputs 100000

Three targets: experiment files, overrides on the command line, and the files of a run. An input is
either refused with a `CnnbenchError`, or accepted and then used: an experiment is shown and written
out, a run is listed and compared. Anything else is a fault: another exception, more than 2 seconds
of CPU time (or 30 s of wall-clock time, for busy machines), or more than 1 GiB. The corpus consists
of the shipped experiments, the invalid ones of the tests and a run; `mutations` changes them.
`--guided TARGET` uses Atheris (libFuzzer) for coverage-guided fuzzing, with its mutations and ours
(`pip install atheris`).
"""

import argparse
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import LONGEST, mutated
from tests.support.paths import ROOT

SECONDS, PATIENCE, ROOM = 2.0, 30.0, 1 << 30
WATCHED = 6.0  # slowdown allowed for code instrumented by Atheris (measured: 5.6)
OVERRIDES = (
    b"train.epochs=5", b"model.conv1.kernel=[3, 5]", b"seeds=3", b"dataset.splits=null",
    b"train.optimizer={name: adam}", b"model.conv1=null", b"train.schedule.name=cosine",
    b"model.layers.pool1.size=2", b"name=x", b"extends=y", b"dataset.name=mnist_5k",
    b"model.conv1a.filters=8", b"model.dense1.units=10", b"model.output=dense2", b"seeds=[4, 7]",
    b"model.new={op: conv, filters: 3, kernel: 5, padding: same}", b"train.optimizer=lion",
    b"train.schedule={name: step, every: 3, factor: 0.5}", b"checkpoint={every: 2, keep: 3}",
    b"dataset={name: cifar10, splits: {train: 5, validation: 6, test: 7}}", b"title=A title",
    b"train.batch_size=50", b"train.metrics=[accuracy]", b"model.concat1.inputs=[pool1a, pool1b]",
)  # fmt: skip


class TooLongError(Exception):
    """An input took too long."""


def corpora() -> dict[str, list[bytes]]:
    """Corpus of each target."""
    right = sorted(ROOT.glob("experiments/*.yaml"))
    wrong = sorted((ROOT / "tests" / "spec" / "bad_specs").glob("*.yaml"))
    return {
        "spec": [path.read_bytes() for path in [*right * (len(wrong) // 2), *wrong]],
        "override": list(OVERRIDES),
        "result": list(run_files().values()),
    }


def run_files() -> dict[str, bytes]:
    """Files of a run's folder, by name."""
    from cnnbench.runs import codec
    from tests.support.samples import make_run

    run = make_run(seeds=(0, 1))
    assert run.summary is not None
    return {
        "run.json": codec.encode_record(run.record),
        "summary.json": codec.encode_summary(run.summary),
        "epochs.jsonl": b"".join(map(codec.encode_epoch, run.epochs)),
    }


def targets(folder: Path) -> dict[str, Callable[[bytes], None]]:
    """Reader of each kind of input."""
    from cnnbench.spec.loader import load_experiment

    for file in ROOT.glob("experiments/*.yaml"):  # some extend others
        shutil.copy(file, folder)

    def spec(data: bytes) -> None:
        path = folder / "idea.yaml"
        path.write_bytes(data)
        use_experiment(load_experiment(path), folder)

    def override(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        use_experiment(load_experiment(ROOT / "experiments" / "modified.yaml", [text]), folder)

    run = folder / "results" / "standard" / "20251123T063012Z-a1b2"
    run.mkdir(parents=True, exist_ok=True)
    whole = run_files()

    def result(data: bytes) -> None:
        # The original file is unknown: the input replaces each of them in turn.
        refused: list[Exception] = []
        for name in whole:
            for other, content in whole.items():
                (run / other).write_bytes(data if other == name else content)
            try:
                use_run(folder / "results", run)
            except refusals() as error:
                refused.append(error)
        if len(refused) == len(whole):
            raise refused[0]

    return {"spec": spec, "override": override, "result": result}


def use_experiment(loaded: Any, folder: Path) -> None:
    """An accepted experiment can be shown, and written and read back unchanged."""
    from cnnbench.report.layer_table import layer_table
    from cnnbench.report.plots.diagram import diagram
    from cnnbench.report.plots.mermaid import mermaid
    from cnnbench.spec.loader import load_experiment

    again = folder / "resolved.yaml"
    again.write_text(loaded.resolved(), encoding="utf-8")
    assert load_experiment(again).experiment == loaded.experiment
    if loaded.plan:
        layer_table(loaded.plan, loaded.experiment.type_title)
        mermaid([("", diagram(loaded.plan))])


def use_run(results: Path, run: Path) -> None:
    """An accepted run can be listed, compared and written out."""
    from cnnbench.comparisons.comparison import compare_groups
    from cnnbench.report import comparison, csv_json, run_list
    from cnnbench.runs.find import list_runs
    from cnnbench.runs.folder import read_run

    entries = list_runs(results).entries
    run_list.list_table(entries, [entry.curve for entry in entries], "utf-8")
    found = compare_groups([read_run(run)])
    comparison.terminal_table(found, wide=True)
    comparison.markdown(found, wide=True)
    csv_json.csv_text(found)
    csv_json.json_text(found)


def refusals() -> type[Exception]:
    """Exceptions that an invalid input may raise."""
    from cnnbench.errors import CnnbenchError

    return CnnbenchError


def guard(call: Callable[[bytes], None], data: bytes, *, timed: bool = True) -> str:
    """Outcome of an input: `taken`, `refused`, or the fault."""
    limits = ((signal.ITIMER_PROF, SECONDS), (signal.ITIMER_REAL, PATIENCE)) if timed else ()
    for timer, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        call(data)
    except refusals():
        return "refused"
    except Exception:  # noqa: BLE001 - any other exception is a fault
        return traceback.format_exc(limit=-3)
    finally:
        for timer, _ in limits:
            signal.setitimer(timer, 0)
    return "taken"


def prepare() -> None:
    """Set the resource limits for all inputs."""

    def too_long(_number: int, _frame: Any) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGPROF, too_long)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))


def warm_up(folder: Path, corpus: Mapping[str, Sequence[bytes]]) -> None:
    """Import everything that inputs may need, since imports exceed the time limit."""
    for kind, call in targets(folder).items():
        guard(call, corpus[kind][0], timed=False)
    guard(targets(folder)["override"], b"dataset.name=no_such_set", timed=False)


def run(inputs: int, seed: int) -> int:
    """Run mutated inputs, a third for each target, and return the number of faults."""
    rng, corpus, faults = random.Random(seed), corpora(), 0
    with tempfile.TemporaryDirectory() as name:
        warm_up(Path(name), corpus)
        found = targets(Path(name))
        prepare()
        for kind, call in found.items():
            counts, start, slowest = Counter[str](), time.monotonic(), 0.0
            for _ in range(inputs // len(found)):
                data, cpu_start = mutated(rng, corpus[kind]), time.process_time()
                outcome = guard(call, data)
                slowest = max(slowest, time.process_time() - cpu_start)
                if outcome not in {"taken", "refused"}:
                    faults += 1
                    sys.stdout.write(f"{kind}: {data!r}\n{outcome}\n")
                    outcome = "fault"
                counts[outcome] += 1
            spent = time.monotonic() - start
            line = {"target": kind, **counts, "seconds": round(spent), "slowest": round(slowest, 2)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    return faults


def guided(kind: str, inputs: int, seed: int) -> None:
    """Fuzz with Atheris, which exits at the first fault and writes it to a file."""
    import atheris  # not among the project's packages

    folder, corpus = Path(tempfile.mkdtemp(prefix="cnnbench-fuzz-")), corpora_of(atheris)[kind]
    call = targets(folder)[kind]
    seeds = folder / "corpus"
    seeds.mkdir()
    for number, data in enumerate(sorted(set(corpus))):
        (seeds / str(number)).write_bytes(data)
    counts, slowest, wall_start = Counter[str](), [0.0], time.monotonic()

    def one(data: bytes) -> None:
        start = time.process_time()
        outcome = guard(call, data, timed=False)
        spent = time.process_time() - start
        slowest[0] = max(slowest[0], spent)
        if outcome not in {"taken", "refused"} or spent > SECONDS * WATCHED:
            raise AssertionError(outcome)  # stops Atheris
        counts[outcome] += 1
        if counts.total() % 1000 == 0:
            seconds = round(time.monotonic() - wall_start)
            line = {"target": kind, **counts, "seconds": seconds, "slowest": round(slowest[0], 2)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    def change(data: bytes, size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, size))
        return mutated(rng, corpus, data)[:size]

    options = [f"-runs={inputs}", f"-seed={seed}", "-timeout=600", "-rss_limit_mb=1536"]
    options += [f"-max_len={LONGEST}", f"-artifact_prefix={folder}/", str(seeds)]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=change)
    atheris.Fuzz()


def corpora_of(atheris: Any) -> dict[str, list[bytes]]:
    """The corpora, after importing everything to be instrumented."""
    with atheris.instrument_imports(include=["cnnbench", "yaml"]):
        found = corpora()
        with tempfile.TemporaryDirectory() as name:
            warm_up(Path(name), found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", choices=["spec", "override", "result"])
    arguments = parser.parse_args()
    if arguments.guided:
        guided(arguments.guided, arguments.inputs, arguments.seed)
    elif run(arguments.inputs, arguments.seed):
        sys.exit(1)


if __name__ == "__main__":
    main()
