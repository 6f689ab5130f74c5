"""A short run of the fuzzer; docs/explanation/reliability.md reports long runs."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from cnnbench.errors import UsageError
from tests.fuzz import fuzz
from tests.fuzz.mutations import mutated
from tests.support.paths import ROOT


def run(command):
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_no_generated_input_is_a_fault():
    seed = 0 if "CNNBENCH_TEST_DETERMINISTIC" in os.environ else time.time_ns() % 10**6
    done = run([sys.executable, "-m", "tests.fuzz.fuzz", "--inputs", "600", "--seed", str(seed)])
    assert done.returncode == 0, done.stdout + done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["target"] for each in reports] == ["spec", "override", "result"]
    assert all(each["taken"] + each["refused"] == 200 for each in reports)
    assert all(each["taken"] >= 5 for each in reports)  # enough inputs get past the syntax


def test_a_fault_is_detected():
    def raises(error):
        def call(_data):
            raise error

        return call

    assert fuzz.guard(raises(UsageError("no")), b"") == "refused"
    assert fuzz.guard(lambda _: None, b"") == "taken"
    assert "KeyError: 'x'" in fuzz.guard(raises(KeyError("x")), b"")


def test_an_input_that_takes_too_long_is_a_fault():
    script = """
import time
from tests.fuzz import fuzz

def endless(_):
    while True:
        pass

fuzz.SECONDS = fuzz.PATIENCE = 0.5
fuzz.prepare()
print(fuzz.guard(lambda _: time.sleep(60), b""))
fuzz.PATIENCE = 60
print(fuzz.guard(endless, b""))
print(fuzz.guard(lambda _: bytearray(2 << 30), b""))
"""
    done = run([sys.executable, "-c", script])
    assert (
        done.stdout.count("\ntests.fuzz.fuzz.TooLongError") + done.stdout.count("\nTooLongError")
        == 2
    )
    assert "MemoryError" in done.stdout


@pytest.mark.parametrize("kind", ["spec", "override", "result"])
def test_inputs_differ_and_repeat(kind):
    corpus = fuzz.corpora()[kind]
    inputs = [mutated(random.Random(seed), corpus) for seed in range(50)]
    assert inputs == [mutated(random.Random(seed), corpus) for seed in range(50)]
    assert len(set(inputs)) > 40
