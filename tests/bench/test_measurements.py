"""Statistics of times against hand-computed numbers, and their reports."""

import dataclasses
import io
import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cnnbench.bench import session
from cnnbench.bench.frameworks.interface import TorchSettings
from cnnbench.bench.measurements import (
    Benchmark,
    Measurement,
    Product,
    VariantStatus,
    band,
    plan_rounds,
    ratio,
    take_turns,
)
from cnnbench.bench.report import ABOVE_ALL, Report, json_text, markdown, notes, terminal_table
from cnnbench.errors import StoreError, UsageError
from cnnbench.graph.flops import training_flops
from cnnbench.spec.loader import load_experiment
from tests.support.golden import approved
from tests.support.oracles import make_plan
from tests.support.pages import documented
from tests.support.paths import GOLDEN
from tests.support.samples import ENVIRONMENT

ROOT = GOLDEN.parent.parent
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_rounds_too_short_for_the_clock_have_no_ratio() -> None:
    assert math.isnan(ratio([1.0, 1.0], [0.0, 0.0]).value)
    assert math.isnan(ratio([0.0, 0.0], [1.0, 1.0]).value)
    assert ratio([4.0, 0.0, 4.0], [2.0, 2.0, 2.0]).value == pytest.approx(2.0)


def measured(variant: str, family: str, seconds: tuple[float, ...], **more: Any) -> Measurement:
    values = {"accuracy": 0.9, "loss": 0.3}
    options: dict[str, Any] = {
        "images": 5_000,
        "steps": 83,
        "prepare_s": 2.0,
        "compile_s": 3.25,
        "peak_memory_bytes": 500 * 2**20,
        "metrics": values,
    }
    return Measurement(variant, family, seconds=seconds, **(options | more))


OWN = measured("cnnbench", "cnnbench", (1.0, 1.25, 1.0))
EAGER = measured("torch-eager-nchw", "torch", (2.0, 2.5, 2.25), compile_s=0.5)
COMPILED = measured("torch-compile-channels_last", "torch", (3.0, 3.0, 3.0), compile_s=61.04)
TUNED = measured("torch-tuned-eager-nchw", "torch", (1.5, 1.75, 1.5), compile_s=0.5)
OWN16 = measured("cnnbench-bfloat16", "cnnbench", (2.0, 2.0, 2.0))
TORCH16 = measured("torch-bfloat16-compile-channels_last", "torch", (3.0, 3.5, 3.0))
KERAS = measured("keras-jax", "keras", (12.0, 12.5, 13.0), metrics={"accuracy": 0.8, "loss": 0.6})
REFUSED = Measurement("flax", "flax", VariantStatus.SKIPPED, "no\nsuch thing")
NO_JEMALLOC = Measurement("torch-jemalloc", "torch", VariantStatus.SKIPPED, "it is not installed.")
DIED = Measurement("keras-torch", "keras", VariantStatus.FAILED, "its process exited with code 1")
BENCHMARK = Benchmark(
    name="standard",
    title="Standard CNN",
    dataset="mnist_5k",
    num_train=4_000,
    batch_size=500,
    training_flops=12_500_000,
    product=Product("torch", 2048, 250e9),
    measurements=(
        OWN,
        OWN16,
        TUNED,
        NO_JEMALLOC,
        EAGER,
        COMPILED,
        TORCH16,
        KERAS,
        DIED,
        REFUSED,
    ),
)
LOSSES = dataclasses.replace(
    BENCHMARK,
    name="autoencoder",
    title="Convolutional autoencoder",
    product=None,
    measurements=tuple(
        dataclasses.replace(m, metrics={"loss": 0.06789 * factor})
        for m, factor in ((OWN, 1.0), (EAGER, 1.05))
    ),
)
REPORT = Report((BENCHMARK, LOSSES), ENVIRONMENT, {"torch": "2.13.0"}, STARTED)


def plan_of(layers: Any, output_shape: tuple[int, ...], **options: Any) -> Any:
    return make_plan(layers, (8, 8, 1), output_shape, **options)


