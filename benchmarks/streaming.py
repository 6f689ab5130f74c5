"""A folder of images that is larger than memory: `python -m benchmarks.streaming`.

Generates JPEG files, trains ResNet-20 on them with `cnnbench run` and `dataset.streaming`, and
measures the memory of all processes (the sum of their PSS), the time in which the device waited for
images, and images per second. The images are reduced by the first convolution to ResNet-20's 32x32
positions, so that a step takes as long as on CIFAR-10.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnbench.system.host import num_cpus, processor

MOST_MEMORY = 1.5 * 2**30  # bytes, of all processes together
MOST_WAITING = 0.1  # share of an epoch
CLASSES = 10
PER_CHUNK = 20  # images of a class that are generated at a time
SAMPLE_S = 0.25
COURSE_S = 5.0  # between two samples that are kept, except those of a new peak
SPEC = """\
name: {network}-streamed
task: classify
dataset:
  {source}
  normalize: {{mean: 0.5, std: 0.25}}
  augment: {{random_flip: horizontal}}
model:
MODEL
train:
  epochs: {epochs}
  batch_size: 128
  optimizer: {{name: sgd, learning_rate: 0.05}}
"""
RESNET = """\
  params: {n: 3, shortcut: conv}
  blocks:
    conv_bn:
      params: {filters: , stride: 1, kernel: 3}
      layers:
        conv:
          op: conv
          filters: $filters
          kernel: $kernel
          stride: $stride
          padding: same
          use_bias: false
        norm: {op: batch_norm}
    basic:
      params: {filters: , stride: 1}
      layers:
        a: {block: conv_bn, filters: $filters, stride: $stride}
        act: {op: activation, activation: relu}
        b: {block: conv_bn, filters: $filters}
        skip: {op: shortcut, inputs: input, like: b, kind: $shortcut}
        sum: {op: add, inputs: [b, skip]}
        out: {op: activation, activation: relu}
  layers:
    stem: {block: conv_bn, filters: 16, stride: STEM, kernel: STEM}
    stem_act: {op: activation, activation: relu}
    stage1: {block: basic, repeat: $n, filters: 16}
    stage2: {block: basic, repeat: $n, filters: 32, first: {stride: 2}}
    stage3: {block: basic, repeat: $n, filters: 64, first: {stride: 2}}
    pool: {op: global_avg_pool}
    out: {op: dense, units: 10}
"""
TINY = """\
  layers:
    pool: {op: avg_pool, size: STEM}
    out: {op: dense, units: 10}
"""


# The folder


def generate(folder: Path, size: int, num_bytes: int) -> tuple[int, int]:
    """Generates JPEG files in a folder per class, until they have a total size.

    Files of an earlier call are kept.

    Returns:
      The number of images, and their size on disk in bytes.
    """
    done, total, number = 0, 0, 0
    spawn = multiprocessing.get_context("spawn")  # JAX, where it is imported, cannot be forked
    with ProcessPoolExecutor(num_cpus(), mp_context=spawn) as pool:
        while total < num_bytes:
            chunks = range(number, number + num_cpus())
            for count, written in pool.map(_chunk, [(folder, size, chunk) for chunk in chunks]):
                done, total = done + count, total + written
            number += num_cpus()
    return done, total


def _chunk(task: tuple[Path, int, int]) -> tuple[int, int]:
    """Writes images of all classes; returns their number and total size in bytes."""
    folder, size, chunk = task
    rng = np.random.default_rng([size, chunk])
    rows, columns = np.mgrid[:size, :size] / size
    total = 0
    for label in range(CLASSES):
        place = folder / f"class-{label}"
        place.mkdir(parents=True, exist_ok=True)
        waves = np.sin(6.3 * ((label + 1) * rows + columns + rng.random(3)[:, None, None]))
        noise = rng.integers(-40, 40, (size, size, 3), np.int16)
        pixels = np.clip(128 + 70 * waves.transpose(1, 2, 0) + noise, 0, 255).astype(np.uint8)
        for number, by in enumerate(rng.integers(0, size, (PER_CHUNK, 2)).tolist()):
            file = place / f"{chunk:05}-{number:03}.jpg"
            if not file.exists():
                Image.fromarray(np.roll(pixels, by, (0, 1))).save(file, quality=95)
            total += file.stat().st_size
    return CLASSES * PER_CHUNK, total


# Measurements


def process_tree(root: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def memory(pid: int) -> tuple[int, int]:
    """Resident memory of a process, and its proportional share (PSS), in bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # ended
        return 0, 0
    sizes = {line.split()[0]: line.split()[1] for line in lines[1:]}
    return int(sizes["Rss:"]) * 1024, int(sizes["Pss:"]) * 1024


