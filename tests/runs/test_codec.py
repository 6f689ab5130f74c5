"""The values of a run and their JSON form."""

import dataclasses
import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.verdict import Criteria
from cnnbench.data.splits import RandomSplit
from cnnbench.errors import Location, StoreError
from cnnbench.report import csv_json
from cnnbench.runs import codec
from cnnbench.runs.cost import Cost
from cnnbench.runs.records import (
    FORMAT_VERSION,
    BestValue,
    DatasetRecord,
    Direction,
    EngineRecord,
    Environment,
    EpochRecord,
    Extension,
    Machine,
    RunRecord,
    SeedSummary,
    Status,
    Summary,
    SweepTrial,
)
from cnnbench.runs.summary import summarize_seed
from cnnbench.statistics.looks import Looks, Reason
from cnnbench.system.stopwatch import Timing
from tests.support.pages import documented, flat_keys
from tests.support.paths import ROOT
from tests.support.samples import make_run, on_device, with_record

DAMAGED = "; restore the file from a copy, or remove the run's folder."
FOLDER_PAGE = ROOT / "docs" / "reference" / "run-folder.md"

floats = st.floats()
texts = st.text(st.characters(), max_size=20)  # lone surrogates too: a command line has them
counts = st.integers(0, 10**12)
names = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True).filter(lambda n: n != "loss")
metric_values = st.dictionaries(names, floats, max_size=3)
zones = st.timezones() | st.just(timezone(timedelta(hours=-3, minutes=-30)))
times = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=zones)
epochs = st.builds(
    EpochRecord, counts, counts, floats, floats, metric_values, *[floats] * 3, counts
)
timings = st.builds(Timing, *[floats] * 5)
engines = st.builds(
    EngineRecord,
    texts,
    texts,
    st.none() | counts,
    counts,
    counts,
    counts,
    st.dictionaries(names, floats, max_size=3),
    floats,
    texts,
    floats,
    st.none() | counts,
)
datasets = st.builds(
    DatasetRecord, texts, texts, texts, st.none() | texts, counts, counts, counts, texts
)
environments = st.builds(
    Environment,
    *[texts] * 9,
    counts,
    texts,
    texts,
    counts,
    st.none() | texts,
    st.none() | st.booleans(),
    st.lists(texts, max_size=4).map(tuple),
    st.none() | floats,
    st.none() | st.dictionaries(texts, texts, max_size=3),
)
records = st.builds(
    RunRecord,
    *[texts] * 3,
    st.sampled_from(["classify", "reconstruct"]),
    texts,
    st.sampled_from(Status),
    times,
    st.none() | times,
    st.none() | texts,
    st.none() | timings,
    st.none() | engines,
    st.lists(counts, max_size=4).map(tuple),
    counts,
    counts,
    texts,
    datasets,
    environments,
    resumed_at=st.lists(times, max_size=3).map(tuple),
    resumed_with=st.lists(st.dictionaries(texts, texts, max_size=2), max_size=3).map(tuple),
)
costs = st.builds(
    Cost,
    st.none() | counts,
    *[st.none() | floats] * 2,
    st.none() | counts,
    floats,
    st.none() | floats,
    counts,
    floats,
)


machines = st.builds(
    Machine, texts, counts, st.sampled_from(["cpu", "gpu"]), texts, counts, *[texts] * 7
)


def summaries_of(metrics: dict[str, Direction]) -> st.SearchStrategy[Summary]:
    """Each seed has a value of each metric."""
    values = st.fixed_dictionaries(dict.fromkeys(metrics, floats))
    bests = st.fixed_dictionaries(dict.fromkeys(metrics, st.builds(BestValue, floats, counts)))
    seeds = st.builds(
        SeedSummary,
        *(counts, values, bests, values, floats, floats, floats),
        st.none() | counts,
        st.none() | floats,
        st.none() | texts,
        machine=st.none() | machines,
    )
    metric = st.just(metrics)
    seeds_list = st.lists(seeds, max_size=3).map(tuple)
    return st.builds(Summary, counts, floats, names, metric, seeds_list, st.none() | costs)


summaries = st.dictionaries(names, st.sampled_from(Direction), max_size=3).flatmap(summaries_of)


def same(a: object, b: object) -> bool:
    """Equality in which NaN equals NaN, by way of Python's own text of a value."""
    return repr(a) == repr(b)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


