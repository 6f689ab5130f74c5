"""Export of trained networks to StableHLO, ONNX and safetensors, verified before writing.

An exported model takes the same pixels as `TrainedNetwork.outputs` and gives the same results,
which is verified in its target runtime.
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
    """Export a network and verify the result.

    Args:
      network: the trained network; for ONNX it computes in float32.
      form: the file format.
      probe: images on which the exported model is compared with the network.

    Raises:
      UsageError: a package is missing, or the model cannot be converted to this format.
      StoreError: the network diverged.
      MismatchError: the outputs of the exported model differ from the network's.
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
    """Check that the packages for a format are installed.

    Raises:
      UsageError: a package is missing.
    """
    for package in ("onnx", "onnxruntime") if form == "onnx" else ():
        if importlib.util.find_spec(package) is None:
            message = f"--to onnx: the package '{package}' is not installed"
            raise UsageError(f"{message}; run {commands.pip_install('cnnbench[export]')}.")