def measured(command: Sequence[str]) -> dict[str, Any]:
    """Runs a command; its memory with all descendants over time, and CPU time.

    Memory is the sum of the proportional set sizes in ``/proc/PID/smaps_rollup``, in which memory
    that processes share counts once; see proc_pid_smaps(5).
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peaks = {"pss": 0, "rss": 0, "main_rss": 0, "others_pss": 0, "processes": 0}
    course: list[tuple[float, int, int]] = []  # seconds, PSS of the main process and of the others
    while process.poll() is None:
        pids = process_tree(process.pid)
        sizes = [memory(pid) for pid in pids]
        main, others = sizes[0][1], sum(pss for _, pss in sizes[1:])
        now = {
            "pss": main + others,
            "rss": sum(rss for rss, _ in sizes),
            "main_rss": sizes[0][0],
            "others_pss": others,
            "processes": len(pids),
        }
        peaks = {name: max(peaks[name], now[name]) for name in peaks}
        seconds = time.perf_counter() - started
        if not course or seconds - course[-1][0] >= COURSE_S or peaks["pss"] == now["pss"]:
            course.append((round(seconds, 1), main, others))
        time.sleep(SAMPLE_S)
    if process.returncode:
        sys.exit(process.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return peaks | {
        "course": course,
        "wall_s": time.perf_counter() - started,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def train(
    source: str, size: int, options: argparse.Namespace, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Trains once; memory, epochs and record of the run."""
    network = {"resnet20": RESNET, "tiny": TINY}[options.network]
    text = SPEC.format(network=options.network, source=source, epochs=options.epochs)
    text = text.replace("MODEL\n", network.replace("STEM", str(max(1, size // 32))))
    spec = folder / "spec.yaml"
    spec.write_text(text)
    command = [sys.executable, "-m", "cnnbench", "run", str(spec), "--device", "cpu"]
    command += ["--workers", str(options.workers), "--results-dir", str(folder / "results")]
    found = measured(command)
    run = max((folder / "results" / f"{options.network}-streamed").iterdir())
    lines = (run / "epochs.jsonl").read_text().splitlines()
    return found, [json.loads(line) for line in lines], json.loads((run / "run.json").read_text())


def waiting(epochs: Sequence[Mapping[str, float]]) -> float:
    """Share of the epochs in which the device waited."""
    spent = sum(epoch["train_s"] + epoch["eval_s"] for epoch in epochs)
    return sum(epoch["data_s"] for epoch in epochs) / spent


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    return "\n".join(["# Streaming a folder of images", "", *_lines(result)]) + "\n"


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{result['machine']}; {result['time']}; {result['command']}."
    yield ""
    yield "| | |"
    yield "|---|---:|"
    yield f"| Images | {result['images']:,} JPEG files of {result['size']}x{result['size']} |"
    yield f"| On disk | {result['disk_bytes'] / 1e9:.2f} GB |"
    yield f"| Decoded | {result['decoded_bytes'] / 1e9:.2f} GB |"
    yield f"| Workers | {result['workers']} |"
    yield f"| Peak memory, all processes (PSS) | {result['memory']['pss'] / 2**20:,.0f} MiB |"
    yield f"| Peak memory, all processes (RSS) | {result['memory']['rss'] / 2**20:,.0f} MiB |"
    yield f"| Peak memory, main process (RSS) | {result['memory']['main_rss'] / 2**20:,.0f} MiB |"
    others = result["memory"]["others_pss"] / 2**20
    yield f"| Peak memory, worker processes together (PSS) | {others:,.0f} MiB |"
    for epoch in result["epochs"]:
        share, seen = waiting([epoch]), epoch["samples_per_s"] * epoch["train_s"]
        yield (
            f"| Epoch {epoch['epoch']}: {seen:,.0f} images | {epoch['train_s']:,.1f} s +"
            f" {epoch['eval_s']:,.1f} s, of which the device waited {epoch['data_s']:.2f} s"
            f" ({share:.1%}) |"
        )
        yield f"| Images/s, epoch {epoch['epoch']} | {epoch['samples_per_s']:,.0f} |"
    if baseline := result["baseline"]:
        yield f"| Images/s in memory, same network | {baseline[-1]['samples_per_s']:,.0f} |"
    wall, cpu = result["memory"]["wall_s"], result["memory"]["cpu_s"]
    yield f"| Whole command | {wall:,.0f} s, CPU {cpu:,.0f} s |"
    yield f"| Load before, after (1 minute) | {result['load'][0]:.1f}, {result['load'][1]:.1f} |"


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the images are generated")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="size of the files")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=num_cpus())
    parser.add_argument("--network", choices=("resnet20", "tiny"), default="resnet20")
    parser.add_argument("--train-examples", type=int, help="train on fewer images per epoch")
    parser.add_argument("--no-baseline", action="store_true", help="skip images in memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 if a target is missed."""
    options = parse(words)
    images, disk = generate(options.folder.resolve(), options.size, round(options.gigabytes * 1e9))
    load = os.getloadavg()[0]
    source = (
        f"folder: {options.folder.resolve()}\n  streaming: true\n"
        "  split: {validation: 0.005, test: 0.005}"
    )
    if options.train_examples:
        source += f"\n  train_examples: {options.train_examples}"
    with tempfile.TemporaryDirectory() as folder:
        found, epochs, record = train(source, options.size, options, Path(folder))
        baseline: list[dict[str, Any]] = []
        if not options.no_baseline:
            noise = f"name: random/{options.size}x{options.size}x3/{CLASSES}"
            baseline = train(noise, options.size, options, Path(folder))[1]
    now = datetime.now(UTC)
    given = " ".join(sys.argv[1:] if words is None else words)
    result = {
        "machine": f"{processor()}, {num_cpus()} cores, python {platform.python_version()}",
        "time": now.isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.streaming {given}",
        "images": images,
        "size": options.size,
        "disk_bytes": disk,
        "decoded_bytes": images * options.size**2 * 3,
        "workers": options.workers,
        "memory": found,
        "epochs": epochs,
        "waiting": waiting(epochs),
        "baseline": baseline,
        "timing": record["timing"],
        "load": [load, os.getloadavg()[0]],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"streaming-{now:%Y%m%dT%H%M%SZ}"
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / f"{name}.md").write_text(markdown(result))
    sys.stdout.write(markdown(result))
    missed = found["pss"] > MOST_MEMORY or result["waiting"] > MOST_WAITING
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
