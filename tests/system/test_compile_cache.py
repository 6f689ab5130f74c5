"""Changes in private JAX APIs and XLA options cost time, and nothing else."""

import gc
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest

from cnnbench.system import compile_cache
from cnnbench.system.compile_cache import (
    DEFAULT_MAX_BYTES,
    ProgramFiles,
    compiled,
    compiled_together,
    enable_compile_cache,
    rare_collections,
)
from tests.conftest import QUICK, known
from tests.support.environments import without

NOTE = (
    f"this cnnbench does not support the compilation cache of jax {jax.__version__}, so programs"
    " are recompiled each time; update cnnbench."
)


def lowered() -> jax.stages.Lowered:
    return jax.jit(lambda x: x + 1).lower(1.0)


def test_options_unknown_to_xla_are_ignored() -> None:
    options = {"xla_gone": True, "xla_backend_optimization_level": 2, "xla_gone_too": 3}
    assert compiled(lowered(), options)(1.0) == 2


def test_an_option_that_xla_knows_and_refuses_is_an_error() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        compiled(lowered(), {"xla_backend_optimization_level": "high"})


def test_tests_set_no_flag_that_would_end_a_process() -> None:
    assert known(QUICK[0])
    assert not known("--xla_gone=true")


def another(*names: str) -> ModuleType:
    module = ModuleType("compilation_cache")
    for name in names:
        vars(module)[name] = lambda _path, _size: None
    return module


@pytest.mark.parametrize("changed", [None, another(), another("get_file_cache")])
def test_a_jax_whose_cache_is_another_keeps_no_programs(
    changed: ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Any:
        if changed is None:
            raise ModuleNotFoundError(name)
        return changed

    notes: list[str] = []
    names = dict(vars(changed or another()))
    monkeypatch.setattr("cnnbench.system.compile_cache.importlib.import_module", load)
    monkeypatch.setattr(jax.config, "update", lambda *_: pytest.fail("a setting is changed"))
    enable_compile_cache(notes.append)
    assert notes == [NOTE]
    assert changed is None or vars(changed) == names


def test_the_cache_of_the_installed_jax_is_replaced_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process may run several experiments."""
    names = compile_cache._replaceable_cache()
    assert names is not None
    monkeypatch.setitem(names, "get_file_cache", partial(compile_cache._open, print))
    assert compile_cache._replaceable_cache() is names


# The limit on their size.


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_the_least_recently_used_programs_are_removed(tmp_path: Path) -> None:
    programs = ProgramFiles(tmp_path, pytest.fail, max_bytes=5_500)
    for key in "abcd":
        programs.put(key, key.encode() * 1_000)
    assert names(tmp_path) == set("abcd")  # each file is some hundred bytes larger
    assert programs.get("a") == b"a" * 1_000
    programs.put("e", b"e" * 1_000)
    assert names(tmp_path) == set("acde")
    assert programs.get("b") is None
    programs.put("f", b"f" * 4_500)
    assert names(tmp_path) == {"f"}


def test_a_program_larger_than_the_limit_is_not_kept_and_removes_no_other(tmp_path: Path) -> None:
    programs = ProgramFiles(tmp_path, pytest.fail, max_bytes=5_000)
    programs.put("a", b"a")
    programs.put("b", bytes(5_001))
    assert names(tmp_path) == {"a"}
    for limit in (0, 10):
        ProgramFiles(tmp_path, pytest.fail, max_bytes=limit).put("c", b"c")
        assert "c" not in names(tmp_path)


def test_without_a_limit_all_programs_are_kept(tmp_path: Path) -> None:
    programs = ProgramFiles(tmp_path, pytest.fail, max_bytes=None)
    for key in "abcdefgh":
        programs.put(key, bytes(1_000))
    assert names(tmp_path) == set("abcdefgh")


def test_files_of_older_versions_go_first_and_those_being_written_stay(tmp_path: Path) -> None:
    old, fresh, left = (tmp_path / n for n in ("x.arrays", ".n.0a.partial", ".o.0b.partial"))
    for path in (old, fresh, left):
        path.write_bytes(bytes(4_000))
    for path in (old, left):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    programs = ProgramFiles(tmp_path, pytest.fail, max_bytes=5_000)
    programs.put("a", bytes(1_000))
    assert set(tmp_path.iterdir()) == {fresh, tmp_path / "a.safetensors"}


def test_a_folder_that_is_gone_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = ProgramFiles(tmp_path / "a", pytest.fail, max_bytes=5_000)
    monkeypatch.setattr(compile_cache, "write_entry", lambda *_: None)  # another removes it at once
    programs.put("a", b"1")
    assert programs.get("a") is None


def test_processes_at_once_keep_within_the_limit(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cnnbench.system.compile_cache import *\n"
        "def stop(text): raise SystemExit(text)\n"
        "programs = ProgramFiles(Path(sys.argv[1]), stop, 20_000)\n"
        "for number in range(150):\n"
        "    key = str((number * int(sys.argv[2])) % 17)\n"
        "    assert programs.get(key) in (None, key.encode() * 1000)\n"
        "    programs.put(key, key.encode() * 1000)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    racers = [subprocess.Popen([*command, n], stderr=subprocess.PIPE, text=True) for n in "357"]
    assert [(racer.communicate()[1], racer.returncode) for racer in racers] == [("", 0)] * 3
    assert not list(tmp_path.glob("*.partial"))
    ProgramFiles(tmp_path, pytest.fail, 20_000).put("last", b"1")
    assert 10_000 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000


@pytest.mark.parametrize(
    ("text", "want"), [(None, DEFAULT_MAX_BYTES), ("7000", 7_000), ("0", 0), ("-1", None)]
)
def test_the_limit_is_that_of_jax_or_2_gib(text: str | None, want: int | None) -> None:
    assert DEFAULT_MAX_BYTES == 2 * 1024**3
    code = "from cnnbench.system.compile_cache import max_bytes; print(max_bytes())"
    environment = without("JAX_COMPILATION_CACHE_MAX_SIZE")
    environment |= {} if text is None else {"JAX_COMPILATION_CACHE_MAX_SIZE": text}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{want}\n"


def test_programs_compiled_together_stay_in_order() -> None:
    programs = [(jax.jit(lambda x, n=n: x + n).lower(1.0), {"no_option": 1}) for n in range(5)]
    assert [run(1.0) for run in compiled_together(programs, 2)] == [1, 2, 3, 4, 5]


def test_garbage_is_collected_less_often_only_while_tracing() -> None:
    before = gc.get_threshold()
    with rare_collections():
        assert gc.get_threshold() == (50_000, *before[1:])
    assert gc.get_threshold() == before
