"""Generated input for whatever reads what a user wrote: `python -m tests.fuzz --inputs 100000`.

Three targets: an experiment file, an override on a command line, and the files of a run. An input
is refused with a `CnnbenchError` or taken; anything else is a fault: another exception, more
than 2 seconds, or more than 1 GiB. The corpus are the shipped experiments, the wrong ones of the
tests and a run. `--guided` lets Atheris (libFuzzer) choose by the code that it reaches
(`pip install atheris`); without it, a mutator of our own cuts, repeats, splices and
swaps bytes, lines and words.
"""

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SECONDS, ROOM = 2, 1 << 30
WORDS = (
    b"null", b"-1", b"0", b"1e999", b".nan", b".inf", b"[]", b"{}", b"true", b"~", b"010", b"0x1F",
    b"*a", b"&a ", b"<<: ", b"!!python/object:os.system ", b"!!binary ", b"---\n", b"...\n", b"\t",
    b"extends: ../../etc/passwd\n", b"extends: .\n", b"\xff", b"\x00", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"99999999999999999999", b"9" * 5000, b"- " * 400, b"[" * 400,
    b"{a: " * 300, b"'", b'"', b": ",
    b"tie: conv1", b"inputs: [a, b]", b"op: conv", b"op: concat", b"seeds: 1000000000",
    b"kernel: 99", b'"NaN"', b'"Infinity"', b'"format_version": 3', b"\\ud800", b"\\u0000",
    b"2025-11-23T06:30:12Z",
)  # fmt: skip


class TooLongError(Exception):
    """An input took too long."""


def corpora() -> dict[str, list[bytes]]:
    """What inputs of each target are made from."""
    specs = [*ROOT.glob("experiments/**/*.yaml"), *(ROOT / "tests" / "bad_specs").glob("*.yaml")]
    overrides = [
        b"train.epochs=5", b"model.conv1.kernel=[3, 5]", b"seeds=3", b"dataset.splits=null",
        b"train.optimizer={name: adam}", b"model.conv1=null", b"train.schedule.name=cosine",
        b"model.layers.pool1.size=2", b"name=x", b"extends=y", b"dataset.name=mnist_5k",
    ]  # fmt: skip
    return {
        "spec": [path.read_bytes() for path in sorted(specs)],
        "override": overrides,
        "result": list(run_files().values()),
    }


def run_files() -> dict[str, bytes]:
    """What a run's folder holds, by name."""
    from cnnbench import codec
    from tests.samples import make_run

    run = make_run(seeds=(0, 1))
    assert run.summary is not None
    return {
        "run.json": codec.encode_record(run.record),
        "summary.json": codec.encode_summary(run.summary),
        "epochs.jsonl": b"".join(map(codec.encode_epoch, run.epochs)),
    }


def mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One of the corpus, changed in one to six places."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 6)):
        at, to = sorted(rng.randint(0, len(data)) for _ in range(2))
        match rng.randrange(7):
            case 0:
                data[at:to] = b""
            case 1:
                data[at:at] = rng.choice(WORDS)
            case 2:
                data[at:to] = rng.choice(WORDS)
            case 3 if data:
                data[min(at, len(data) - 1)] = rng.randrange(256)
            case 4:
                data[at:at] = data[at:to] * rng.randint(1, 3)
            case 5:
                other = rng.choice(corpus)
                cut = rng.randint(0, len(other))
                data[at:to] = other[cut : cut + rng.randint(0, 200)]
            case _:
                lines = data.split(b"\n")
                rng.shuffle(lines)
                data = bytearray(b"\n".join(lines)) if rng.random() < 0.2 else data
    return bytes(data[:20_000])


def targets(folder: Path) -> dict[str, Callable[[bytes], None]]:
    """What reads each kind of input."""
    from cnnbench.history import list_runs
    from cnnbench.loader import load_experiment
    from cnnbench.store import read_run

    def spec(data: bytes) -> None:
        path = folder / "idea.yaml"
        path.write_bytes(data)
        load_experiment(path)

    def override(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        load_experiment(ROOT / "experiments" / "modified.yaml", [text])

    run = folder / "results" / "standard" / "20251123T063012Z-a1b2"
    run.mkdir(parents=True)
    whole = run_files()

    def result(data: bytes) -> None:
        # The file that it was made from is not known: it stands for each of them.
        for name in whole:
            for other, content in whole.items():
                (run / other).write_bytes(data if other == name else content)
            list_runs(folder / "results")
            try:
                read_run(run)
            except refusals():
                continue

    return {"spec": spec, "override": override, "result": result}


def refusals() -> type[Exception]:
    """What a wrong input may raise."""
    from cnnbench.errors import CnnbenchError

    return CnnbenchError


def guard(call: Callable[[bytes], None], data: bytes) -> str:
    """How an input ended: `taken`, `refused`, or the fault."""
    signal.alarm(SECONDS)
    try:
        call(data)
    except refusals():
        return "refused"
    except Exception:  # noqa: BLE001 - this is what is looked for
        return traceback.format_exc(limit=-3)
    finally:
        signal.alarm(0)
    return "taken"


def prepare() -> None:
    """Limits for all inputs."""

    def too_long(_number: int, _frame: Any) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, too_long)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))


def run(inputs: int, seed: int) -> int:
    """Tries mutated inputs, a third for each target; the number of faults."""
    rng, corpus, faults = random.Random(seed), corpora(), 0
    with tempfile.TemporaryDirectory() as name:
        found = targets(Path(name))
        prepare()
        for kind, call in found.items():
            counts, start, slowest = Counter[str](), time.monotonic(), 0.0
            for _ in range(inputs // len(found)):
                data, begun = mutated(rng, corpus[kind]), time.monotonic()
                outcome = guard(call, data)
                slowest = max(slowest, time.monotonic() - begun)
                if outcome not in {"taken", "refused"}:
                    faults += 1
                    sys.stdout.write(f"{kind}: {data!r}\n{outcome}\n")
                    outcome = "fault"
                counts[outcome] += 1
            spent = time.monotonic() - start
            told = {"target": kind, **counts, "seconds": round(spent), "slowest": round(slowest, 2)}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
    return faults


def guided(kind: str, inputs: int, seed: int) -> None:
    """Lets Atheris choose; it ends the process at the first fault."""
    import atheris  # not among the project's packages

    with atheris.instrument_imports(include=["cnnbench", "yaml"]):
        folder = Path(tempfile.mkdtemp())
        call = targets(folder)[kind]
    seeds = Path(tempfile.mkdtemp())
    for number, data in enumerate(corpora()[kind]):
        (seeds / str(number)).write_bytes(data)

    def one(data: bytes) -> None:
        try:
            call(data)
        except refusals():
            return

    options = [f"-runs={inputs}", f"-seed={seed}", f"-timeout={SECONDS}", "-rss_limit_mb=1536"]
    atheris.Setup([sys.argv[0], *options, "-max_len=4000", str(seeds)], one)
    atheris.Fuzz()


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
