"""The same seed gives the same numbers, independent of the environment and the calling program."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from cnnbench.analysis.trained_network import load_trained
from cnnbench.cli.app import app
from cnnbench.errors import UsageError
from cnnbench.runner.run import Request, run_experiment
from cnnbench.runs.folder import read_run
from cnnbench.system import devices, settings
from tests.support.environments import without

CLASSIFIED = {"0.10.2", "0.12.0", "0.12.0.1"}  # versions of JAX whose options have been looked at
TINY = """\
name: tiny
task: classify
dataset: {name: mnist_5k, train_examples: 200, splits: {validation: 50, test: 50}}
model:
  layers:
    conv1: {op: conv, filters: 2, kernel: 5, stride: 2, activation: relu}
    norm1: {op: batch_norm}
    drop1: {op: dropout, rate: 0.5}
    dense1: {op: dense, units: 10}
train: {epochs: 2, batch_size: 50, optimizer: {name: adam}}
seeds: [3]
"""
# A value other than the pinned one, for each option that is not a boolean.
OTHERS: Mapping[str, Any] = {
    "jax_array_garbage_collection_guard": "log",
    "jax_default_device": "cpu",
    "jax_default_matmul_precision": "bfloat16",
    "jax_default_prng_impl": "rbg",
    "jax_embedded_constants_max_bytes": 0,
    "jax_error_checking_behavior_divide": "raise",
    "jax_error_checking_behavior_nan": "raise",
    "jax_error_checking_behavior_oob": "raise",
    "jax_exec_time_optimization_effort": 1.0,
    "jax_explicit_x64_dtypes": "error",
    "jax_legacy_prng_key": "error",
    "jax_memory_fitting_effort": 1.0,
    "jax_memory_fitting_level": "O3",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_optimization_level": "O0",
    "jax_random_seed_offset": 7,
    "jax_transfer_guard": "disallow",
    "jax_transfer_guard_device_to_device": "log",
    "jax_transfer_guard_device_to_host": "disallow_explicit",
    "jax_transfer_guard_host_to_device": "disallow",
    "jax_use_hlo_logistic_lowering": True,
    "jax_use_magma": "off",
    "jax_xla_profile_version": 1,
}
INSTALLED = [name for name in settings.PINNED if name in settings._values()]


class Quiet:
    """A `notify` callback that records messages."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def loaded(self, loaded: Any) -> None: ...

    def failed(self, reason: str) -> None: ...
    def started(self, record: Any, num_steps: int) -> None: ...

    def event(self, event: Any) -> None: ...

    def finished(self, folder: Path) -> None: ...


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Restores the options of JAX and Flax after each test."""
    before = settings._values()
    yield
    for name, value in before.items():
        settings._config(name).update(name, value)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def set_other(name: str) -> None:
    """Gives an option another value than it is pinned to."""
    pin = settings.PINNED[name]
    assert isinstance(pin, bool) or name in OTHERS
    other = OTHERS.get(name, not pin)
    settings._config(name).update(name, settings._like(other, settings._values()[name]))


def train(spec: Path, results: str, **options: Any) -> tuple[Path, list[str]]:
    """Trains in this process, and returns the folder and the messages."""
    listener = Quiet()
    request = Request(spec, results_dir=spec.parent / results, engine="direct", **options)
    record = run_experiment(request, listener).record
    return spec.parent / results / record.name / record.run_id, listener.notes


def numbers(path: Path) -> Any:
    """All that a run measured and learnt, but the times."""
    run = read_run(path)
    assert run.summary is not None
    epochs = [(e.seed, e.epoch, e.train_loss, e.validation_loss, e.metrics) for e in run.epochs]
    return epochs, [(seed.test, seed.weights_digest) for seed in run.summary.seeds]


# Pinned options.


def test_every_option_is_pinned_recorded_or_the_users_own() -> None:
    if jax.__version__ not in CLASSIFIED:
        pytest.skip(f"the options of jax {jax.__version__} have not been looked at")
    known = {*settings.PINNED, *settings.DEVICE_OPTIONS, *settings.USER_OPTIONS}
    known |= {name.lower() for name in settings.RECORDED}
    options = {*jax.config.values, *flax.config._values}
    assert sorted(options - known) == []


def test_no_option_has_two_classes() -> None:
    classes = (
        settings.NUMERIC_OPTIONS,
        settings.DEBUG_OPTIONS,
        settings.DEVICE_OPTIONS,
        settings.USER_OPTIONS,
    )
    names = [name for each in classes for name in each]
    assert sorted(names) == sorted(set(names))


def test_pinned_values_are_the_defaults_of_the_installed_versions() -> None:
    code = (
        "from cnnbench.system import settings as s; import json;"
        " print(json.dumps({n: s._shown(v) for n, v in s._values().items()}))"
    )
    plain = without("JAX_", "FLAX_", "NNX_")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=plain, check=True)
    found = json.loads(done.stdout)
    assert found == {name: settings._text(settings.PINNED[name]) for name in found}


@pytest.mark.parametrize("name", INSTALLED)
def test_an_option_is_pinned_and_is_then_as_it_was(name: str) -> None:
    set_other(name)
    other = settings._values()[name]
    assert settings._plain(other) != settings.PINNED[name]
    with settings.pinned():
        assert settings._plain(settings._values()[name]) == settings.PINNED[name]
    assert settings._values()[name] == other


def test_a_training_under_other_settings_is_equal_to_the_bit(spec: Path) -> None:
    plain, said = train(spec, "plain")
    assert said == []
    for name in INSTALLED:
        set_other(name)
    other, notes = train(spec, "other")
    assert numbers(other) == numbers(plain)
    (note,) = notes
    assert note.startswith("ignoring jax_enable_x64=true, ")
    assert note.endswith(
        ": cnnbench pins these settings, so that the same seed gives the same numbers."
    )
    assert "transfer_guard_" not in note  # `jax_transfer_guard` sets those
    assert jax.config.values["jax_enable_x64"]


def test_a_training_leaves_options_of_the_calling_program_as_they_were(spec: Path) -> None:
    before = jax.config.values
    train(spec, "results")
    after = jax.config.values
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.slow
def test_the_numbers_would_not_be_equal_without_pins(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = numbers(train(spec, "plain")[0])
    monkeypatch.setattr(settings, "PINNED", {})
    jax.config.update("jax_default_prng_impl", "rbg")
    assert numbers(train(spec, "other")[0]) != plain


def test_a_trained_network_gives_the_same_outputs_in_another_program(spec: Path) -> None:
    network = load_trained(train(spec, "plain")[0])
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    plain = network.outputs(images)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    again = load_trained(network.path).outputs(images)
    for found in (network.outputs(images), again):
        assert (found.dtype, found.tobytes()) == (plain.dtype, plain.tobytes())
    assert network.activations(images)["conv1"].dtype == np.float32


def test_a_with_block_of_the_calling_program_is_refused(spec: Path) -> None:
    message = (
        "jax_enable_x64 is true in a `with` block of the calling program; call cnnbench outside"
        " of that block."
    )
    with jax.enable_x64(True), pytest.raises(UsageError) as caught:
        train(spec, "results")
    assert str(caught.value) == message


CHANGE = "jax.config.update('jax_enable_x64', True)"
NET = """\
import jax
from flax import nnx
{0}
class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.dense = nnx.Linear(784, 10, rngs=rngs)
        {1}
    def __call__(self, x):
        return self.dense(x.reshape(len(x), -1))
