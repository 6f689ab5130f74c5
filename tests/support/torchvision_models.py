"""torchvision's networks, and their weights in the names of ours."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import Attention
from cnnbench.layers.parameters import is_kernel
from cnnbench.system.arrays import Array


def torchvision_model(name: str, **options: Any) -> nn.Module:
    """A network of torchvision with random weights and statistics, in evaluation mode."""
    torch.manual_seed(0)
    return randomized(getattr(package().models, name)(**options))


def randomized(model: nn.Module) -> nn.Module:
    """The network with random weights and statistics, in evaluation mode."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                _randomize(module)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)  # the output depends on the image
        for key, value in model.named_parameters():
            if "layer_scale" in key:
                value.uniform_(0.5, 1.5)
            elif key == "class_token":
                value.normal_()
            elif key.endswith("bias"):
                value.uniform_(-0.1, 0.1)
    return model.eval()


def package() -> Any:
    """`torchvision`, also where its compiled operations do not fit the installed torch."""
    try:
        import torchvision
    except RuntimeError:  # the wheel for CUDA with a torch for CPUs; the networks need none of them
        library = torch.library.Library("torchvision", "DEF")
        for operation in ("nms", "qnms"):
            library.define(f"{operation}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import torchvision
    return torchvision


def _randomize(module: nn.BatchNorm2d | nn.LayerNorm) -> None:
    module.weight.uniform_(0.5, 1.5)
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.normal_(0, 0.1)
        module.running_var.uniform_(0.5, 1.5)


def transferred(model: nn.Module, plan: Plan) -> dict[str, dict[str, Array]]:
    """Weights and statistics by layer of ours, from the modules in the order they are called."""
    nodes = [node for node in plan.nodes if node.layout.params]
    found = _called(model, plan.input_shape)
    assert len(nodes) == len(found)
    return {
        node.name: {key: _fitted(value, key, node) for key, value in values.items()}
        for node, values in zip(nodes, found, strict=True)
    }


def _called(model: nn.Module, shape: tuple[int, ...]) -> list[dict[str, torch.Tensor]]:
    """Parameters of each module, in the order of the calls, projections after their block."""
    calls: list[tuple[str, dict[str, torch.Tensor]]] = []

    def note(name: str, values: dict[str, torch.Tensor | None]) -> Callable[..., None]:
        return lambda *_: calls.append((name, {k: v for k, v in values.items() if v is not None}))

    hooks = []
    for name, module in model.named_modules():
        match module:
            case nn.Conv2d() | nn.Linear():
                values = {"kernel": module.weight, "bias": module.bias}
            case nn.BatchNorm2d():
                values = {
                    "scale": module.weight,
                    "bias": module.bias,
                    "mean": module.running_mean,
                    "var": module.running_var,
                }
            case nn.MultiheadAttention():
                values = {
                    "kernel": module.in_proj_weight,
                    "bias": module.in_proj_bias,
                    "out_kernel": module.out_proj.weight,
                    "out_bias": module.out_proj.bias,
                }
            case nn.Module(pos_embedding=nn.Parameter()):  # of a transformer, before its layers
                token = note(name, {"token": model.class_token})
                positions = note(name, {"embedding": module.pos_embedding})
                hooks += [module.register_forward_pre_hook(hook) for hook in (token, positions)]
                continue
            case nn.LayerNorm():
                values = {"scale": module.weight, "bias": module.bias}
            case nn.Module(layer_scale=nn.Parameter()):
                values = {"scale": module.layer_scale}
            case _:
                continue
        hooks.append(module.register_forward_hook(note(name, values)))
    with torch.no_grad():
        model(torch.zeros(1, shape[2], *shape[:2]))
    for hook in hooks:
        hook.remove()
    names = [name for name, _ in calls]

    def place(i: int) -> float:
        block, projection, _ = names[i].partition(".proj.")
        same = [j for j, name in enumerate(names) if name.startswith(f"{block}.")]
        return max(same) + 0.5 if projection else i

    return [calls[i][1] for i in sorted(range(len(calls)), key=place)]


def _fitted(value: torch.Tensor, key: str, node: Node) -> Array:
    """A parameter in our order of axes."""
    array: Array = value.detach().numpy()
    if isinstance(node.op, Attention) and is_kernel(key):
        return np.ascontiguousarray(array.T)
    if key != "kernel":
        return array.reshape(node.layout.params.get(key, (-1,)))
    shape: tuple[int, ...] = node.layout.params[key]
    if len(shape) == 4:  # (out, in, h, w) to (h, w, in, out); a dense layer as a 1x1 convolution
        array = array.reshape(*array.shape[:2], *(shape[:2] if array.ndim == 4 else (1, 1)))
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    if len(node.in_shapes[0]) == 3:  # PyTorch flattens channels first
        height, width, channels = node.in_shapes[0]
        array = array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(array.reshape(len(array), -1).T)
