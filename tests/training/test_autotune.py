"""Strategies: candidates, choice and cache."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest

from cnnbench.nn.lowering import layers_in_c, winograd_layers
from cnnbench.nn.native import library
from cnnbench.nn.ops.convolution import EngineName
from cnnbench.runs.records import EngineRecord
from cnnbench.spec.loader import load_experiment
from cnnbench.training import autotune
from cnnbench.training.autotune import (
    MARGIN,
    _candidates,
    _timed,
    fastest,
    known_choice,
    measure,
    promising,
    race,
)
from cnnbench.training.events import Compiled, Remark, Trained, Tuning
from cnnbench.training.executables import Job
from cnnbench.training.strategy import (
    NATIVE,
    ROW,
    SMALL_ROW,
    Strategy,
    candidates,
    requested_strategy,
)
from tests.support.engines import needs_onednn
from tests.support.oracles import make_plan
from tests.support.paths import EXPERIMENTS
from tests.support.training import run_job
from tests.training.test_trainer import CLASSES, CONV, LINEAR, SHAPE, make_dataset, make_job

POOL = {"op": "max_pool", "size": 2}
NORM: dict[str, dict[str, Any]] = {"norm": {"op": "batch_norm"}}
WIDE: Any = {
    f"conv{i}": {"op": "conv", "filters": 64, "kernel": 3, "padding": "same"} for i in range(2)
}
FIRST = {"op": "conv", "filters": 64, "kernel": 1}
FOUND = (Strategy("fast", 5, 2, 1), Strategy("direct", 5, 2, 1), Strategy("plain", None, 1, 1))


@pytest.fixture(autouse=True)
def _nothing_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice does not depend on what is installed."""
    monkeypatch.setattr(autotune, "unavailable", lambda _form: "nothing is installed")


def found(layers: Any, batch_size: int, num_devices: int = 2, steps: int = 7) -> Any:
    plan = make_plan(layers, SHAPE, (CLASSES,))
    return candidates(plan, batch_size, steps, num_devices, accelerator=False)


def test_candidates_on_a_cpu_are_rows_on_all_cores_and_the_reference() -> None:
    assert found(CONV, 500) == (
        Strategy("fast", ROW, 2, 1),
        Strategy("direct", ROW, 2, 1),
        Strategy("whole", 250, 2, 1),
        Strategy("plain", None, 1, 1),
    )
    plan = make_plan(CONV, SHAPE, (CLASSES,))
    more = candidates(plan, 500, 7, 2, accelerator=False, native=NATIVE)
    odd = make_plan(NORM | CONV, SHAPE, (CLASSES,))  # type: ignore[operator]
    unequal = candidates(odd, 100, 7, 8, accelerator=False, native=NATIVE)
    assert not {*NATIVE} & {strategy.form for strategy in unequal}
    assert {*more} - {*found(CONV, 500)} == {Strategy(form, 250, 2, 1) for form in NATIVE}
    assert [s.form for s in found(LINEAR, 500)] == ["direct", "plain"]
    assert found(LINEAR, 7)[0] == Strategy("direct", 4, 2, 1)
    assert found(CONV, 1)[0] == Strategy("fast", 1, 1, 1)


@pytest.mark.parametrize("batch_size", [1, 7, 12, 26, 500])
@pytest.mark.parametrize("layers", [NORM | CONV, NORM | LINEAR], ids=["conv", "dense"])  # type: ignore[operator]
def test_rows_divide_a_batch_with_batch_norm(layers: Any, batch_size: int) -> None:
    for strategy in found(layers, batch_size):
        assert strategy.row is None or batch_size % strategy.row == 0


