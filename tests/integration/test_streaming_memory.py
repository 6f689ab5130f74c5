"""The memory of a streamed run of large images.

The measurement of 8 GB is `python -m benchmarks.streaming`; this is a folder of 50 MB, with a
network that takes next to no memory.
"""

import sys
from pathlib import Path

import pytest

from benchmarks.streaming import SPEC, TINY, generate, measured

SIZE = 256
MOST = 850 * 2**20  # bytes of all processes: 631 MiB measured, 1,111 MiB with chunks of 500 images


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_large_images_are_evaluated_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 images of this size, as chunks once had, are 98 MB: several of them, on each core."""
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    number, _ = generate(tmp_path / "pics", SIZE, 50_000_000)
    assert number >= 900
    source = "folder: pics\n  streaming: true\n  split: {validation: 0.45, test: 0.45}"
    text = SPEC.format(network="tiny", source=source, epochs=2)
    (tmp_path / "tiny.yaml").write_text(text.replace("MODEL\n", TINY.replace("STEM", "8")))
    words = ["run", str(tmp_path / "tiny.yaml"), "--device", "cpu", "--workers", "2", "-q"]
    command = [sys.executable, "-m", "cnnbench", *words, "--results-dir", str(tmp_path / "results")]
    assert measured(command)["pss"] < MOST