class TestRoundTrip:
    @given(epochs)
    def test_epoch(self, epoch: EpochRecord) -> None:
        line = codec.encode_epoch(epoch)
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert same(codec.decode_epoch(line, Location("epochs.jsonl", 1)), epoch)

    @given(records)
    def test_record(self, record: RunRecord) -> None:
        read = codec.decode_record(codec.encode_record(record), "run.json")
        # In UTC before comparing: Python holds a time in the hour that a clock change
        # repeats equal to no time of another zone (PEP 495).
        assert read.started_at == record.started_at.astimezone(UTC)
        assert read.started_at.tzinfo is UTC
        assert codec.encode_record(read) == codec.encode_record(record)
        for part in ("timing", "engine", "environment", "seeds", "dataset"):
            assert same(getattr(read, part), getattr(record, part))

    @given(summaries)
    def test_summary(self, summary: Summary) -> None:
        read = codec.decode_summary(codec.encode_summary(summary), "summary.json")
        assert same(read, summary)

    @given(epochs)
    def test_any_json_reader_can_read_it(self, epoch: EpochRecord) -> None:
        json.loads(codec.encode_epoch(epoch), parse_constant=refuse_constant)


def test_epoch_line_has_the_documented_flat_form() -> None:
    epoch = EpochRecord(3, 1, math.inf, math.nan, {"accuracy": 0.75}, 2.0, 0.5, -math.inf)
    assert codec.encode_epoch(epoch) == (
        b'{"seed": 3, "epoch": 1, "train_loss": "Infinity", "validation_loss": "NaN", '
        b'"validation_accuracy": 0.75, "train_s": 2.0, "eval_s": 0.5, '
        b'"samples_per_s": "-Infinity", "at_once": 1, "data_s": 0.0, "beside": 0}\n'
    )


def test_a_line_from_before_seeds_were_trained_at_once_is_of_one_seed() -> None:
    epoch = make_run().epochs[0]
    line = codec.encode_epoch(epoch).replace(b', "at_once": 1', b"")
    assert codec.decode_epoch(line, Location("epochs.jsonl", 1)) == epoch


def test_a_run_from_before_costs_were_measured_has_none() -> None:
    run = make_run()
    assert run.summary is not None
    document = json.loads(codec.encode_summary(run.summary))
    del document["cost"]
    read = codec.decode_summary(json.dumps(document).encode(), "summary.json")
    assert read == dataclasses.replace(run.summary, cost=None)
    document = json.loads(codec.encode_record(run.record))
    for name in ("load_per_cpu", "settings"):
        del document["environment"][name]
    del document["resumed_with"]
    record = codec.decode_record(json.dumps(document).encode(), "run.json")
    assert (record.environment.load_per_cpu, record.environment.settings) == (None, None)
    assert record.resumed_with == ()


def test_times_are_written_in_utc() -> None:
    assert b'"started_at": "2025-11-23T06:30:12.345678Z"' in codec.encode_record(make_run().record)


