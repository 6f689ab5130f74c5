"""Networks that a user writes as a Python class."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx

from cnnbench.errors import UsageError
from cnnbench.nn.python_model import import_class, make_module, require_trust
from cnnbench.training.state import num_params, split_network


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for modules, which are forgotten after the test."""
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write_module(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"from flax import nnx\n\n\n{text}", encoding="utf-8")


def test_python_model_in_the_folder_of_the_experiment(folder: Path) -> None:
    write_module(
        folder / "cnnbench_test_net.py",
        "class Net(nnx.Module):\n"
        "    def __init__(self, units, *, rngs):\n"
        "        self.dense = nnx.Linear(4, units, rngs=rngs)\n\n"
        "    def __call__(self, x):\n"
        "        return self.dense(x.reshape(len(x), -1))\n",
    )
    made: Any = make_module(import_class("cnnbench_test_net:Net", folder), {"units": 3}, seed=0)
    assert num_params(split_network(made).params) == 4 * 3 + 3
    assert made(jnp.ones((5, 2, 2, 1))).shape == (5, 3)
    assert str(folder) not in sys.path


def test_each_folder_has_its_own_python_model(folder: Path) -> None:
    for number in ("1", "2"):
        write_module(
            folder / number / "cnnbench_test_twin.py",
            f"class Net(nnx.Module):\n    number = {number}\n",
        )
    found = [import_class("cnnbench_test_twin:Net", folder / number) for number in ("1", "2")]
    assert [kind.number for kind in found] == [1, 2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "cnnbench_test_absent:Net",
            "model.python: no module named 'cnnbench_test_absent'; install it, or put it in"
            " {folder}.",
        ),
        (
            "cnnbench_test_absent.inner:Net",
            "model.python: no module named 'cnnbench_test_absent'; install it, or put it in"
            " {folder}.",
        ),
        (
            "cnnbench_test_needy:Net",
            "model.python: no module named 'cnnbench_test_absent'; install it, or put it in"
            " {folder}.",
        ),
        (
            "cnnbench_test_some:Nett",
            "model.python: 'cnnbench_test_some' has no nnx.Module named 'Nett'; define it there.",
        ),
        (
            "cnnbench_test_some:plain",
            "model.python: 'cnnbench_test_some' has no nnx.Module named 'plain'; define it there.",
        ),
        (
            "cnnbench_test_some:Plain",
            "model.python: 'cnnbench_test_some' has no nnx.Module named 'Plain'; define it there.",
        ),
    ],
)
def test_python_model_that_cannot_be_imported(folder: Path, reference: str, message: str) -> None:
    write_module(folder / "cnnbench_test_needy.py", "import cnnbench_test_absent\n")
    write_module(
        folder / "cnnbench_test_some.py",
        "class Net(nnx.Module):\n    pass\n\n\nclass Plain:\n    pass\n\n\nplain = 3\n",
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message.format(folder=folder))}$"):
        import_class(reference, folder)
    assert str(folder) not in sys.path


NET = "class Net(nnx.Module):\n    pass\n"


@pytest.mark.parametrize("reference", ["flax.nnx:Linear", "json:Net", "typer:Typer"])
def test_installed_modules_are_trusted(reference: str, tmp_path: Path) -> None:
    require_trust(reference, tmp_path)


def test_modules_in_the_folder_of_the_experiment_are_trusted(tmp_path: Path) -> None:
    write_module(tmp_path / "cnnbench_test_net.py", NET)
    write_module(tmp_path / "cnnbench_test_package" / "__init__.py", NET)
    require_trust("cnnbench_test_net:Net", tmp_path)
    require_trust("cnnbench_test_package.part:Net", tmp_path)


def test_a_class_that_takes_no_random_numbers_is_refused() -> None:
    message = (
        "model.args: Net(**args, rngs=...) cannot be called: got an unexpected keyword argument"
        " 'rngs'; use the arguments of its __init__."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make_module(type("Net", (nnx.Module,), {}), {}, seed=0)


def test_other_modules_on_the_path_are_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "elsewhere" / "cnnbench_test_stray.py"
    write_module(module, f"raise AssertionError('was run')\n{NET}")
    monkeypatch.syspath_prepend(str(module.parent))
    with pytest.raises(UsageError) as caught:
        require_trust("cnnbench_test_stray:Net", tmp_path)
    assert str(caught.value) == (
        "model.python: 'cnnbench_test_stray' is neither installed nor in the folder of the file"
        f" ({module}); add --allow-python if you trust it."
    )
    require_trust("cnnbench_test_absent:Net", tmp_path)  # has another message
