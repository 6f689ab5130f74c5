"""Trained networks for other programs: StableHLO, ONNX and safetensors, each verified.

What is exported takes the same pixels as `TrainedNetwork.outputs` and gives the same
results. It is run in its own runtime before anyone gets it.
"""

import importlib.util
from typing import Literal, assert_never

from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.errors import UsageError
from cnnbench.export.verify import Exported, VerificationImages
from cnnbench.system import commands
from cnnbench.system.settings import pinned

ExportFormat = Literal["stablehlo", "onnx", "safetensors"]


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
            from cnnbench.export.stablehlo import export_stablehlo

            return export_stablehlo(network, probe)
        case "onnx":
            require("onnx")
            from cnnbench.export.onnx import export_onnx

            return export_onnx(network, probe)
        case "safetensors":
            from cnnbench.export.safetensors import export_safetensors

            return export_safetensors(network)
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