def test_batch_norm_without_convolution_trains_on_an_odd_batch_size() -> None:
    layers = NORM | dict(LINEAR)
    job = make_job(layers, make_dataset(7, 1, 1), num_devices=2, batch_size=7, epochs=1)
    assert isinstance(run_job(job)[-1], Trained)


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "row"), [(250, 2, 5), (100, 2, 10), (64, 2, 8), (9, 2, 9)]
)
def test_rows_with_batch_norm_fill_the_batch_and_all_devices(
    batch_size: int, num_devices: int, row: int
) -> None:
    plan = make_plan(NORM | CONV, SHAPE, (CLASSES,))  # type: ignore[operator]
    found = candidates(plan, batch_size, 10, num_devices, accelerator=False)
    assert found[0].row == row


def test_large_layers_with_batch_norm_take_small_rows() -> None:
    layers: Any = NORM | {"conv": {"op": "conv", "filters": 16, "kernel": 3}}
    rows = {
        side: candidates(
            make_plan(layers, (side, side, 1), (side - 2, side - 2, 16)),
            100, 10, 2, accelerator=False,
        )[0].row
        for side in (29, 30)  # 27 * 27 * 16 = 11,664 and 28 * 28 * 16 = 12,544 values
    }  # fmt: skip
    assert rows == {29: ROW, 30: SMALL_ROW}


@pytest.mark.parametrize(
    ("layers", "batch_size", "row"),
    [
        ({"norm": {"op": "layer_norm"}}, 100, 10),  # of the 50 images of a device, 15 fit
        ({"norm": {"op": "layer_norm"}}, 94, 47),  # prime
        (
            {"norm": {"op": "layer_norm"}, "wide": FIRST | {"filters": 1024}},
            100,
            50,
        ),  # no image fits
        ({"norm": {"op": "batch_norm"}}, 100, 50),
        ({"norm": {"op": "layer_norm"}, "other": {"op": "batch_norm"}}, 100, 50),
        ({}, 100, 50),
    ],
)
def test_layer_norms_in_c_read_rows_from_a_cache(layers: Any, batch_size: int, row: int) -> None:
    plan = make_plan(
        {"conv": FIRST, **layers, "head": {"op": "dense", "units": 3}}, (28, 28, 1), (3,)
    )
    found = candidates(plan, batch_size, 1, 2, accelerator=False, native=("onednn",))
    rows = {strategy.form: strategy.row for strategy in found}
    assert rows["onednn"] == row
    assert rows["whole"] == batch_size // 2


def test_winograd_is_excluded_for_bfloat16() -> None:
    plan = make_plan(CONV, SHAPE, (CLASSES,))
    found = candidates(plan, 500, 100, 2, accelerator=False, precision="bfloat16")
    assert [strategy.form for strategy in found] == ["direct", "plain"]


def test_candidates_on_an_accelerator_are_whole_epochs_with_products_and_the_reference() -> None:
    plan = make_plan(CONV, SHAPE, (CLASSES,))
    plain = Strategy("plain", None, 2, 100)
    assert candidates(plan, 500, 100, 3, accelerator=True) == (replace(plain, form="direct"), plain)


@pytest.mark.parametrize(
    ("layers", "batch_size"),
    [
        ({**NORM, **CONV}, 500),  # not measured
        (CONV, 10**9),  # more patches than memory
        (LINEAR, 500),  # no convolution
    ],
)
def test_other_networks_have_one_candidate_on_an_accelerator(layers, batch_size) -> None:
    plan = make_plan(layers, SHAPE, (CLASSES,))
    (strategy,) = candidates(plan, batch_size, 100, 1, accelerator=True)
    assert strategy == Strategy("plain", None, 1, 100)


