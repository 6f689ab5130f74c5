"""Layer definitions, one file per family, and the closed union of all operations.

Each file has the fields, shape inference, parameters and cost, receptive field, summary and
NumPy reference of its layers. The backends (`nn`, `export`, `bench.frameworks`) match on `LayerOp`
and end with `assert_never`, so that the type checker reports every place that does not handle a
new operation.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from cnnbench.layers.activation import Activate, PReLU, Softmax
from cnnbench.layers.attention import Attention, ClassToken, PositionEmbedding
from cnnbench.layers.base import Layer, LayerOutput, Owner, Shape
from cnnbench.layers.batch_norm import BatchNorm
from cnnbench.layers.conv import Conv, ConvTranspose
from cnnbench.layers.dense import Dense
from cnnbench.layers.fields import members
from cnnbench.layers.merge import Add, Concat, Multiply
from cnnbench.layers.noise import (
    Dropout,
    DropPath,
    GaussianNoise,
    MaskingNoise,
    Sample,
    SpatialDropout,
)
from cnnbench.layers.norm import GroupNorm, LayerNorm, Scale
from cnnbench.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from cnnbench.layers.quantizer import VectorQuantizer
from cnnbench.layers.reshape import (
    ChannelShuffle,
    Crop,
    DepthToSpace,
    Flatten,
    Permute,
    Reshape,
    Slice,
    SpaceToDepth,
    Upscale,
    ZeroPad,
)

__all__ = [
    "OPERATIONS",
    "Activate",
    "Add",
    "Attention",
    "AvgPool",
    "BatchNorm",
    "ChannelShuffle",
    "ClassToken",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Crop",
    "Dense",
    "DepthToSpace",
    "DropPath",
    "Dropout",
    "Flatten",
    "GaussianNoise",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "LayerNorm",
    "LayerOp",
    "MaskingNoise",
    "MaxPool",
    "Multiply",
    "PReLU",
    "Permute",
    "PositionEmbedding",
    "Reshape",
    "Sample",
    "Scale",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "SpatialDropout",
    "Upscale",
    "VectorQuantizer",
    "ZeroPad",
    "output_of",
]

LayerOp = Annotated[
    Conv
    | ConvTranspose
    | MaxPool
    | AvgPool
    | Upscale
    | Dense
    | Dropout
    | SpatialDropout
    | DropPath
    | GaussianNoise
    | MaskingNoise
    | Sample
    | VectorQuantizer
    | Slice
    | ZeroPad
    | Crop
    | ChannelShuffle
    | SpaceToDepth
    | DepthToSpace
    | Flatten
    | Reshape
    | Permute
    | Concat
    | Add
    | Multiply
    | Activate
    | PReLU
    | Softmax
    | Attention
    | PositionEmbedding
    | ClassToken
    | BatchNorm
    | LayerNorm
    | GroupNorm
    | Scale
    | GlobalAvgPool
    | GlobalMaxPool,
    Field(discriminator="op"),
]

OPERATIONS: Mapping[str, type[Layer]] = {
    name: kind for name, kind in members(LayerOp, "op").items() if issubclass(kind, Layer)
}


def output_of(op: LayerOp, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
    """Infers output shape, parameters and cost of an operation.

    Args:
      op: the operation.
      shapes: input shapes, without the batch axis.
      owner: the convolution that a conv_transpose is tied to.

    Raises:
      ShapeError: the operation does not support these inputs.

    >>> output_of(Conv(op="conv", filters=32, kernel=5), ((28, 28, 1),)).shape
    (24, 24, 32)
    """
    op.check_inputs(len(shapes))
    return op.output(shapes, owner)
