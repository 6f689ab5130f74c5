"""`--profile`: a trace of the first epoch for profilers."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

SPEC = """\
name: tiny
task: classify
dataset: {name: mnist_5k, train_examples: 100}
model:
  layers: {dense: {op: dense, units: 10}}
train: {epochs: 2, batch_size: 50}
"""


def test_profile_has_a_trace_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "cnnbench", "run", "tiny.yaml", "--profile", "trace"]
    subprocess.run([*command, "--quiet"], cwd=tmp_path, check=True, capture_output=True)
    (xplane,) = tmp_path.glob("trace/plugins/profile/*/*.xplane.pb")  # XProf and TensorBoard
    (perfetto,) = tmp_path.glob("trace/plugins/profile/*/*.trace.json.gz")
    assert xplane.stat().st_size > 0
    events = json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]
    assert any(event.get("name") == "ThunkExecutor::Execute" for event in events)