@pytest.mark.slow
def test_single_steps_are_timed_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of an epoch is compiled only for the chosen engine."""
    monkeypatch.setattr(Job, "accelerator", True)
    monkeypatch.setattr(autotune, "fastest", lambda found, _: found[0])
    job = make_job(CONV, make_dataset(20, 3, 3), engine="auto", batch_size=5)
    *events, trained = run_job(job)
    assert Tuning() in events
    assert isinstance(trained, Trained)
    assert set(trained.engine.step_s) == {"direct", "plain"}
    assert (trained.engine.form, trained.engine.steps_per_call) == ("direct", 4)


def test_python_models_have_one_candidate() -> None:
    for accelerator in (False, True):
        (strategy,) = candidates(None, 500, 100, 1, accelerator=accelerator)
        assert strategy.form == "plain"


def test_the_requested_engine_is_used_or_the_next_plainer_one() -> None:
    assert requested_strategy("auto", FOUND) is None
    assert requested_strategy("auto", FOUND[2:]) == FOUND[2]
    for strategy in FOUND:
        assert requested_strategy(strategy.form, FOUND) == strategy
    assert requested_strategy("fast", FOUND[1:]) == FOUND[1]
    assert requested_strategy("direct", FOUND[2:]) == FOUND[2]


def times(**steps: Iterable[float]) -> dict[str, Callable[[], float]]:
    """Steppers that take given seconds, in order."""
    return {form: partial(next, iter(seconds)) for form, seconds in steps.items()}


def test_candidates_take_turns_until_one_is_clearly_the_fastest() -> None:
    order: list[str] = []
    seconds = {"direct": [9.0, 0.1, 0.1, 0.1], "plain": [0.2, 0.2, 0.3, 0.2]}

    def step(form: str) -> float:
        order.append(form)
        return seconds[form][order.count(form) - 1] / 100

    found = race(FOUND[1:], {form: partial(step, form) for form in seconds})
    assert found == {"direct": 0.001, "plain": 0.002}
    assert order == ["direct", "plain"] * (1 + autotune.STEPS)


def test_load_that_comes_and_goes_does_not_choose() -> None:
    """Both are as fast: timed one after the other, load in the second half chose the first."""
    direct = (0.1 if n < 3 else 0.3 for n in count())
    plain = (0.09 if n < 3 else 0.27 for n in count())
    found = race(FOUND[1:], times(direct=direct, plain=plain))
    assert fastest(FOUND[1:], found).form == "plain"


def test_a_close_race_takes_longer_but_not_for_long() -> None:
    steps = dict.fromkeys(("direct", "plain"), 0)

    def step(form: str, seconds: float) -> float:
        steps[form] += 1
        return seconds

    close = {"direct": partial(step, "direct", 0.010), "plain": partial(step, "plain", 0.0101)}
    race(FOUND[1:], close)
    assert steps == {"direct": autotune.MOST_STEPS + 1, "plain": autotune.MOST_STEPS + 1}
    steps |= dict.fromkeys(steps, 0)
    race(FOUND[1:], {form: partial(step, form, 0.5) for form in steps})
    assert steps == {"direct": 4, "plain": 4}  # 4 s
    steps |= dict.fromkeys(steps, 0)
    race(FOUND[1:], {form: partial(step, form, 5.0) for form in steps})
    assert steps == {"direct": 1, "plain": 1}


def test_a_hopeless_candidate_is_not_waited_for() -> None:
    """The first step of a candidate may be slow, because it is the first of all."""
    first = times(direct=iter([2.0, *[0.1] * 3]), plain=repeat(0.2))
    assert race(FOUND[1:], first) == {"direct": 0.1, "plain": 0.2}
    assert race(FOUND[1:], times(direct=[0.1] * 2, plain=[4.0])) == {"direct": 0.1, "plain": 4.0}
    assert race(FOUND[1:], times(direct=[0.1] * 2, plain=[1.0] * 2)) == {
        "direct": 0.1,
        "plain": 1.0,
    }


def test_fast_has_to_be_clearly_faster() -> None:
    def form(fast: float, direct: float, plain: float) -> str:
        return fastest(FOUND, {"fast": fast, "direct": direct, "plain": plain}).form

    assert form(1.0, MARGIN - 0.01, 9.0) == "direct"
    assert form(1.0, MARGIN + 0.01, 9.0) == "fast"
    assert form(2.0, 2.0, 1.99) == "plain"


@pytest.mark.parametrize(
    ("layers", "forms"),
    [
        ({"conv": {"op": "conv", "filters": 16, "kernel": 5}}, "fast whole"),
        ({"conv": {"op": "conv", "filters": 16, "kernel": 5}, "pool": POOL}, "fast whole"),
        ({"conv": {"op": "conv", "filters": 16, "kernel": 1}}, "whole"),
        ({"conv": {"op": "conv", "filters": 16, "kernel": 3, "groups": 8}}, "direct whole"),
        ({"conv": {"op": "conv", "filters": 16, "kernel": 7, "groups": 8}}, "direct whole"),
        ({"conv": {"op": "conv", "filters": 16, "kernel": 12, "groups": 8}}, "whole plain"),
        ({"conv": {"op": "conv", "filters": 16, "kernel": 3, "groups": 4}}, "whole plain"),
        ({"conv": {"op": "conv", "filters": 16, "kernel": 3, "dilation": 2}}, "whole plain"),
        ({"conv": {"op": "conv", "filters": 16, "kernel": 3}, "norm": NORM["norm"]}, "fast whole"),
        ({"flat": {"op": "flatten"}}, "direct plain"),
    ],
    ids=[
        *("winograd", "max pool", "products of pixels", "depthwise", "depthwise, large kernel"),
        *("depthwise, very large kernel", "grouped", "dilated", "batch norm", "no convolution"),
    ],
)
def test_auto_only_considers_engines_that_may_be_the_fastest(layers: Any, forms: str) -> None:
    plan = make_plan(layers | {"out": {"op": "dense", "units": 3}}, (12, 12, 8), (3,))
    found = candidates(plan, 100, 10, 2, accelerator=False)
    assert [strategy.form for strategy in promising(plan, found)] == forms.split()


@pytest.mark.slow
@pytest.mark.parametrize("native", [(), NATIVE])
def test_networks_that_compile_or_step_for_long_are_not_measured(
    native: tuple[EngineName, ...],
) -> None:
    """All of the zoo except small ones, whose engines are estimated to be about as fast."""
    measured = set()
    for path in sorted((EXPERIMENTS / "zoo").glob("*.yaml")):
        plan = load_experiment(path).plan
        assert plan is not None
        found = candidates(plan, 32, 10, 2, accelerator=False, native=native)
        measured |= {path.stem} if len(promising(plan, found)) > 1 else set()
    assert measured == {"vq_vae"} | (set() if native else {"airbench94", "lenet5", "unet"})


def test_a_convolution_with_its_max_pool_is_in_c_without_onednn_too() -> None:
    """In LeNet-5, no convolution gains from Winograd's algorithm."""
    plan = load_experiment(EXPERIMENTS / "zoo/lenet5.yaml").plan
    assert plan is not None
    assert not winograd_layers(plan)
    assert layers_in_c(plan) == {"conv1", "conv2"}
    usable: tuple[tuple[EngineName, ...], ...] = ((), ("winograd",), NATIVE)
    chosen = []
    for native in usable:
        found = candidates(plan, 128, 10, 2, accelerator=False, native=native)
        chosen.append([strategy.form for strategy in promising(plan, found)])
    assert chosen == [["fast", "whole"], ["winograd"], ["onednn"]]