"""


@pytest.mark.parametrize("parts", [(CHANGE, "pass"), ("", CHANGE)])
def test_a_python_model_leaves_pinned_options_alone(parts: tuple[str, str], spec: Path) -> None:
    (spec.parent / "net.py").write_text(NET.format(*parts))
    text = TINY[: TINY.index("model:")] + "model: {python: 'net:Net'}\nseeds: [0]\n"
    spec.write_text(text + TINY[TINY.index("train:") : TINY.index("seeds:")])
    with pytest.raises(UsageError) as caught:
        train(spec, "results")
    assert (
        "model.python: 'net:Net': sets jax_enable_x64 to true, but cnnbench pins it to false"
        in (str(caught.value))
    )
    assert not jax.config.values["jax_enable_x64"]


# Environment variables, in subprocesses.

TRAIN = "import sys; from cnnbench.cli.app import main; sys.argv[0] = 'cnnbench'; main()"


def command(spec: Path, variables: Mapping[str, str], *words: str) -> Any:
    own = without("JAX_", "FLAX_", "NNX_") | dict(variables)
    run = [sys.executable, "-c", TRAIN, "run", str(spec), "--quiet", "--engine", "plain", *words]
    return subprocess.run(
        run, capture_output=True, text=True, check=False, env=own, cwd=spec.parent, timeout=300
    )


STOPPERS = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_DISABLE_JIT": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_CHECK_TRACER_LEAKS": "1",
    "JAX_DEBUG_NANS": "1",
    "JAX_NO_EXECUTION": "1",
    "NNX_GRAPH_MODE": "0",
}


@pytest.mark.slow
def test_variables_change_no_number_and_are_named_in_one_line(spec: Path) -> None:
    plain = command(spec, {}, "--results-dir", "plain")
    more = {"JAX_PLATFORMS": "cuda", "JAX_PLATFORM_NAME": "gpu", "JAX_COMPILATION_CACHE_DIR": "/x"}
    other = command(spec, STOPPERS | more, "--results-dir", "other", "--device", "cpu")
    assert (plain.returncode, other.returncode, plain.stderr) == (0, 0, "")
    first, second = other.stderr.splitlines()
    assert all(f"{name}={value}" in first for name, value in STOPPERS.items())
    assert second.startswith("ignoring JAX_COMPILATION_CACHE_DIR=/x: compiled programs are kept in")
    found = [next((spec.parent / name / "tiny").iterdir()) for name in ("plain", "other")]
    assert numbers(found[0]) == numbers(found[1])
    recorded = [read_run(path).record.environment.settings for path in found]
    assert recorded[0] == recorded[1]


REFUSED = {
    "JAX_ENABLE_X64=maybe": "JAX_ENABLE_X64=maybe: invalid value (invalid truth value"
    " 'maybe' for environment 'JAX_ENABLE_X64'); unset JAX_ENABLE_X64.\n",
    "JAX_PLATFORMS=cdua": "JAX_PLATFORMS=cdua: JAX finds no such device; unset JAX_PLATFORMS,"
    " or set it to cpu.\n",
    "JAX_PLATFORM_NAME=tpu": "JAX_PLATFORM_NAME=tpu: JAX finds no such device; unset"
    " JAX_PLATFORM_NAME, or set it to cpu.\n",
}


@pytest.mark.parametrize("variable", REFUSED)
@pytest.mark.sampled(1)
def test_a_value_that_cannot_be_used_is_one_sentence(variable: str, spec: Path) -> None:
    name, _, value = variable.partition("=")
    done = command(spec, {name: value})
    assert (done.returncode, done.stdout, done.stderr) == (2, "", REFUSED[variable])
    assert not (spec.parent / "results").exists()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "invalid literal for int() with base 10: 'x'",
            "JAX_FRAMES=x: invalid value (invalid literal for int() with base 10: 'x');"
            " unset JAX_FRAMES.",
        ),
        (
            'Invalid value "y" for JAX flag jax_no',
            'JAX_NO=y: invalid value (Invalid value "y" for JAX flag jax_no); unset JAX_NO.',
        ),
        ("anything else", None),
    ],
)
def test_the_variable_that_an_import_fails_for(said: str, sentence: str | None) -> None:
    assert settings._refusal(said, {"JAX_FRAMES": "x", "JAX_NO": "y", "HOME": "z"}) == sentence


def test_a_folder_for_dumps_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    before = jax.config.values["jax_dump_ir_to"]
    jax.config.update("jax_dump_ir_to", str(tmp_path / "file" / "dump"))
    monkeypatch.setenv("JAX_DUMP_IR_TO", str(tmp_path / "file" / "dump"))
    try:
        with pytest.raises(UsageError) as caught:
            settings.start(pytest.fail)
    finally:
        jax.config.update("jax_dump_ir_to", before)
    assert str(caught.value) == (
        f"JAX_DUMP_IR_TO={tmp_path}/file/dump: cannot create this folder (Not a directory); choose"
        " another, or unset it."
    )


def test_blocks_of_two_threads_overlap() -> None:
    """As in a service that uses a trained network in several threads."""
    name, (a, b) = "jax_numpy_rank_promotion", (settings.pinned(), settings.pinned())
    jax.config.update(name, "warn")
    with ThreadPoolExecutor(1) as other:
        with jax.default_device(jax.devices("cpu")[0]):  # in this thread alone
            a.__enter__()
        other.submit(b.__enter__).result()
        a.__exit__(None, None, None)
        assert jax.config.values[name] == "allow"
        other.submit(b.__exit__, None, None, None).result()
    assert (jax.config.values[name], jax.config.values["jax_default_device"]) == ("warn", None)


def test_a_command_pins_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking what to restore takes a thread; blocks inside of a block do not look."""
    looked: list[int] = []
    real = settings._everywhere

    def look() -> dict[str, Any]:
        looked.append(1)
        return real()

    monkeypatch.setattr(settings, "_everywhere", look)
    with settings.pinned():
        for _ in range(3):
            with settings.pinned():
                assert len(looked) == 1
    assert len(looked) == 2  # at the end


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--xla_nope", "Unknown flag in XLA_FLAGS: --xla_nope"),
        (
            "--xla_cpu_enable_fast_math=maybe",
            "Couldn't interpret value maybe for flag xla_cpu_enable_fast_math",
        ),
    ],
)
def test_flags_that_xla_refuses(flags: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.require_flags(flags)
    assert str(caught.value) == (
        f"XLA_FLAGS={flags}: XLA rejects these flags ({reason}); fix or unset XLA_FLAGS."
    )
    settings.require_flags("--xla_cpu_enable_fast_math=true")


def test_another_number_of_devices_is_ignored_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    jax.devices()  # from here on, the tests' number of devices stays
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "7")
    monkeypatch.setattr(devices, "num_cpus", lambda: 3)
    notes: list[str] = []
    devices.use_all_cores(notes.append)
    assert notes == [
        "ignoring JAX_NUM_CPU_DEVICES=7: cnnbench uses one device per available core, here 3."
    ]