class TestTimes:
    def test_seconds_for_ten_thousand_images_are_the_median_round(self) -> None:
        assert OWN.seconds_per_10k == 2.0
        assert EAGER.seconds_per_10k == 4.5

    def test_the_best_of_a_family_is_the_fastest_that_finished(self) -> None:
        assert BENCHMARK.best("torch") is TUNED
        assert BENCHMARK.best("torch", {TorchSettings.DEFAULT}) is EAGER
        assert BENCHMARK.best("torch", {TorchSettings.BFLOAT16}) is TORCH16
        assert BENCHMARK.best("torch", {TorchSettings.JEMALLOC}) is None
        assert BENCHMARK.best("keras") is KERAS
        assert BENCHMARK.best("flax") is None
        assert BENCHMARK.ratio(None) is None
        assert dataclasses.replace(BENCHMARK, measurements=(EAGER,)).ratio(EAGER) is None

    def test_a_ratio_is_of_rounds_not_of_totals(self) -> None:
        # In the second round the machine was ten times slower for both.
        found = ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
        assert found.value == pytest.approx(2)
        assert found.interval.low == pytest.approx(2)
        assert found.interval.high == pytest.approx(2)

    def test_a_ratio_by_hand(self) -> None:
        found = ratio([2.0, 8.0], [1.0, 1.0])
        assert found.value == pytest.approx(4)
        # Logarithms of base 2 are 1 and 3: mean 2, deviation sqrt(2), t for one degree 12.706.
        half = 12.706204736432095 * math.sqrt(2) / math.sqrt(2)
        assert found.interval.high == pytest.approx(2 ** (2 + half))
        assert found.interval.low == pytest.approx(2 ** (2 - half))

    def test_swapping_the_variants_inverts_the_ratio(self) -> None:
        forth, back = ratio([2, 3, 5], [1, 2, 2]), ratio([1, 2, 2], [2, 3, 5])
        assert forth.value == pytest.approx(1 / back.value)
        assert forth.interval.low == pytest.approx(1 / back.interval.high)

    def test_one_round_has_no_interval(self) -> None:
        with pytest.raises(ValueError, match="two rounds"):
            ratio([1.0], [1.0])

    def test_the_interval_covers_the_true_ratio(self) -> None:
        rng = np.random.default_rng(0)
        drift = np.exp(rng.normal(scale=0.5, size=(2000, 7)))  # shared drift of the machine
        ours = drift * np.exp(rng.normal(scale=0.1, size=(2000, 7)))
        theirs = 2.5 * drift * np.exp(rng.normal(scale=0.1, size=(2000, 7)))
        intervals = [ratio(list(t), list(o)).interval for t, o in zip(theirs, ours, strict=True)]
        covered = sum(i.low <= 2.5 <= i.high for i in intervals) / 2000
        assert 0.935 < covered < 0.965
        # Without pairing it would include the drift: at least t * 0.5 * sqrt(2 / 7), not 0.13.
        assert np.median([math.log(i.high / i.low) for i in intervals]) < 0.4


