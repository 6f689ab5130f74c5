"""The JSON Schema of experiment files accepts and rejects the same files as the loader."""

import contextlib
import copy
import functools
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import best_match
from pydantic import ValidationError
from typer.testing import CliRunner

from benchmarks import random_specs
from cnnbench.cli.app import app
from cnnbench.errors import SpecError
from cnnbench.layers import OPERATIONS
from cnnbench.spec.document import parse_document
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.inheritance import read_with_parents
from cnnbench.spec.json_schema import block_names, schema, schema_text
from cnnbench.spec.loader import load_experiment
from tests.support.golden import approved
from tests.support.paths import ROOT

SCHEMA = schema()
VALIDATOR = Draft202012Validator(SCHEMA)
GOOD = sorted(
    [*(ROOT / "experiments").rglob("*.yaml"), *(ROOT / "tests/report/page_specs").glob("*.yaml")]
)
BAD = sorted((ROOT / "tests/spec/bad_specs").glob("*.yaml"))


def issue(data: Any) -> str:
    """Location and text of the first issue; empty if valid."""
    found = best_match(VALIDATOR.iter_errors(data))
    return f"{found.json_path}: {found.message}" if found else ""


def read(text: str) -> Any:
    return parse_document(text.encode(), "a.yaml").data


def extending(text: str) -> Any:
    return read(f"extends: standard.yaml\nname: idea\n{text}")


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)
    assert "prefixItems" not in schema_text()
    assert "unevaluatedProperties" not in schema_text()


@pytest.mark.parametrize("path", GOOD, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.sampled(12)
def test_valid_files_and_their_resolved_forms_are_valid(path):
    for text in (path.read_text(), load_experiment(path).resolved()):
        data = read(text)
        assert issue(data) == ""
        assert Draft7Validator(SCHEMA).is_valid(data)


def test_random_networks_are_valid():
    for number in range(10):
        assert issue(read(random_specs.spec_text(number))) == ""


def pydantic_takes(data: Any) -> bool:
    try:
        Experiment.model_validate(data)
    except ValidationError:
        return False
    return True


def readable() -> Iterator[tuple[str, Any]]:
    """The corpus of invalid files, except files with YAML errors."""
    for path in BAD:
        with contextlib.suppress(SpecError):
            document = parse_document(path.read_bytes(), path.name)
            if not document.problems:
                yield path.stem, document.data


def test_wrong_values_are_marked_and_only_they():
    """Pydantic is the oracle; what ties one value to another is neither's business."""
    whole = {name: data for name, data in readable() if "extends" not in (data or {})}
    marked = {name for name, data in whole.items() if issue(data)}
    refused = {name for name, data in whole.items() if not pydantic_takes(data)}
    # JSON has one kind of number, which is 5 where it is 5.0, and neither NaN nor infinity; JSON
    # Schema has no increasing order.
    assert refused - marked == {"not_finite", "overflow", "milestones"}
    assert marked - refused == {"layer_names"}  # which the loader refuses later
    assert len(marked) >= 30


def test_wrong_ways_to_extend_are_marked():
    marked = {name for name, data in readable() if "extends" in (data or {}) and issue(data)}
    assert marked == {
        "extends_absolute",
        "extends_number",
        "extends_outside",
        "extends_replaces_places",
        "name_not_inherited",
    }


STANDARD = read((ROOT / "experiments/standard.yaml").read_text())
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    3,
    -1,
    0.5,
    "",
    "relu",
    "adam",
    "mse",
    [],
    [1],
    [1, 2],
    {},
)
KEYS = ("kernel", "units", "every", "rate", "name", "op", "spare")


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in data.items() if isinstance(data, dict) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


@settings(max_examples=50)
@given(st.sampled_from(list(places(STANDARD))), st.sampled_from(VALUES), st.sampled_from(KEYS))
def test_a_mutated_file_is_valid_iff_pydantic_accepts_it(at, value, key):
    """Replaces one value or its key, or removes both."""
    for change in ({at[-1]: value}, {key: None}, {}):
        data = copy.deepcopy(STANDARD)
        inner = functools.reduce(dict.__getitem__, at[:-1], data)
        old = inner.pop(at[-1])
        inner |= {name: old if new is None and name == key else new for name, new in change.items()}
        assert (issue(data) == "") == pydantic_takes(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "title: Idea",
        "model: {layers: {conv1: {kernel: 7}}}",
        "model: {layers: {conv1: {kernel: [3, 5], padding: same}, drop1: null}}",
        "model: {layers: {conv1: null, new: {op: dense, units: 5}}, output: null}",
        "model: {layers: {pool1: {op: avg_pool, size: 2, stride: null}}}",
        "train: {epochs: 5, optimizer: adam, schedule: {name: cosine}}",
        "train: {optimizer: {learning_rate: 0.1}, loss: null}",
        "train: null\nseeds: 5",
        "dataset: {splits: null, offline: null}\ncheckpoint: {every: 0}",
    ],
)
def test_a_file_with_extends_may_omit_and_unset_keys(text, tmp_path):
    assert issue(extending(text)) == ""
    (tmp_path / "standard.yaml").write_text((ROOT / "experiments/standard.yaml").read_text())
    (tmp_path / "idea.yaml").write_text(f"extends: standard.yaml\nname: idea\n{text}")
    assert pydantic_takes(read_with_parents(tmp_path / "idea.yaml").data)


