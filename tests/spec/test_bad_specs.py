"""A corpus of invalid experiment files with all of their messages.

After a deliberate change of wording, regenerate the ``.txt`` files with
``python -m tests.spec.test_bad_specs`` and review the diff.
"""

import importlib
import os
import sys
from pathlib import Path

import pytest

from cnnbench.errors import SpecError
from cnnbench.spec.loader import load_experiment
from tests.support.limits import in_time

FOLDER = Path(__file__).parent / "bad_specs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def messages(name: str) -> str:
    """Messages for a file of the corpus; the working directory must be its folder."""
    try:
        load_experiment(Path(f"{name}.yaml"))
    except SpecError as error:
        return f"{error}\n"
    raise AssertionError(f"{name}.yaml is valid")


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Importing tensorflow-datasets, which some files need, is not part of their time limit."""
    importlib.import_module("tensorflow_datasets")


@pytest.mark.parametrize("name", NAMES)
def test_wrong_spec_gets_exactly_its_messages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    with in_time():
        found = messages(name)
    assert found == (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def test_corpus_has_a_text_for_each_file_and_no_other() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == NAMES
    assert len(NAMES) >= 100


@pytest.mark.parametrize("name", NAMES)
def test_every_message_has_location_problem_and_remedy(name: str) -> None:
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        place, _, rest = line.partition(": ")
        path, row, column = place.split(":")
        text = (FOLDER / path).read_bytes().decode(errors="replace").split("\n")
        assert 1 <= int(column) <= len([*text, ""][int(row) - 1]) + 1
        assert rest.endswith(".")
        assert "; " in rest


if __name__ == "__main__":
    os.chdir(FOLDER)
    for each in NAMES:
        Path(f"{each}.txt").write_text(messages(each), encoding="utf-8")
        sys.stdout.write(messages(each))