class TestWork:
    def test_the_posts_network_by_hand(self) -> None:
        loaded = load_experiment(ROOT / "experiments" / "standard.yaml")
        assert loaded.plan is not None
        conv1, conv2 = 24 * 24 * 5 * 5 * 32, 8 * 8 * 5 * 5 * 32 * 32
        dense1, dense2 = 512 * 256, 256 * 10
        # conv1 reads the image, whose gradient is not needed.
        expected = 2 * (2 * conv1 + 3 * (conv2 + dense1 + dense2))
        assert training_flops(loaded.plan) == expected

    def test_layers_without_parameters_do_not_need_the_images_gradient(self) -> None:
        layers = {
            "drop": {"op": "dropout", "rate": 0.2},
            "pool": {"op": "max_pool", "size": 2},
            "dense1": {"op": "dense", "units": 3},
            "dense2": {"op": "dense", "units": 2},
        }
        assert training_flops(plan_of(layers, (2,))) == 2 * (2 * 16 * 3 + 3 * 3 * 2)

    def test_frozen_layers_have_no_gradient_of_their_kernel(self) -> None:
        frozen = {"op": "dense", "units": 3, "trainable": False}
        last = {"op": "dense", "units": 2}
        layers = {"first": frozen, "a": last, "b": frozen, "c": last}
        first, a, b, c = 64 * 3, 3 * 2, 2 * 3, 3 * 2
        assert training_flops(plan_of(layers, (2,))) == 2 * (first + 2 * a + 2 * b + 3 * c)

    def test_batch_norm_before_a_layer_needs_its_inputs_gradient(self) -> None:
        layers = {"norm": {"op": "batch_norm"}, "dense": {"op": "dense", "units": 2}}
        assert training_flops(plan_of(layers, (2,))) == 2 * 3 * 64 * 2

    def test_a_tied_layer_is_trained_though_it_owns_no_kernel(self) -> None:
        layers = {
            "conv": {"op": "conv", "filters": 2, "kernel": 3},
            "code": {"op": "conv_transpose", "tie": "conv", "use_bias": False},
        }
        products = 6 * 6 * 3 * 3 * 2
        assert training_flops(plan_of(layers, (8, 8, 1))) == 2 * (2 * products + 3 * products)

    def test_both_sides_of_a_branch_count(self) -> None:
        layers = {
            "a": {"op": "dense", "units": 2, "inputs": "input"},
            "b": {"op": "dense", "units": 3, "inputs": "input"},
            "join": {"op": "concat", "inputs": ["a", "b"]},
            "end": {"op": "dense", "units": 4},
        }
        assert training_flops(plan_of(layers, (4,))) == 2 * (2 * 64 * 5 + 3 * 5 * 4)

    def test_the_share_of_the_fastest_product(self) -> None:
        # 12.5 MFLOP for each of 10,000 images in 2 s are 62.5 GFLOP/s, of 250.
        assert BENCHMARK.product_share(OWN) == pytest.approx(0.25)
        assert LOSSES.product_share(OWN) is None

    def test_a_share_above_100_percent_is_explained(self) -> None:
        assert BENCHMARK.product is not None
        slow = dataclasses.replace(BENCHMARK.product, flops=5e10)
        lines = notes(dataclasses.replace(BENCHMARK, product=slow))
        at = lines.index(ABOVE_ALL)
        assert lines[at - 1].startswith("Throughput: cnnbench reaches 125% of the 50 GFLOP/s")
        assert ABOVE_ALL not in notes(BENCHMARK)


class TestBand:
    def test_variants_with_different_results_are_named(self) -> None:
        found = BENCHMARK.band()
        assert found is not None
        assert (found.metric, found.low, found.high, found.own) == ("accuracy", 0.8, 0.9, 0.9)
        assert found.outside == ("keras-jax",)

    def test_losses_are_compared_relatively(self) -> None:
        assert band("loss", {"a": 0.0109, "b": 0.0111}, 0.01).outside == ("b",)

    def test_a_diverged_variant_is_outside(self) -> None:
        found = band("loss", {"own": 0.01, "a": math.nan}, 0.01)
        assert found.outside == ("a",)
        assert (found.low, found.high) == (0.01, 0.01)

    def test_without_ours_there_is_no_band(self) -> None:
        assert dataclasses.replace(BENCHMARK, measurements=(EAGER,)).band() is None


class TestRounds:
    @pytest.mark.parametrize(
        ("seconds", "step_s", "expected"),
        [
            (80, 1.0, (7, 10)),
            (16, 1.0, (7, 2)),
            (15.9, 1.0, (7, 1)),
            (8, 1.0, (7, 1)),
            (7.9, 1.0, (6, 1)),
            (0, 1.0, (3, 1)),
            (80, 100.0, (3, 1)),
            (1e9, 1.0, (7, 20)),
            (10, 0.0, (7, 20)),
        ],
    )
    def test_rounds_fit_the_budget(
        self, seconds: float, step_s: float, expected: tuple[int, int]
    ) -> None:
        assert plan_rounds(seconds, step_s, rounds=7, most_steps=20) == expected

    def test_variants_are_equally_often_first_and_last(self) -> None:
        orders = [take_turns(("a", "b", "c"), number) for number in range(4)]
        assert [order[0] for order in orders] == ["a", "c", "a", "c"]
        assert {order[1] for order in orders} == {"b"}


