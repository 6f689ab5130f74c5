"""Export of a trained network as StableHLO: the form `plain`, traced by `jax.export`."""

from typing import Any

import numpy as np

from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.export.verify import Exported, VerificationImages, description, verify

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_stablehlo(network: TrainedNetwork, probe: VerificationImages) -> Exported:
    """The form `plain` as a serialized `jax.export` program, verified in JAX."""
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
        # A Python model may use the batch size, for example by `len(x)`.
        batch, rows, program = "1", 1, traced(1)
    content = bytes(program.serialize())
    model = export.deserialize(bytearray(content))
    found = verify(network, lambda images: np.asarray(model.call(images)), probe, rows)
    return Exported(
        content, description(network, probe, batch, f"{found}, in JAX {jax.__version__}")
    )