def test_the_only_engine_that_fits_in_memory_is_never_ruled_out() -> None:
    plan = make_plan(CONV, SHAPE, (CLASSES,))
    assert promising(plan, FOUND[2:]) == FOUND[2:]


@pytest.mark.parametrize(
    ("path", "without", "onednn", "every"),
    [
        ("zoo/resnet.yaml", "whole", "onednn", "winograd"),
        ("zoo/wide_resnet.yaml", "whole", "onednn", "winograd"),
        ("zoo/preact_resnet18.yaml", "whole", "onednn", "winograd"),
        # With 32x32 pixels.
        ("zoo/convnext_tiny.yaml", "direct", "onednn", "onednn"),
        ("zoo/vit_tiny.yaml", "whole", "onednn", "onednn"),
        ("zoo/mlp_mixer.yaml", "direct", "onednn", "onednn"),
        ("zoo/mobilenet_v2.yaml", "whole", "onednn", "onednn"),
        # Faster with one or the other, depending on the processor.
        ("zoo/unet.yaml", "fast whole", "fast onednn", "winograd"),
        ("zoo/lenet5.yaml", "fast whole", "onednn", "onednn"),
        ("standard.yaml", "fast", "fast onednn", "winograd"),
        ("autoencoder.yaml", "fast", "fast onednn", "winograd"),
    ],
)
def test_known_networks_take_the_engine_that_was_measured_as_the_fastest(
    path: str, without: str, onednn: str, every: str
) -> None:
    plan = load_experiment(EXPERIMENTS / path).plan
    assert plan is not None
    usable: tuple[tuple[tuple[EngineName, ...], str], ...]
    usable = ((), without), (("onednn",), onednn), (NATIVE, every)
    for native, forms in usable:
        found = candidates(plan, 128, 10, 2, accelerator=False, native=native)
        assert [strategy.form for strategy in promising(plan, found)] == forms.split()


