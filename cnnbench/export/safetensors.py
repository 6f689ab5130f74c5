"""The weights of a trained network as safetensors."""

import json

from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.export.verify import Exported, MismatchError, broken, provenance


def export_safetensors(network: TrainedNetwork) -> Exported:
    """The weights by the names of the layers, read again and compared to the bit."""
    from safetensors.numpy import load, save

    told = provenance(network)
    content = bytes(save(dict(network.weights), told))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found = load(content)
    same = found.keys() == network.weights.keys() and all(
        (value.dtype, value.shape, value.tobytes()) == (own.dtype, own.shape, own.tobytes())
        for value, own in ((found[name], own) for name, own in network.weights.items())
    )
    if not same or header["__metadata__"] != told:
        raise MismatchError(broken(network, "is not equal to its weights when it is read again"))
    values = sum(value.size for value in found.values())
    holds = f"holds    {len(found)} arrays of {values:,} values, by the names of the layers"
    return Exported(content, (holds, "checked  read again: equal to the bit"))
