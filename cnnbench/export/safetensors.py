"""Export of the weights of a trained network as safetensors."""

import json

from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.export.verify import Exported, MismatchError, mismatch, provenance


def export_safetensors(network: TrainedNetwork) -> Exported:
    """Weights by layer name, read back and compared bit for bit."""
    from safetensors.numpy import load, save

    metadata = provenance(network)
    content = bytes(save(dict(network.weights), metadata))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found = load(content)
    same = found.keys() == network.weights.keys() and all(
        (value.dtype, value.shape, value.tobytes()) == (own.dtype, own.shape, own.tobytes())
        for value, own in ((found[name], own) for name, own in network.weights.items())
    )
    if not same or header["__metadata__"] != metadata:
        raise MismatchError(mismatch(network, "differs from the weights when read back"))
    values = sum(value.size for value in found.values())
    arrays = f"arrays   {len(found)} with {values:,} values, named by layer"
    return Exported(content, (arrays, "verified read back: bit-identical"))