def test_auto_considers_native_engines_if_they_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def forms(engine: str, layers: Any = CONV) -> set[str]:
        job = make_job(layers, make_dataset(8, 1, 1), engine=engine, batch_size=4)
        return {strategy.form for strategy in _candidates(job)}

    assert not {*NATIVE} & forms("auto")
    assert forms("onednn") == {"onednn"}
    assert forms("winograd") == {"winograd"}
    monkeypatch.setattr(autotune, "unavailable", lambda _form: None)
    assert forms("auto") >= {"onednn"}
    assert not forms("auto") & {"whole", "winograd"}
    assert "winograd" in forms("auto", WIDE | LINEAR)
    assert forms("whole") == {"whole"}


def test_a_missing_compiler_is_named_where_c_would_be_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def advised(layers: Any, engine: str = "auto", **train: Any) -> str | None:
        job = make_job(layers | LINEAR, make_dataset(8, 1, 1), engine=engine, **train)
        return autotune.advice(job)

    assert advised(WIDE) == "convolutions in C would be faster: nothing is installed"
    assert advised(WIDE, "fast") is None
    assert advised(WIDE, precision="bfloat16") is None
    assert advised(WIDE, batch_size=3, num_devices=2) is None
    assert advised({}) is None
    monkeypatch.setattr(autotune, "unavailable", lambda _form: None)
    assert advised(WIDE) is None


def test_a_run_continues_without_c_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """And on accelerators, for which there is no C."""
    whole, fast = Strategy("whole", 4, 2, 1), Strategy("fast", 4, 2, 1)
    for form in NATIVE:
        assert autotune.usable(replace(whole, form=form), accelerator=False) == whole
    assert autotune.usable(fast, accelerator=False) == fast
    monkeypatch.setattr(autotune, "unavailable", lambda _form: None)
    for form in NATIVE:
        there = replace(whole, form=form)
        assert autotune.usable(there, accelerator=False) == there
        assert autotune.usable(there, accelerator=True) == whole


def test_ruled_out_engines_can_be_requested(cache: Path) -> None:
    options: dict[str, Any] = {"num_devices": 2, "batch_size": 4}
    for engine in ("fast", "direct", "whole", "plain"):
        job = make_job(CONV, make_dataset(8, 1, 1), engine=engine, **options)
        assert (choice := known_choice(job)) is not None
        assert choice.strategy.form == engine
    assert not cache.exists()


