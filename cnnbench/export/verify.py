"""Trained networks for other programs: StableHLO, ONNX and safetensors, each checked.

What is exported takes the same pixels as `TrainedNetwork.outputs` and gives the same
results. It is run in its own runtime before anyone gets it.
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, assert_never, get_args

import numpy as np
from numpy.typing import NDArray

from cnnbench._version import __version__
from cnnbench.analysis.trained_network import Images, TrainedNetwork
from cnnbench.errors import CnnbenchError, StoreError, UsageError
from cnnbench.layers.base import shape_text
from cnnbench.runs.folder import RESOLVED_FILE, disk
from cnnbench.spec.experiment import Task
from cnnbench.system import commands
from cnnbench.system.settings import pinned

ExportFormat = Literal["stablehlo", "onnx", "safetensors"]
FORMS: tuple[ExportFormat, ...] = get_args(ExportFormat)
TOLERANCE = 1e-4  # of the largest output
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
Runtime = Callable[[Images], NDArray[Any]]


class MismatchError(CnnbenchError):
    """An exported model is not the network that it was made of."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Exported:
    """A file for other programs.

    Args:
      content: of the file.
      lines: what it is, what it takes and gives, and how it was checked.
    """

    content: bytes
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class VerificationImages:
    """Images that a model is tried with.

    Args:
      images: (n, h, w, c), pixels from 0 to 255.
      title: what they are, as in ``test images of mnist``.
    """

    images: Images
    title: str


@pinned()
def export_network(
    network: TrainedNetwork, form: ExportFormat, probe: VerificationImages
) -> Exported:
    """A network in a form that other programs read.

    Args:
      network: the trained network; for ONNX it computes in float32.
      form: which.
      probe: what the exported model and the network are compared with.

    Raises:
      UsageError: a package is missing, or the model has no such form.
      StoreError: the network diverged.
      MismatchError: the exported model gives something else.
    """
    match form:
        case "stablehlo":
            return _stablehlo(network, probe)
        case "onnx":
            return _onnx(network, probe)
        case "safetensors":
            return _safetensors(network)
        case _:
            assert_never(form)


def require(form: ExportFormat) -> None:
    """Checks that the packages of a form are there.

    Raises:
      UsageError: one is not.
    """
    for package in ("onnx", "onnxruntime") if form == "onnx" else ():
        if importlib.util.find_spec(package) is None:
            message = f"--to onnx: the package '{package}' is not installed"
            raise UsageError(f"{message}; run {commands.pip_install('cnnbench[export]')}.")


def notes(network: TrainedNetwork) -> dict[str, str]:
    """What a file says of where it is from; the experiment is whole, as YAML."""
    record, resolved = network.record, network.path / RESOLVED_FILE
    with disk(resolved, "read"):
        experiment = resolved.read_text("utf-8", "replace")
    return {
        "cnnbench": __version__,
        "run_id": record.run_id,
        "seed": str(network.seed),
        "dataset": record.dataset.name,
        "spec_digest": record.spec_digest,
        "pixel_scale": f"{network.experiment.dataset.pixel_scale:g}",
        "experiment": experiment,
    }


def _stablehlo(network: TrainedNetwork, probe: VerificationImages) -> Exported:
    import jax
    from jax import export

    def traced(batch: Any) -> export.Exported:
        images = jax.ShapeDtypeStruct((batch, *probe.images.shape[1:]), np.uint8)
        return export.export(jax.jit(network.apply), platforms=PLATFORMS)(images)

    batch = "batch"
    rows: int | None = None
    try:
        program = traced(*export.symbolic_shape(batch))
    except (jax.errors.InconclusiveDimensionOperation, TypeError):
        if network.plan is not None:
            raise
        # A Python model may ask for the number, as `len(x)` does.
        batch, rows, program = "1", 1, traced(1)
    content = bytes(program.serialize())
    model = export.deserialize(bytearray(content))
    found = _compare(network, lambda images: np.asarray(model.call(images)), probe, rows)
    return Exported(content, _lines(network, probe, batch, f"{found}, by JAX {jax.__version__}"))


def _onnx(network: TrainedNetwork, probe: VerificationImages) -> Exported:
    require("onnx")
    import onnxruntime

    from cnnbench.export.onnx import BATCH, IMAGES, OPSET, onnx_model

    scale = network.experiment.dataset.pixel_scale
    rows: int | None = None
    if network.plan is None:
        model, rows = _converted(network, probe.images.shape[1:])
    else:
        model = onnx_model(network.plan, network.weights, scale, notes(network))
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = _compare(network, lambda images: session.run(None, {IMAGES: images})[0], probe, rows)
    checked = f"{found}, by onnxruntime {onnxruntime.__version__}"
    lines = _lines(network, probe, str(rows or BATCH), checked)
    return Exported(content, (*lines, f"opset    {OPSET}"))


