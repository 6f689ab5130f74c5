"""`cnnbench export`: files that other programs read, each tried in its own runtime."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from jax import export as jax_export
from safetensors import safe_open
from typer.testing import CliRunner

from cnnbench.analysis import trained_network
from cnnbench.cli.app import app
from cnnbench.errors import DataError
from cnnbench.export import verify
from cnnbench.export.onnx import onnx_model
from cnnbench.runs.folder import read_run_entry
from tests.support.oracles import Array

SPECS = {
    "tiny": """\
name: tiny
task: classify
dataset: {name: mnist_5k, train_examples: 20, splits: {validation: 20, test: 30}, pixel_scale: 100}
model:
  layers:
    conv: {op: conv, filters: 3, kernel: 5, stride: 4, activation: gelu}
    norm: {op: batch_norm}
    drop: {op: dropout, rate: 0.5}
    out: {op: dense, units: 10}
train: {epochs: 1, batch_size: 20}
seeds: [5, 6]
""",
    "half": """\
name: half
task: reconstruct
dataset: {name: mnist_5k, train_examples: 20, splits: {validation: 20, test: 30}}
model:
  layers:
    conv: {op: conv, filters: 3, kernel: 5, stride: 4, activation: tanh}
    back: {op: conv_transpose, tie: conv, activation: sigmoid}
train: {epochs: 1, batch_size: 20, precision: bfloat16}
""",
    "whole": """\
name: whole
task: classify
dataset: {name: mnist_5k, train_examples: 20, splits: {validation: 20, test: 30}}
model: {python: "asking:Whole"}
train: {epochs: 1, batch_size: 20}
""",
    "asks": """\
name: asks
task: classify
dataset: {name: mnist_5k, train_examples: 20, splits: {validation: 20, test: 30}}
model: {python: "asking:Net"}
train: {epochs: 1, batch_size: 20}
""",
}
MODULE = """\
import cnnbench
from flax import nnx


class Whole(nnx.Module):
    def __init__(self, *, rngs):
        options = {"conv_general_dilated": cnnbench.depthwise, "padding": ((1, 1), (1, 1))}
        self.spread = nnx.Conv(1, 4, (3, 3), strides=4, rngs=rngs)
        self.depth = nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=rngs, **options)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.layer = nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x):
        return self.layer(nnx.relu(self.norm(self.depth(self.spread(x)))).mean((1, 2)))


class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.layer = nnx.Linear(784, 10, rngs=rngs)

    def __call__(self, x):
        return self.layer(x.reshape(len(x), -1))
"""


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, words, catch_exceptions=False)


def export(run: str, form: str, *words: str) -> Any:
    return invoke("export", run, "--to", form, "--results-dir", str(Path("..").resolve()), *words)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    (folder / "asking.py").write_text(MODULE)
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(text)
    words = [str(folder / f"{name}.yaml") for name in SPECS]
    done = invoke("run", *words, "--quiet", "--engine", "plain", "--results-dir", str(folder))
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def _here(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own inside the results, so that what is written can be seen."""
    place = results / tmp_path.name
    place.mkdir()
    monkeypatch.chdir(place)


def run_of(results: Path, name: str = "tiny") -> Path:
    (path,) = (results / name).iterdir()
    return path


def network_of(results: Path, name: str, seed: int | None = None) -> trained_network.TrainedNetwork:
    return trained_network.load_trained(run_of(results, name), seed)


def test_images(count: int) -> Array:
    return np.random.default_rng(4).integers(0, 256, (count, 28, 28, 1), np.uint8)


test_images.__test__ = False  # type: ignore[attr-defined]


def close(got: Array, want: Array) -> None:
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_an_onnx_file_gives_the_same_outputs(results: Path) -> None:
    done = export("tiny", "onnx", "--seed", "6")
    assert (done.exit_code, done.stderr) == (0, "wrote tiny-seed-6.onnx\n")
    first, second, third, fourth, fifth = done.stdout.splitlines()
    assert first == (
        "input    uint8 [batch, 28, 28, 1], pixels from 0 to 255 (divided by 100 in the model)"
    )
    assert second == "output   float32 [batch, 10], logits (apply softmax)"
    assert third.startswith("verified largest difference ")
    assert third.endswith(" over 30 test images of mnist_5k,")
    assert fourth.endswith(f", in onnxruntime {onnxruntime.__version__}")
    assert fifth == "opset    20"
    session = onnxruntime.InferenceSession("tiny-seed-6.onnx")
    for count in (1, 7):
        images = test_images(count)
        (got,) = session.run(None, {"images": images})
        close(got, network_of(results, "tiny", 6).outputs(images))
    props = {prop.key: prop.value for prop in onnx.load("tiny-seed-6.onnx").metadata_props}
    assert (props["seed"], props["pixel_scale"]) == ("6", "100")