@pytest.fixture
def _all_promising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ruled out before it is measured."""
    monkeypatch.setattr(autotune, "promising", lambda _plan, found: found)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch, _all_promising: None) -> None:
    """Nothing is compiled for tests that replace the timing."""
    monkeypatch.setattr(autotune, "_programs", lambda _job, found: [None] * len(found))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path))
    return tmp_path / "engines"


@pytest.mark.usefixtures("uncompiled")
def test_a_choice_is_measured_once_and_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file, or one for other forms, is measured again."""
    measured = []

    def stepper(_job: Any, strategy: Strategy, _program: Any) -> Any:
        measured.append(strategy.form)
        return lambda: {"fast": 3.0, "direct": 2.0, "whole": 2.5, "plain": 4.0}[strategy.form]

    monkeypatch.setattr(autotune, "_stepper", stepper)
    job = make_job(CONV, make_dataset(8, 1, 1), engine="auto", num_devices=2, batch_size=4)
    assert known_choice(job) is None
    first = measure(job)
    assert first.strategy.form == "direct"
    (path,) = cache.iterdir()
    kept_choice = known_choice(job)
    assert kept_choice is not None
    assert kept_choice.measured_at is not None
    assert kept_choice.measured_at.utcoffset() == timedelta(0)
    assert kept_choice == replace(first, kept=path, how="kept", measured_at=kept_choice.measured_at)
    assert measured == ["fast", "direct", "whole", "plain"]
    kept = json.loads(path.read_text())
    assert kept["step_s"] == first.step_s
    damages = ["", "{", "[]", "{}"]
    for step_s in (
        None,
        {"fast": 1.0},
        {"fast": math.nan, "direct": 1.0, "plain": 1.0},
        {"fast": 1.0, "direct": "a", "plain": 1.0},
    ):
        damages.append(json.dumps(kept | {"step_s": step_s}))
    damages.append(json.dumps(kept | {"for": kept["for"] | {"task": "reconstruct"}}))
    damages += [json.dumps(kept | {"at": at}) for at in ("yesterday", 3)]
    for number, text in enumerate(damages, start=2):
        path.write_text(text)
        assert known_choice(job) is None
        assert measure(job) == first
        assert len(measured) == 4 * number