@pytest.mark.parametrize("key", ["learning_rate: 0.1", "momentum: 0.5, nesterov: false", ""])
def test_options_without_a_name_are_those_of_the_default(key):
    data = read((ROOT / "experiments/mlp.yaml").read_text())
    data["train"] |= read(f"optimizer: {{{key}}}\nschedule: {{}}")
    assert issue(data) == ""
    assert pydantic_takes(data)
    for section in ("optimizer: {b1: 0.5}", "schedule: {every: 2}"):
        wrong = data | {"train": data["train"] | read(section)}
        assert issue(wrong)
        assert not pydantic_takes(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", r"^\$: .*'modle' was unexpected"),
        ("model: {layers: {conv1: {kernal: 7}}}", r"layers.conv1: .*'kernal' was unexpected"),
        ("model: {layers: {conv1: {op: conv, units: 7}}}", "conv1: .*'units' was unexpected"),
        ("model: {layers: {conv1: {op: cnov}}}", "conv1.op: 'cnov' is not one of .*'conv'"),
        ("model: {layers: {conv1: {kernel: seven}}}", "kernel: 'seven' is not "),
        ("model: {layers: {conv1: {kernel: 0}}}", "kernel: 0 is less than the minimum of 1"),
        ("train: {optimizer: amad}", "optimizer: 'amad' is not valid"),
        ("train: {optimizer: {name: sgd, b1: 0.5}}", "optimizer: .*'b1' was unexpected"),
        ("train: {epochs: many}", "epochs: 'many' is not "),
        ("seeds: [0, 0]", r"seeds: \[0, 0\] has non-unique elements"),
        ("title: null", "title: None is not of type 'string'"),
    ],
)
def test_a_file_that_extends_another_is_checked_all_the_same(text, message):
    assert re.search(message, issue(extending(text)))


CALLS = """
extends: mine.yaml
name: idea
model:
  params: {n: 5}
  blocks: {basic: {params: {kernel: large}, layers: {a: {scale: 0.5, unknown: [x]}}}}
  layers:
    stage: {repeat: 5, weights: shared, first: {stride: 2}, last: null}
    stage2: {scale: 2.5, center: left, size: small, unknown: {times: [16, $n]}}
    stage2.1: {filters: 64}
    stage3: {block: other, unknown: true}
    old: null
"""


def test_parameters_of_a_call_in_a_child_file_are_not_marked():
    assert issue(read(CALLS)) == ""
    assert Draft7Validator(SCHEMA).is_valid(read(CALLS))
    wrong = CALLS.replace("stage3: {block: other", "stage3: {block: 3")
    assert "3 is not of type 'string'" in issue(read(wrong))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_call_may_be_changed_in_a_child_file(path):
    model = read_with_parents(path).data["model"]
    for name, layer in model.get("layers", {}).items():
        if "block" in layer:
            changed = {key: value for key, value in layer.items() if key != "block"}
            child = {"extends": "mine.yaml", "name": "a", "model": {"layers": {name: changed}}}
            assert issue(child) == ""


def offered(part: Any, value: Any, *at: str) -> set[str]:
    """Keys that an editor completes at a place of a file."""
    if "$ref" in part:
        return offered(KNOWN["$defs"][part["$ref"].rpartition("/")[2]], value, *at)
    found = set[str]()
    if at:
        name, *rest = at
        inner = part.get("properties", {}).get(name)
        patterns = part.get("patternProperties", {})
        inner = inner or next((p for k, p in patterns.items() if re.search(k, name)), None)
        inner = inner or part.get("additionalProperties")
        found |= offered(inner, value[name], *rest) if inner else set()
    else:
        found |= set(part.get("properties", {}))
    branches = [*part.get("allOf", []), *part.get("anyOf", [])]
    if "if" in part:
        condition = Draft202012Validator({**part["if"], "$defs": KNOWN["$defs"]})
        branches.append(part.get("then" if condition.is_valid(value) else "else", {}))
    return found.union(*(offered(branch, value, *at) for branch in branches))


KNOWN = schema(block_names([ROOT / "experiments/zoo/resnet.yaml"]))
OPERATION_KEYS = {"kernel", "rate"}  # completed where the kind of a layer is not known


@pytest.mark.parametrize(
    ("layers", "name", "last"),
    [
        ("{a: {block: basic}}", "a", None),
        ("{a: {block: basic, first: {}}}", "a", "first"),
        ("{stage1: {}}", "stage1", None),
        ("{stage1.2: {}}", "stage1.2", None),
        ("{stage1: {last: {}}}", "stage1", "last"),
    ],
)
def test_parameters_of_known_blocks_are_completed(layers, name, last):
    head = "extends: a.yaml\nname: b\n" if "stage1" in layers else "name: b\ntask: classify\n"
    data = read(f"{head}model: {{layers: {layers}}}")
    found = offered(KNOWN, data, "model", "layers", name, *[last] * bool(last))
    assert {"filters", "stride"} <= found
    if not last:
        assert {"repeat", "first", "last", "weights", "inputs"} <= found
    elif "block" in layers:
        assert found == {"filters", "stride"}