@pytest.mark.parametrize(
    ("name", "batch", "out"),
    [
        ("tiny", "batch", "10], logits (apply softmax)"),
        ("half", "batch", "28, 28, 1], pixels divided by 256"),
        ("asks", "1", "10], logits (apply softmax)"),
    ],
)
def test_a_stablehlo_file_gives_the_same_outputs(
    results: Path, name: str, batch: str, out: str
) -> None:
    done = export(name, "stablehlo", "-o", "a.bin")
    assert (done.exit_code, done.stderr) == (0, "wrote a.bin\n")
    scale = 100 if name == "tiny" else 256
    assert done.stdout.splitlines()[:2] == [
        f"input    uint8 [{batch}, 28, 28, 1], pixels from 0 to 255 (divided by {scale} in the"
        " model)",
        f"output   float32 [{batch}, {out}",
    ]
    model = jax_export.deserialize(bytearray(Path("a.bin").read_bytes()))
    assert set(model.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    for count in (1,) if batch == "1" else (1, 7):
        images = test_images(count)
        want = network_of(results, name).outputs(images)
        close(np.asarray(model.call(images)), want)


@pytest.mark.parametrize("name", ["tiny", "asks"])
def test_a_safetensors_file_is_equal_to_the_bit_and_says_what_it_is(
    results: Path, name: str
) -> None:
    done = export(name, "safetensors")
    network = network_of(results, name)
    file = f"{name}-seed-{network.seed}.safetensors"
    values = sum(value.size for value in network.weights.values())
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    assert done.stdout.splitlines() == [
        f"arrays   {len(network.weights)} with {values:,} values, named by layer",
        "verified read back: bit-identical",
    ]
    record = read_run_entry(run_of(results, name)).record
    with safe_open(file, "numpy") as found:
        assert set(found.keys()) == set(network.weights)
        for key, want in network.weights.items():
            assert found.get_tensor(key).tobytes() == want.tobytes()
        told = found.metadata()
    assert (told["spec_digest"], told["run_id"]) == (record.spec_digest, record.run_id)
    assert yaml.safe_load(told["experiment"])["name"] == name


def test_onnx_computes_in_float32_what_was_trained_in_bfloat16(results: Path) -> None:
    done = export("half", "onnx")
    said = "warning: the network was trained in bfloat16; the ONNX model computes in float32\n"
    assert (done.exit_code, done.stderr) == (0, f"{said}wrote half-seed-0.onnx\n")
    images = test_images(30)
    session = onnxruntime.InferenceSession("half-seed-0.onnx")
    (got,) = session.run(None, {"images": images})
    exact = ["train.precision=float32"]
    (network,) = trained_network.load_seeds(run_of(results, "half"), overrides=exact)
    close(got, network.outputs(images))
    rough = network_of(results, "half").outputs(images)
    assert 1e-5 < np.abs(got - rough).max() < 0.05


def test_a_model_that_differs_is_not_written(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny-seed-5.onnx").write_text("what was there")
    whole = onnx_model

    def spoilt(plan: Any, weights: Any, *others: Any) -> Any:
        return whole(plan, dict(weights) | {"out.bias": weights["out.bias"] + 0.01}, *others)

    monkeypatch.setattr("cnnbench.export.onnx.onnx_model", spoilt)
    done = export("tiny", "onnx")
    assert (done.exit_code, done.stdout) == (3, "")
    start = f"{run_of(results)}, seed 5: the exported model differs from the network"
    found = "largest difference 1.0e-02 over 30 test images of mnist_5k, tolerance "
    assert done.stderr.startswith(f"{start}: {found}")
    assert done.stderr.endswith("; nothing was written. Please report this bug.\n")
    assert Path("tiny-seed-5.onnx").read_text() == "what was there"
    assert len(list(Path().iterdir())) == 1


def test_a_model_of_another_shape_or_without_numbers_is_refused(results: Path) -> None:
    network = network_of(results, "tiny")
    probe = verify.VerificationImages(test_images(3), "random images")
    for theirs, message in (
        (np.zeros((1, 9)), "returns 3x9 values, not 3x10"),
        (
            np.full((1, 10), np.nan),
            "differs from the network: largest difference nan over 3 random images",
        ),
    ):
        with pytest.raises(verify.MismatchError, match=message):
            verify.verify(network, lambda _, found=theirs: found, probe, 1)  # type: ignore[misc]
    assert verify.MismatchError.exit_code == 3


def test_spoilt_weights_are_not_written(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.numpy

    whole = safetensors.numpy.save

    def spoilt(weights: Any, notes: Any) -> bytes:
        return whole({k: np.nextafter(v, np.float32(9)) for k, v in weights.items()}, notes)

    monkeypatch.setattr(safetensors.numpy, "save", spoilt)
    done = export("tiny", "safetensors")
    message = "the exported model differs from the weights when read back"
    assert (done.exit_code, list(Path().iterdir())) == (3, [])
    told = f"{run_of(results)}, seed 5: {message}; nothing was written. Please report this bug.\n"
    assert done.stderr == told


def test_random_images_do_where_the_datasets_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise DataError("dataset 'mnist_5k' is not here")

    monkeypatch.setattr(trained_network.TrainedNetwork, "dataset", missing)
    done = export("tiny", "onnx")
    said = "warning: dataset 'mnist_5k' is not here; verifying with random images\n"
    assert (done.exit_code, done.stderr) == (0, f"{said}wrote tiny-seed-5.onnx\n")
    assert " over 100 random images," in done.stdout


def test_a_network_that_diverged_is_not_exported(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trained_network.TrainedNetwork,
        "outputs",
        lambda _, images: np.full((len(images), 10), np.inf),
    )
    done = export("tiny", "stablehlo")
    message = "training diverged (non-finite outputs); export another seed."
    assert (done.exit_code, done.stderr) == (1, f"{run_of(results)}, seed 5: {message}\n")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name)
    )
    done = export("tiny", "onnx")
    message = "the package 'onnxruntime' is not installed; run pip install 'cnnbench[export]'."
    assert (done.exit_code, done.stderr) == (2, f"--to onnx: {message}\n")
    assert export("tiny", "safetensors").exit_code == 0


def test_a_python_model_names_the_extra_that_converts_it(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jax2onnx" else there(name)
    )
    done = export("asks", "onnx")
    assert (done.exit_code, done.stderr) == (
        2,
        f"{run_of(results, 'asks')}: 'asking:Net' is a Python model, and converting it to ONNX"
        " needs the package 'jax2onnx'; run pip install 'cnnbench[export-python]', or use --to"
        " stablehlo.\n",
    )
    assert not list(Path().iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax2onnx's use of Flax
@pytest.mark.parametrize(("name", "batch"), [("whole", "batch"), ("asks", "1")])
def test_a_python_model_computes_the_same_in_onnx(results: Path, name: str, batch: str) -> None:
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed (extra export-python)")
    done = export(name, "onnx")
    assert done.exit_code == 0, done.stderr
    assert f"input    uint8 [{batch}, 28, 28, 1], pixels from 0 to 255" in done.stdout
    session = onnxruntime.InferenceSession(f"{name}-seed-0.onnx")
    images = test_images(4)
    parts = [images] if batch == "batch" else np.split(images, 4)
    theirs = np.concatenate([session.run(None, {"images": part})[0] for part in parts])
    ours = network_of(results, name).outputs(images)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    assert onnx.load(f"{name}-seed-0.onnx").metadata_props


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tiny", "onnx", "--seed", "1"), 2, "{tiny}: no weights of seed 1; write 5 or 6."),
        (
            ("tiny", "safetensors", "-o", "no/a"),
            1,
            "--output no/a: cannot be written: no such file or directory; name another.",
        ),
    ],
)
def test_mistakes_end_in_a_message(
    results: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = export(words[0], words[1], *words[2:])
    assert (done.exit_code, done.stderr) == (code, message.format(tiny=run_of(results)) + "\n")


def test_metadata_is_json_that_any_reader_finds(results: Path) -> None:
    """By the format's description: a length, a JSON header, values."""
    export("tiny", "safetensors", "-o", "a")
    content = Path("a").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["dataset"] == "mnist_5k"
    assert header["norm.mean"]["shape"] == [3]