def _converted(network: TrainedNetwork, image_shape: tuple[int, ...]) -> tuple[Any, int | None]:
    """A Python model in ONNX, by jax2onnx, and how many images it takes; any number if None.

    Raises:
      UsageError: jax2onnx is not installed, or has no operation of ONNX for one of JAX.
    """
    what = f"{network.path}: '{network.experiment.model.python}' is a Python model"
    if importlib.util.find_spec("jax2onnx") is None:
        install = commands.pip_install("cnnbench[export-python]")
        message = f"{what}, which only the package jax2onnx converts to ONNX"
        raise UsageError(f"{message}; run {install}, or write --to stablehlo.")
    import jax
    import jax2onnx
    import onnx
    from jax import export

    from cnnbench.export.onnx import BATCH, IMAGES, OPSET

    rest, reason = ", ".join(map(str, image_shape)), ""
    for rows in (None, 1):  # a Python model may ask for the number, as `len(x)` does
        shape = export.symbolic_shape(f"{rows or BATCH}, {rest}")
        images = jax.ShapeDtypeStruct(shape, np.uint8)
        try:
            model: Any = jax2onnx.to_onnx(
                network.apply, [images], opset=OPSET, input_names=[IMAGES]
            )
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        else:
            del model.graph.value_info[:]  # some of its shapes between operations are wrong
            onnx.helper.set_model_props(model, notes(network))
            return model, rows
        finally:  # programs traced with jax2onnx's own operations, which XLA does not know
            jax.clear_caches()
    message = f"{what}, which jax2onnx {version('jax2onnx')} cannot convert ({reason})"
    raise UsageError(f"{message}; write --to stablehlo.")


def _safetensors(network: TrainedNetwork) -> Exported:
    from safetensors.numpy import load, save

    told = notes(network)
    content = bytes(save(dict(network.weights), told))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found = load(content)
    same = found.keys() == network.weights.keys() and all(
        (value.dtype, value.shape, value.tobytes()) == (own.dtype, own.shape, own.tobytes())
        for value, own in ((found[name], own) for name, own in network.weights.items())
    )
    if not same or header["__metadata__"] != told:
        raise MismatchError(_broken(network, "is not equal to its weights when it is read again"))
    values = sum(value.size for value in found.values())
    holds = f"holds    {len(found)} arrays of {values:,} values, by the names of the layers"
    return Exported(content, (holds, "checked  read again: equal to the bit"))


def _lines(
    network: TrainedNetwork, probe: VerificationImages, batch: str, checked: str
) -> tuple[str, ...]:
    """What goes in, what comes out, and what the check found."""
    images, results = probe.images[:1], network.outputs(probe.images[:1])
    takes, gives = (", ".join([batch, *map(str, x.shape[1:])]) for x in (images, results))
    scale = f"{network.experiment.dataset.pixel_scale:g}"
    classifies = network.experiment.task is Task.CLASSIFY
    what = "logits (softmax makes probabilities)" if classifies else f"pixels divided by {scale}"
    return (
        f"takes    uint8 [{takes}], pixels from 0 to 255 (divided by {scale} inside)",
        f"gives    float32 [{gives}], {what}",
        f"checked  {checked}",
    )


def _compare(
    network: TrainedNetwork, run: Runtime, probe: VerificationImages, rows: int | None = None
) -> str:
    """Runs a model with one image, then with others; says how far off it is.

    Args:
      network: what it was made of.
      run: the model.
      probe: the images.
      rows: how many at a time; all if None.

    Raises:
      StoreError: the network's own outputs are not finite.
      MismatchError: the difference is too large.
    """
    images, step = probe.images, rows or len(probe.images)
    ours = network.outputs(images)
    if not np.isfinite(ours).all():
        message = f"{network.path}, seed {network.seed}: its outputs are not finite; it diverged"
        raise StoreError(f"{message}, so export another seed.")
    parts = [images[:1], *(images[i : i + step] for i in range(1, len(images), step))]
    theirs = np.concatenate([run(part) for part in parts])
    if theirs.shape != ours.shape:
        shapes = f"{shape_text(theirs.shape)} values, not {shape_text(ours.shape)}"
        raise MismatchError(_broken(network, f"gives {shapes}"))
    largest = float(np.abs(theirs.astype(np.float64) - ours).max())
    allowed = TOLERANCE * float(np.abs(ours).max())
    over = f"largest difference {largest:.1e} over {len(images)} {probe.title}"
    if not largest <= allowed:  # NaN is none that is allowed
        raise MismatchError(_broken(network, f"is another: {over}, {allowed:.1e} is allowed"))
    return f"{over},\n         {allowed:.1e} allowed"


def _broken(network: TrainedNetwork, what: str) -> str:
    who = f"{network.path}, seed {network.seed}"
    return f"{who}: the exported model {what}; nothing was written, please report it."