# Recorded settings.


def test_xla_flags_are_recorded_without_those_that_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "flags"
    file.write_text("--xla_b=1\n--xla_dump_to=x")
    texts = {
        "--xla_force_host_platform_device_count=4 --xla_a=1": "--xla_a=1",
        "--xla_dump_to=x": None,
        str(file): "--xla_b=1",
        str(tmp_path / "none"): None,
        "": None,
    }
    found = {text: settings.current({"XLA_FLAGS": text}).get("XLA_FLAGS") for text in texts}
    assert found == texts


def test_unknown_options_are_recorded_and_known_ones_are_not() -> None:
    own = {"JAX_OF_TOMORROW": "1", "JAX_LOG_COMPILES": "1", "JAX_ENABLE_X64": "1", "HOME": "/"}
    found = settings.current(own)
    assert {name: value for name, value in found.items() if name.isupper()} == {
        "JAX_OF_TOMORROW": "1"
    }
    assert {name: found[name] for name in settings.NUMERIC_OPTIONS} == {
        name: settings._text(value) for name, value in settings.NUMERIC_OPTIONS.items()
    }


def cli(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


@pytest.fixture
def stopped(spec: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted before its summary, started under another setting."""
    monkeypatch.chdir(spec.parent)
    monkeypatch.setenv("CNNBENCH_ENGINE", "direct")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    path, _ = train(spec, "results")
    record = json.loads((path / "run.json").read_text())
    assert record["environment"]["settings"]["NVIDIA_TF32_OVERRIDE"] == "0"
    record |= {"status": "interrupted", "finished_at": None}
    (path / "run.json").write_text(json.dumps(record))
    (path / "summary.json").unlink()
    return path


def test_a_run_is_resumed_only_under_its_settings(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    done = cli("run", "--resume", str(stopped), "--quiet")
    assert (done.exit_code, done.stderr) == (
        1,
        f"{stopped}: the run was started with NVIDIA_TF32_OVERRIDE=0, which is not set now; set"
        " NVIDIA_TF32_OVERRIDE=0, or start a new run.\n",
    )
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert cli("run", "--resume", str(stopped), "--quiet").exit_code == 0


def test_a_run_under_other_settings_is_not_reused(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(spec.parent)
    first, _ = train(spec, "results")
    again, notes = train(spec, "results", needed=True)
    assert (again, notes) == (first, [f"{first} is already finished; nothing to train"])
    monkeypatch.setenv("NPROC", "1")
    other, notes = train(spec, "results", needed=True)
    assert other != first
    assert notes == [f"skipping {first}: it was trained without NPROC, and NPROC=1 is set now"]
    assert train(spec, "results", needed=True)[0] == other
    monkeypatch.delenv("NPROC")
    assert train(spec, "results", needed=True)[0] == first


@pytest.mark.slow
def test_a_variable_that_nothing_reads_makes_no_other_run(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JAX_OF_TOMORROW", "FLAX_OF_TOMORROW"):
        monkeypatch.setenv(name, "1")
        assert name in settings.current()
    assert cli("run", "--resume", str(stopped), "--quiet").exit_code == 0
    again, notes = train(stopped.parents[2] / "tiny.yaml", "results", needed=True)
    assert (again, notes) == (stopped, [f"{stopped} is already finished; nothing to train"])


@pytest.mark.parametrize("name", ["JAX_LOG_COMPILES", "FLAX_PROFILE"])
def test_an_option_that_only_the_installed_versions_know_makes_another_run(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An option of a newer JAX than this cnnbench supports."""
    monkeypatch.setattr(settings, "_CLASSIFIED", settings._CLASSIFIED - {name})
    monkeypatch.setenv(name, "0")
    done = cli("run", "--resume", str(stopped), "--quiet")
    assert (done.exit_code, done.stderr) == (
        1,
        f"{stopped}: the run was started without {name}, and {name}=0 is set now; unset {name}, or"
        " start a new run.\n",
    )


def test_an_older_run_has_no_settings_that_could_be_others(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of formats 1 and 2 are resumed with a note, and then have all that is needed."""
    record = json.loads((stopped / "run.json").read_text())
    record["format_version"] = 2
    del record["environment"]["settings"], record["extended"], record["tags"]
    del record["resumed_with"]
    (stopped / "run.json").write_text(json.dumps(record))
    monkeypatch.setenv("NPROC", "1")
    spec = stopped.parents[2] / "tiny.yaml"
    again, notes = train(spec, "results", needed=True)
    said = f"{stopped.name} was started by an older version, which did not record JAX settings"
    assert (again, [note for note in notes if note.startswith(said)] != []) == (stopped, True)
    assert train(spec, "results", needed=True)[0] == stopped


def test_another_engine_or_device_is_not_reused() -> None:
    from cnnbench.runner.open_run import _as_asked
    from tests.support.samples import make_run

    record = make_run().record  # asked for auto, trained with fast, on a CPU
    asked: Callable[..., bool] = lambda *words: _as_asked(record, *words)  # noqa: E731
    assert [asked(engine, "auto") for engine in ("auto", "fast", "direct")] == [True, True, False]
    assert [asked("auto", device) for device in ("auto", "cpu", "gpu")] == [True, True, False]