@pytest.mark.usefixtures("uncompiled")
def test_every_dependency_of_a_choice_invalidates_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change separately; the last two change nothing."""
    monkeypatch.setattr(autotune, "_stepper", lambda *_: lambda: 1.0)
    usual: dict[str, Any] = {"engine": "auto", "num_devices": 2, "batch_size": 4}
    small = make_dataset(8, 1, 1)
    measure(make_job(CONV, small, **usual))
    wider = {name: dict(op) for name, op in CONV.items()}
    next(iter(wider.values()))["activation"] = "tanh"
    classes = replace(small, info=replace(small.info, num_classes=CLASSES + 1))
    others = [
        make_job(CONV, small, **usual | {"batch_size": 2}),
        make_job(CONV, small, **usual | {"num_devices": 1}),
        make_job(wider, small, **usual),
        make_job(CONV, small, **usual, precision="bfloat16"),
        make_job(CONV, small, **usual, optimizer={"name": "adam"}),
        make_job(CONV, classes, **usual),
    ]
    assert [known_choice(job) for job in others] == [None] * len(others)
    for patched in ("cnnbench.training.autotune.version", "cnnbench.training.autotune.processor"):
        with monkeypatch.context() as patch:
            patch.setattr(patched, lambda *_: "another")
            assert known_choice(make_job(CONV, small, **usual)) is None
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        assert known_choice(make_job(CONV, small, **usual)) is None
    same = [
        make_job(CONV, make_dataset(8, 2, 2), **usual),
        make_job(CONV, small, **usual, epochs=9),
    ]
    assert None not in [known_choice(job) for job in same]


@pytest.mark.usefixtures("uncompiled")
def test_an_unwritable_cache_folder_is_harmless(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "_stepper", lambda *_: lambda: 1.0)
    cache.write_text("a file where the folder should be")
    job = make_job(CONV, make_dataset(8, 1, 1), engine="auto", batch_size=4)
    assert measure(job).strategy.form == "direct"


def test_the_reference_is_timed_on_a_shortened_network() -> None:
    """It is compiled without loops; two of six equal layers are left out."""
    chain = {name: {"op": "dense", "units": 4} for name in "abcdef"}
    layers = chain | {"out": {"op": "dense", "units": CLASSES}}
    job = make_job(layers, make_dataset(8, 1, 1), engine="auto", num_devices=2, batch_size=4)
    timed = {strategy.form: _timed(job, strategy).plan for strategy in _candidates(job)}
    lengths = {form: len(plan.nodes) for form, plan in timed.items() if plan}
    assert lengths == {"direct": 7, "plain": 5}


@pytest.mark.usefixtures("_all_promising")
def test_auto_really_measures(cache: Path) -> None:
    job = make_job(
        CONV, make_dataset(8, 1, 1), engine="auto", num_devices=2, batch_size=4, epochs=1
    )
    tuned, compiled, *_, trained = run_job(job)
    assert isinstance(tuned, Tuning)
    assert isinstance(compiled, Compiled)
    assert isinstance(trained, Trained)
    engine = trained.engine
    assert engine.requested == "auto"
    assert set(engine.step_s) == {"fast", "direct", "whole", "plain"}
    assert all(0 < seconds < 10 for seconds in engine.step_s.values())
    assert engine.form in engine.step_s
    assert engine.tune_s > 0
    assert len(list(cache.iterdir())) == 1


@needs_onednn
def test_a_run_with_onednn_records_its_version() -> None:
    def engine(name: str) -> EngineRecord:
        *_, trained = run_job(
            make_job(CONV, make_dataset(8, 1, 1), engine=name, num_devices=2, batch_size=4)
        )
        assert isinstance(trained, Trained)
        return trained.engine

    assert (engine("onednn").form, engine("onednn").onednn) == ("onednn", library.number())
    assert not engine("whole").onednn


@pytest.mark.usefixtures("uncompiled")
def test_a_choice_of_a_busy_machine_is_measured_again_when_it_is_idle(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "_stepper", lambda *_: lambda: 1.0)
    job = make_job(CONV, make_dataset(8, 1, 1), engine="auto", num_devices=2, batch_size=4)
    monkeypatch.setattr(autotune, "load_per_cpu", lambda: 3.0)
    measure(job)
    assert known_choice(job) is not None  # as busy as then
    monkeypatch.setattr(autotune, "load_per_cpu", lambda: 0.1)
    assert known_choice(job) is None
    measure(job)
    assert known_choice(job) is not None
    (path,) = cache.iterdir()
    assert json.loads(path.read_text())["load"] == 0.1


@pytest.mark.usefixtures("uncompiled")
def test_retune_measures_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_stepper", lambda *_: lambda: 1.0)
    job = make_job(CONV, make_dataset(8, 1, 1), engine="auto", num_devices=2, batch_size=4)
    measure(job)
    assert known_choice(replace(job, retune=True)) is None
    assert known_choice(replace(job, retune=True, engine="fast")) is not None  # nothing to measure
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("uncompiled")
def test_a_choice_that_is_slower_than_promised_is_forgotten(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "_stepper", lambda *_: lambda: 2.0)
    job = make_job(CONV, make_dataset(8, 1, 1), engine="auto", num_devices=2, batch_size=4)
    now = measure(job)
    assert autotune.doubt(now, 100.0) is None  # it was measured for this training
    kept = known_choice(job)
    assert kept is not None
    assert autotune.doubt(kept, 2.9) is None
    assert len(list(cache.iterdir())) == 1
    assert autotune.doubt(kept, 4.2) == (
        "a step takes 2.1x as long as when engine direct was chosen; the next run measures again"
    )
    assert known_choice(job) is None


@pytest.mark.usefixtures("_all_promising")
@pytest.mark.parametrize(("promised", "doubted"), [(1e-9, True), (1e3, False)])
def test_the_first_epoch_shows_whether_a_kept_choice_was_right(
    promised: float, doubted: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "_stepper", lambda *_: lambda: promised)
    job = make_job(
        CONV, make_dataset(40, 1, 1), engine="auto", num_devices=2, batch_size=4, epochs=2
    )
    measure(job)
    remarks = [event.text for event in run_job(job) if isinstance(event, Remark)]
    assert len(remarks) == doubted
    assert all(text.endswith("was chosen; the next run measures again") for text in remarks)
    assert len(list(cache.iterdir())) == (not doubted)
