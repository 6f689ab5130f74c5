"""The shape of the code: imports in one direction, small functions."""

import ast
import re
from pathlib import Path

import pytest

import cnnbench

PACKAGE = Path(cnnbench.__file__).parent
FOLDERS = ("peers",)  # several files for one interface; the folder's __init__ stands for it


def module_name(path: Path) -> str:
    """The module of a file, as imports write it after `cnnbench.`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if parts[1:] == ("__init__",) else ".".join(parts)


PATHS = {
    module_name(path): path for folder in ("", *FOLDERS) for path in (PACKAGE / folder).glob("*.py")
}
MODULES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}

# A module imports only from the lines above its own. docs/architecture.md shows the same list.
ORDER = """
_version errors interrupts files locks ascii_forms timing commands machine
settings
scalars
syntax
shipped vocabulary
yamlio
fields
layers optimizers
spec conv_arithmetic
shapes
wiring
graph
linear_probe
bottleneck flops
stages geometry
widening
cost
results
summary codec weights environment
store
stats
phrases metrics
history
tables
verdict
sparkline
verdict_report
gates
benchmark bars
comparable stability targets
code_worth other_images repetitions
compare
columns
report export
bench_report
catalog
cache downloads
idx embedded
prepared
data
diagnosis semantics overlay
causes
loader schema
starter
events
image_quality result
losses memory sampling
devices compilation checkpoints
lanes dense
shifted
noise
plain patches toom_cook pooling
winograd
ops
lowering strategy batch_norm initializers
rowwise resume footprint
models python_models
train
submodules
steps
activations convolution objective
layer_rules
rulebook worked_convolution
backprop
roundoff
central_differences
autodiff agreement
gradcheck
inference
receptive_fields
trained
inspection latent predicting
peers.interface
peers.torch_modules
peers.torch_net peers.keras_net peers.flax_net
peers.torch_peer peers.keras_peer peers.flax_peer
peers
onnx_graph
interchange
programs
products
tuning probe evaluation
engine
peers.own
worker
workers
contest
layer_table inspection_report latent_report
gradcheck_report
differences
diagram
draft
plots pixels photographs half_blocks
inspection_plots prediction_report
latent_plots
curves mistakes
panels
charts inline_svg exhibits
page_parts
page
recorder event_files
opening
checking
session bench_session
matching status_line legible
progress
terminal
parsing
words keyboard watch
cli_data
cli_bench cli_check cli_compare cli_export cli_gradcheck
cli_inspect cli_latent cli_new cli_predict cli_show
cli_report cli_watch
cli
__main__ __init__
"""
LEVELS = {name: i for i, line in enumerate(ORDER.split("\n")) for name in line.split()}


def imported(tree: ast.AST) -> set[str]:
    """Modules of the package that a tree imports, also for type checking only."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "cnnbench":
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cnnbench."):
            name = str(node.module).removeprefix("cnnbench.")
            found.add(name if name in MODULES else name.split(".")[0])
    return found


def test_every_module_has_its_place():
    assert set(LEVELS) == set(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_upwards(name):
    wrong = {other for other in imported(MODULES[name]) if LEVELS[other] >= LEVELS[name]}
    assert not wrong


@pytest.mark.parametrize("name", sorted(MODULES))
def test_functions_stay_short(name):
    functions = [n for n in ast.walk(MODULES[name]) if isinstance(n, ast.FunctionDef)]
    sizes = {f.name: sum(isinstance(n, ast.stmt) for n in ast.walk(f)) - 1 for f in functions}
    assert not {name: size for name, size in sizes.items() if size > 40}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_catches_everything(name):
    handlers = [n for n in ast.walk(MODULES[name]) if isinstance(n, ast.ExceptHandler)]
    names = {n.id for h in handlers if h.type for n in ast.walk(h.type) if isinstance(n, ast.Name)}
    assert all(handler.type for handler in handlers)
    assert not names & {"Exception", "BaseException"}


def test_architecture_page_shows_the_same_order():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    documented = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", page, re.MULTILINE)
    shown = {name for name in MODULES if "." not in name} - {"__init__", "__main__"}
    assert set(documented) == shown
    assert [LEVELS[name] for name in documented] == sorted(LEVELS[name] for name in documented)


def test_library_exposes_the_verbs_of_the_command_line():
    for name in cnnbench.__all__:
        assert getattr(cnnbench, name) is not None
    with pytest.raises(AttributeError, match="module 'cnnbench' has no attribute 'rnu'"):
        _ = cnnbench.rnu