def test_names_of_known_blocks_are_completed_and_others_valid():
    assert {"n", "width"} <= offered(KNOWN, {"model": {"params": {}}}, "model", "params")
    child = {"extends": "a.yaml", "name": "b", "model": {"blocks": {}}}
    assert {"basic", "conv_bn"} <= offered(KNOWN, child, "model", "blocks")
    parts = KNOWN["$defs"]
    assert parts["Call"]["properties"]["block"]["examples"] == ["conv_bn", "basic"]
    assert {"$n", "$width", "$filters"} <= set(parts["Expression"]["anyOf"][0]["examples"])
    validator = Draft202012Validator(KNOWN)
    for name in ("standard", "zoo/resnet", "zoo/se_resnet"):
        assert validator.is_valid(read((ROOT / f"experiments/{name}.yaml").read_text()))
    assert validator.is_valid(read(CALLS))
    Draft7Validator.check_schema(KNOWN)


def test_a_file_without_extends_must_be_complete():
    found = [error.message for error in VALIDATOR.iter_errors(read("name: a"))]
    assert found == [f"'{key}' is a required property" for key in ("task", "dataset", "model")]


@pytest.mark.parametrize(("seeds", "valid"), [(5, True), ([3, 1], True), (0, False), ([], False)])
def test_seeds_are_a_number_or_a_list(seeds, valid):
    assert (issue(STANDARD | {"seeds": seeds}) == "") == valid


@pytest.mark.parametrize(
    ("layer", "valid"),
    [
        ("{op: reshape, shape: [$rows, 1, {times: [2, $rows]}]}", True),
        ("{op: conv, filters: 4, kernel: [$rows, 1], padding: [0, $rows]}", True),
        ("{op: zero_pad, padding: [$rows, 0, 1, {of_input: 2}]}", True),
        ("{op: reshape, shape: [rows, 1, 1]}", False),
        ("{op: reshape, shape: [{times: $rows}, 1, 1]}", False),
        ("{op: conv, filters: 4, kernel: [$rows, 1, 1]}", False),
    ],
)
def test_items_of_lists_may_be_parameters(layer, valid):
    head = "name: idea\ntask: classify\ndataset: {name: mnist}\n"
    data = read(f"{head}model: {{params: {{rows: 2}}, layers: {{a: {layer}}}}}")
    assert (issue(data) == "") is valid
    assert Draft7Validator(SCHEMA).is_valid(data) is valid
    changed = extending(f"model: {{params: {{rows: 2}}, layers: {{a: {layer}}}}}")
    assert (issue(changed) == "") is valid


def test_every_operation_and_key_explains_itself():
    for name, model in OPERATIONS.items():
        part = SCHEMA["$defs"][model.__name__]
        assert part["title"] == name
        assert part["description"] == inspect.cleandoc(str(model.__doc__))
        for key, value in part["properties"].items():
            assert key == "op" or value["description"] == model.model_fields[key].description
    words = SCHEMA["$defs"]["Layer"]["properties"]["op"]
    assert words["enum"] == list(OPERATIONS)
    assert words["enumDescriptions"] == [
        str(model.__doc__).splitlines()[0] for model in OPERATIONS.values()
    ]


def test_fragments_are_as_reviewed():
    parts = {name: SCHEMA["$defs"][name] for name in ("Conv", "DropoutChange", "ModelSpecChange")}
    top = {key: value for key, value in SCHEMA.items() if key != "$defs"}
    optimizer = SCHEMA["$defs"]["TrainSpec"]["properties"]["optimizer"]
    text = json.dumps({"top": top, "optimizer": optimizer} | parts, indent=2) + "\n"
    assert text == approved("schema.json", text)


def test_the_command_prints_it_or_writes_it(tmp_path):
    done = CliRunner().invoke(app, ["schema"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, SCHEMA)
    file = tmp_path / "a.json"
    done = CliRunner().invoke(app, ["schema", "-o", str(file)])
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    assert file.read_text() == schema_text()


def test_the_command_and_new_files_complete_blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["schema", "zoo/resnet"])
    assert json.loads(done.stdout) == KNOWN
    assert CliRunner().invoke(app, ["new", "zoo/resnet", "idea.yaml"]).exit_code == 0
    broken = "# yaml-language-server: $schema=cnnbench.schema.json\n{"
    (tmp_path / "broken.yaml").write_text(broken)
    assert json.loads((tmp_path / "cnnbench.schema.json").read_text()) == KNOWN
    assert CliRunner().invoke(app, ["new", "standard", "other.yaml"]).exit_code == 0
    assert json.loads((tmp_path / "cnnbench.schema.json").read_text()) == KNOWN