def shown(report: Report) -> str:
    """Output at 80 columns, without trailing spaces."""
    console = Console(width=80, file=io.StringIO(), color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(terminal_table(report))
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


REPORTS = {
    "bench.txt": lambda: shown(REPORT),
    "bench.md": lambda: markdown(REPORT),
}


def _rounded(text: str) -> Any:
    """The last digits of an interval depend on the platform."""
    return json.loads(text, parse_float=lambda number: f"{float(number):.9g}")


class TestReport:
    @pytest.mark.parametrize("name", REPORTS)
    def test_a_report_matches_the_golden_file(self, name: str) -> None:
        text = REPORTS[name]()
        assert text == approved(name, text)

    def test_the_json_matches_the_golden_file(self) -> None:
        text = json_text(REPORT)
        assert _rounded(text) == _rounded(approved("bench.json", text))

    def test_the_keys_of_the_json_are_documented(self) -> None:
        fields = json.loads(json_text(REPORT))
        specs = fields.pop("specs").values()
        keys = {*fields} - {"versions"} | {"versions.NAME"}
        keys |= {f"specs.NAME.{key}" for spec in specs for key in spec if key != "peers"}
        peers = [peer for spec in specs for peer in spec["peers"].values()]
        keys |= {f"specs.NAME.peers.VARIANT.{key}" for peer in peers for key in peer}
        assert documented("json.md", "`bench`") == keys

    def test_no_name_and_no_number_is_cut_at_80_columns(self) -> None:
        long = measured(
            "torch-compile-channels_last",
            "torch",
            (123.0, 95.0, 140.0),
            peak_memory_bytes=12_345 * 2**20,
            compile_s=123.4,
        )
        report = dataclasses.replace(
            REPORT, benchmarks=(dataclasses.replace(BENCHMARK, measurements=(OWN, long)),)
        )
        text = shown(report)
        assert max(map(len, text.splitlines())) <= 80
        cells = ["compile-channels_last", "10", "90.0%", "246", "123.4", "12,345"]
        line = next(line for line in text.splitlines() if line.startswith("  compile"))
        assert [word for word in line.split() if "(" not in word and ")" not in word][:4] == [
            *cells[:4]
        ]
        assert line.split()[-2:] == cells[-2:]

    def test_the_json_has_the_documented_fields(self) -> None:
        spec = json.loads(json_text(REPORT))["specs"]["standard"]
        ratios = {
            "torch": ("torch-tuned-eager-nchw", 1.5 * 1.4 * 1.5),
            "default_torch": ("torch-eager-nchw", 2 * 2 * 2.25),
            "bfloat16_torch": ("torch-bfloat16-compile-channels_last", 1.5 * 1.75 * 1.5),
        }
        for name, (variant, product) in ratios.items():
            assert spec[f"ratio_to_best_{name}"] == pytest.approx(product ** (1 / 3))
            assert spec[f"best_{name}"] == variant
        settings = {name: peer["settings"] for name, peer in spec["peers"].items()}
        assert settings["torch-tuned-eager-nchw"] == "tuned"
        assert settings["torch-jemalloc"] == "jemalloc"
        assert settings["torch-eager-nchw"] == settings["keras-jax"] == "default"
        assert spec["gemm_share"] == pytest.approx(0.25)
        assert spec["compile_s"] == 3.25
        assert spec["peak_memory_bytes"] == 500 * 2**20
        assert set(spec["peers"]) == {m.variant for m in BENCHMARK.measurements}

    def test_files_are_written(self, tmp_path: Any) -> None:
        path = session.write_report(REPORT, tmp_path)
        assert path.name == "20260102T030405Z.json"
        assert path.read_text() == json_text(REPORT)
        assert path.with_suffix(".md").read_text() == markdown(REPORT)

    def test_a_folder_that_cannot_be_created_is_reported_at_once(self, tmp_path: Any) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match=r"^--output .*file/a: .*not a directory; choose"):
            session.make_folder(tmp_path / "file" / "a")


class TestFamilies:
    def test_installed_frameworks_are_chosen_by_default(self) -> None:
        found = session.choose_families(None, {"torch": 1, "flax": 1}.get)
        assert (found.chosen, found.missing) == (("torch", "flax"), ("keras",))

    def test_named_frameworks_are_chosen_once(self) -> None:
        found = session.choose_families("flax, torch,flax", lambda _: True)
        assert (found.chosen, found.missing) == (("flax", "torch"), ())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "pytorch",
                "--against: unknown framework 'pytorch' (did you mean 'torch'?); "
                "write torch, keras or flax.",
            ),
            (" ,", "--against: no framework given; write torch, keras or flax."),
            (
                "flax,keras",
                "--against keras: Keras is not installed; run pip install 'cnnbench[peers]'.",
            ),
        ],
    )
    def test_unavailable_frameworks_are_refused(self, text: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            session.choose_families(text, {"flax": 1}.get)
        assert str(caught.value) == message

    def test_every_variant_of_a_family_follows_ours(self) -> None:
        names = [c.name for c in session.variants(("keras",))]
        assert names == ["cnnbench", "keras-jax", "keras-torch"]