GOOD_LINE = codec.encode_epoch(make_run().epochs[0]).decode()
BAD_LINES = [
    ("", "e.jsonl:7:1: not JSON: Expecting value"),
    ('{"seed": 0', "e.jsonl:7:11: not JSON: Expecting ',' delimiter"),
    ("[1]", "e.jsonl:7: [1] is not an object"),
    ("{}", "e.jsonl:7: field 'seed' is missing"),
    (GOOD_LINE.replace('"seed": 0', '"seed": true'), "e.jsonl:7: seed: True is not an integer"),
    (GOOD_LINE.replace('"seed": 0', '"seed": 0.0'), "e.jsonl:7: seed: 0.0 is not an integer"),
    (
        GOOD_LINE.replace('"eval_s": 0.5', '"eval_s": "0.5"'),
        "e.jsonl:7: eval_s: '0.5' is not a number",
    ),
    (
        GOOD_LINE.replace('"eval_s": 0.5', '"eval_s": null'),
        "e.jsonl:7: eval_s: None is not a number",
    ),
    (GOOD_LINE.replace('"eval_s": 0.5', '"eval_s": NaN'), "e.jsonl:7: not JSON: a bare NaN"),
    (
        GOOD_LINE.replace('"eval_s": 0.5', '"eval_s": 1e999'),
        "e.jsonl:7: eval_s: the number is too large",
    ),
    (
        GOOD_LINE.replace('"eval_s": 0.5', f'"eval_s": {"9" * 5000}'),
        "e.jsonl:7: eval_s: the number is too large",
    ),
    (
        GOOD_LINE.replace('"seed": 0', f'"seed": {"9" * 5000}'),
        "e.jsonl:7: seed: inf is not an integer",
    ),
    (
        GOOD_LINE.replace("eval_s", "evals_s"),
        "e.jsonl:7: unknown field 'evals_s' (did you mean 'eval_s'?)",
    ),
    (GOOD_LINE.replace('"seed": 0', '"metrics": 0'), "e.jsonl:7: unknown field 'metrics'"),
    (
        GOOD_LINE.replace('"eval_s": 0.5', '"seed": 0, "eval_s": 0.5'),
        "e.jsonl:7: duplicate field 'seed'",
    ),
    (
        re.sub(r'(validation_accuracy": )[^,]*', r"\1[]", GOOD_LINE),
        "e.jsonl:7: validation_accuracy: [] is not a number",
    ),
    ("[" * 100_000, "e.jsonl:7: nested too deeply"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[m for _, m in BAD_LINES])
def test_a_bad_line_is_refused_with_its_place(line: str, message: str) -> None:
    with pytest.raises(StoreError) as caught:
        codec.decode_epoch(line.encode(), Location("e.jsonl", 7))
    assert str(caught.value) == message + DAMAGED


def test_a_line_that_is_no_text_is_refused() -> None:
    with pytest.raises(StoreError, match=re.escape(f"e.jsonl:7: not UTF-8 text{DAMAGED}")):
        codec.decode_epoch(b'{"seed": "\xff"}', Location("e.jsonl", 7))


BAD_RECORDS = [
    ('"finished"', '"done"', "status: 'done' is not running, finished, failed or interrupted"),
    ('"data_s": 0.25', '"data_s": "a"', "timing.data_s: 'a' is not a number"),
    ('"data_s": 0.25,', "", "timing: field 'data_s' is missing"),
    ('"dirty": false', '"dirty": 0', "environment.dirty: 0 is not true or false"),
    ('"cnnbench",\n', "1,\n", "environment.command[0]: 1 is not a string"),
    ("30:12.345678Z", "30:12", "started_at: '2025-11-23T06:30:12' is not in UTC"),
    ("12.345678Z", "12+01:00", "started_at: '2025-11-23T06:30:12+01:00' is not in UTC"),
    ("2025-11-23T06:30:12.345678Z", "today", "started_at: 'today' is not an ISO 8601 time"),
    ('"seeds": [\n    0\n  ]', '"seeds": {}', "seeds: {} is not a list"),
    ('"format_version": 3,', "", "format_version: None is not a format version"),
    ('version": 3', 'version": true', "format_version: True is not a format version"),
    ('version": 3', 'version": 0', "format_version: 0 is not a format version"),
]


@pytest.mark.parametrize(("good", "bad", "message"), BAD_RECORDS)
def test_a_bad_record_is_refused_with_its_field(good: str, bad: str, message: str) -> None:
    text = codec.encode_record(make_run().record).decode()
    assert text.count(good) == 1
    with pytest.raises(StoreError) as caught:
        codec.decode_record(text.replace(good, bad).encode(), "r/run.json")
    assert str(caught.value) == f"r/run.json: {message}{DAMAGED}"


def test_a_time_without_zone_is_not_written() -> None:
    record = with_record(make_run(), started_at=datetime(2025, 11, 23)).record
    with pytest.raises(ValueError, match=r"^time without a time zone: 2025-11-23 00:00"):
        codec.encode_record(record)


def test_a_broken_document_is_refused_with_line_and_column() -> None:
    with pytest.raises(StoreError) as caught:
        codec.decode_summary(b'{\n  "num_params": ,\n}', "r/summary.json")
    assert str(caught.value) == "r/summary.json:2:17: not JSON: Expecting value" + DAMAGED


def test_a_newer_version_is_refused_by_its_number() -> None:
    with pytest.raises(StoreError) as caught:
        codec.decode_record(b'{"format_version": 4, "anything": []}', "r/run.json")
    assert str(caught.value) == (
        "r/run.json: format_version: version 4 is newer than this cnnbench supports (3); "
        "install a newer cnnbench."
    )


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "ignore")))
def test_arbitrary_bytes_never_crash_a_reader(content: bytes) -> None:
    with pytest.raises(StoreError, match=r"^x\.json"):
        codec.decode_record(content, "x.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.data())
def test_any_value_in_any_field_is_read_or_refused_by_name(data: st.DataObject) -> None:
    fields = json.loads(codec.encode_record(make_run().record))
    name = data.draw(st.sampled_from([n for n in fields if n != "format_version"]))
    fields[name] = data.draw(json_values)
    try:
        content = json.dumps(fields, allow_nan=False)
    except ValueError:  # infinity
        return
    try:
        codec.decode_record(content.encode(), "x.json")
    except StoreError as error:
        assert str(error).startswith(f"x.json: {name}")  # noqa: PT017


class TestSummarizeSeed:
    def test_best_is_the_first_of_equals_and_follows_the_direction(self) -> None:
        values = [(0.5, 0.8), (0.4, 0.9), (0.4, 0.9), (0.6, 0.7)]
        summary = summarize_seed(
            [
                EpochRecord(7, n, 0.0, loss, {"accuracy": accuracy}, 2.0, 1.0, 1.0)
                for n, (loss, accuracy) in enumerate(values, start=1)
            ],
            metrics={"accuracy": Direction.HIGHER, "loss": Direction.LOWER},
            test={"accuracy": 0.85},
            compile_s=3.0,
        )
        assert summary == SeedSummary(
            seed=7,
            final={"accuracy": 0.7, "loss": 0.6},
            best={"accuracy": BestValue(0.9, 2), "loss": BestValue(0.4, 2)},
            test={"accuracy": 0.85},
            compile_s=3.0,
            train_s=8.0,
            eval_s=4.0,
        )

    @pytest.mark.parametrize("direction", Direction)
    def test_nan_is_never_the_best(self, direction: Direction) -> None:
        epochs = [
            EpochRecord(0, n, 0.0, loss, {}, 1.0, 1.0, 1.0)
            for n, loss in enumerate([math.nan, 2.0, math.nan], start=1)
        ]
        summary = summarize_seed(epochs, metrics={"loss": direction}, test={}, compile_s=0.0)
        assert summary.best == {"loss": BestValue(2.0, 2)}


def general_keys(value: object) -> set[str]:
    """Dotted paths of a JSON value; names of metrics and forms become METRIC and FORM."""
    metric = re.compile(r"(?<=\.)(accuracy|loss)\b")
    form = re.compile(r"(?<=\.)(plain|direct|fast)\b")
    return {form.sub("FORM", metric.sub("METRIC", key)) for key in flat_keys(value)}


def leaves(keys: set[str]) -> set[str]:
    """Keys that hold no others."""
    return {k for k in keys if not any(other.startswith((f"{k}.", f"{k}[]")) for other in keys)}


class TestDocumentation:
    def test_run_json(self) -> None:
        run = on_device(make_run(), settings={"NAME": "value"})
        extended = (Extension(run.record.started_at, 2, ("cnnbench",)),)
        record = dataclasses.replace(
            run.record, resumed_with=({"NAME": "value"},), extended=extended
        )
        dataset = dataclasses.replace(record.dataset, split=RandomSplit())
        looks = Looks(
            (4,), (0.03,), 0.05, "unpaired", 1, "", "0", (0, 1, 2, 3), (0.01,), Reason.DECIDED
        )
        sweep = SweepTrial("1fcb27c9", 1, {"KEY": "3"})
        record = dataclasses.replace(record, dataset=dataset, looks=looks, sweep=sweep)
        fields = json.loads(codec.encode_record(record))
        assert leaves(documented("run-folder.md", "`run.json`")) == general_keys(fields)

    def test_epochs_jsonl(self) -> None:
        fields = json.loads(GOOD_LINE)
        keys = {"validation_METRIC" if k == "validation_accuracy" else k for k in fields}
        assert documented("run-folder.md", "`epochs.jsonl`") == keys

    def test_summary_json(self) -> None:
        fields = json.loads(codec.encode_summary(make_run().summary))  # type: ignore[arg-type]
        assert leaves(documented("run-folder.md", "`summary.json`")) == general_keys(fields)

    def test_csv(self) -> None:
        header = csv_json.csv_text([compare([make_run()])]).splitlines()[0]
        assert documented("tables.md", "CSV") == set(header.split(","))

    def test_json(self) -> None:
        runs = [make_run(), make_run("modified")]
        criteria = Criteria(target="98%")
        fields = json.loads(csv_json.json_text([compare(runs, criteria)]))["comparisons"][0]
        rows = {f"rows[].{key}" for key in fields["rows"][0]}
        verdicts = {f"verdicts[].{key}" for key in fields["verdicts"][0]}
        (cost, _) = fields["costs"]
        costs = {f"costs[].{key}" for key in cost} | {f"costs[].cost.{key}" for key in cost["cost"]}
        costs |= {f"costs[].target.{key}" for key in cost["target"]}
        keys = set(fields) | rows | verdicts | costs
        assert documented("tables.md", "JSON") == keys

    def test_version_history(self) -> None:
        table = FOLDER_PAGE.read_text().split("| `format_version` | Change |\n|---|---|\n")[1]
        rows = [line.split("|")[1].strip() for line in table.split("\n\n")[0].splitlines()]
        assert rows == [str(version) for version in range(1, FORMAT_VERSION + 1)]


def test_version_1_is_read() -> None:
    """It had no `resumed_at` and no `diverged`."""
    run = make_run()
    record = json.loads(codec.encode_record(run.record)) | {"format_version": 1}
    del record["resumed_at"]
    assert codec.decode_record(json.dumps(record).encode(), "run.json") == run.record
    assert run.summary is not None
    summary = json.loads(codec.encode_summary(run.summary)) | {"format_version": 1}
    for seed in summary["seeds"]:
        del seed["diverged"]
    assert codec.decode_summary(json.dumps(summary).encode(), "summary.json") == run.summary
