"""Networks from the literature, written as in an experiment file."""

from collections.abc import Mapping, Sequence
from typing import Any

Layers = dict[str, dict[str, Any]]


def _conv(filters: int, kernel: int = 3, **options: Any) -> dict[str, Any]:
    return {"op": "conv", "filters": filters, "kernel": kernel, "padding": "same"} | options


def _relu() -> dict[str, Any]:
    return {"op": "activation", "activation": "relu"}


def resnet(blocks: int = 3, changed: Mapping[str, int] | None = None) -> Layers:
    """He et al., "Deep Residual Learning", 2016, section 4.2: 6 * blocks + 2 layers, 32x32x3.

    Args:
      blocks: in each of the three stages.
      changed: other numbers of filters, by the name of a block's first convolution.
    """
    layers: Layers = {"conv0": _conv(16), "bn0": {"op": "batch_norm"}, "relu0": _relu()}
    last = "relu0"
    for stage, filters in enumerate((16, 32, 64), 1):
        for number in range(1, blocks + 1):
            at, skip = f"s{stage}b{number}_", last
            shrinks = {"stride": 2} if stage > 1 and number == 1 else {}
            first = (changed or {}).get(f"{at}conv1", filters)
            layers |= {
                f"{at}conv1": _conv(first, inputs=last, **shrinks),
                f"{at}bn1": {"op": "batch_norm"},
                f"{at}relu1": _relu(),
                f"{at}conv2": _conv(filters),
                f"{at}bn2": {"op": "batch_norm"},
            }
            if shrinks:
                skip = f"{at}shrink_bn"
                layers[f"{at}shrink"] = _conv(filters, 1, inputs=last, **shrinks)
                layers[skip] = {"op": "batch_norm"}
            layers[f"{at}add"] = {"op": "add", "inputs": [f"{at}bn2", skip]}
            last = f"{at}out"
            layers[last] = _relu()
    return layers | {"gap": {"op": "global_avg_pool"}, "fc": {"op": "dense", "units": 10}}


def inception(modules: Sequence[str] = ("a", "b")) -> Layers:
    """Szegedy et al., "Going Deeper with Convolutions", 2015, figure 2b; for 32x32x3.

    Args:
      modules: a name for each.
    """
    layers: Layers = {"stem": _conv(32), "pool": {"op": "max_pool", "size": 2}}
    last = "pool"
    for name in modules:
        layers |= {
            f"{name}_1x1": _conv(16, 1, inputs=last),
            f"{name}_3x3_in": _conv(16, 1, inputs=last),
            f"{name}_3x3": _conv(24),
            f"{name}_5x5_in": _conv(8, 1, inputs=last),
            f"{name}_5x5": _conv(12, 5),
            f"{name}_pool": _conv(8, 1, inputs=last),
        }
        ends = [f"{name}_{end}" for end in ("1x1", "3x3", "5x5", "pool")]
        last = f"{name}_concat"
        layers[last] = {"op": "concat", "inputs": ends}
    return layers | {"gap": {"op": "global_avg_pool"}, "fc": {"op": "dense", "units": 10}}


def unet(widths: Sequence[int] = (16, 32, 64)) -> Layers:
    """Ronneberger et al., "U-Net", 2015, with upscaling; from 32x32x3 to 32x32x3.

    Args:
      widths: filters at each depth.
    """
    layers: Layers = {}
    last = "input"
    for depth, width in enumerate(widths):
        layers |= {
            f"down{depth}a": _conv(width, inputs=last),
            f"down{depth}b": _conv(width),
            f"pool{depth}": {"op": "max_pool", "size": 2},
        }
        last = f"pool{depth}"
    layers["middle"] = _conv(2 * widths[-1], inputs=last)
    for depth, width in reversed(list(enumerate(widths))):
        layers |= {
            f"up{depth}": {"op": "upscale", "size": 2},
            f"join{depth}": {"op": "concat", "inputs": [f"up{depth}", f"down{depth}b"]},
            f"up{depth}a": _conv(width),
            f"up{depth}b": _conv(width),
        }
    return layers | {"out": _conv(3, 1)}


def densenet(convolutions: int = 5) -> Layers:
    """Huang et al., "Densely Connected Convolutional Networks", 2017: a block, for 32x32x3.

    Args:
      convolutions: each reads all before it.
    """
    layers: Layers = {"conv0": _conv(12)}
    read = ["conv0"]
    for number in range(1, convolutions + 1):
        if number > 1:
            layers[f"concat{number}"] = {"op": "concat", "inputs": list(read)}
        layers[f"conv{number}"] = _conv(12)
        read.append(f"conv{number}")
    layers["concat"] = {"op": "concat", "inputs": read}
    return layers | {"gap": {"op": "global_avg_pool"}, "fc": {"op": "dense", "units": 10}}


def deep_mlp(depth: int = 12) -> Layers:
    """Dense layers of equal width, for 32x32x3."""
    hidden = {f"fc{i}": {"op": "dense", "units": 64, "activation": "relu"} for i in range(depth)}
    return {"flat": {"op": "flatten"}} | hidden | {"out": {"op": "dense", "units": 10}}
