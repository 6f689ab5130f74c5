"""What is private in JAX or unknown to XLA costs time where it changes, and nothing else."""

from functools import partial
from types import ModuleType
from typing import Any

import jax
import pytest

from cnnbench.system import compile_cache
from cnnbench.system.compile_cache import compiled, enable_compile_cache
from tests.conftest import QUICK, known

NOTE = (
    f"jax {jax.__version__} keeps compiled programs in another way than this cnnbench knows, so"
    " programs are compiled again each time; update cnnbench."
)


def lowered() -> jax.stages.Lowered:
    return jax.jit(lambda x: x + 1).lower(1.0)


def test_options_that_xla_does_not_know_are_left_out() -> None:
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
