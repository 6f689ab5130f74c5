"""Summary of an autoencoder's latent code."""

import math
from collections.abc import Iterator

import numpy as np

from cnnbench.analysis.latent import codes, decibels, denoise, divergences, layer_of
from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.data.splits import Split
from cnnbench.formatting import clean
from cnnbench.layers.base import shape_text
from cnnbench.runs.folder import read_run
from cnnbench.spec.metrics import metric_text

ACTIVE = 0.01  # nats of KL divergence above which a latent unit counts as active


def latent_lines(network: TrainedNetwork, test: Split) -> Iterator[str]:
    """Yields lines about a latent code.

    Args:
      network: a trained network, a graph of layers that reconstructs.
      test: the test images.
    """
    values = codes(network, test.images)
    size = math.prod(values.shape[1:])
    shape = shape_text(values.shape[1:])
    yield f"{clean(network.record.title)}, seed {network.seed}, {len(test):,} test images"
    pixels = math.prod(test.images.shape[1:])
    yield f"Code: layer {layer_of(network)}, shape {shape}, from {pixels:,} pixels"
    yield f"Values: mean {values.mean():.3g}, standard deviation {values.std():.3g}"
    summary = read_run(network.path).summary
    probes = {s.seed: s.code_accuracy for s in summary.seeds} if summary else {}
    if (accuracy := probes.get(network.seed)) is not None:
        yield f"Linear probe: {metric_text('code_accuracy', accuracy)} test accuracy"
    if denoised := denoise(network, test.images):
        before, after = (decibels(test.images, found) for found in denoised)
        yield f"Denoising: PSNR {before:.1f} dB before, {after:.1f} dB after"
    if (each := divergences(network, test.images)) is not None:
        active = int(np.sum(each > ACTIVE))
        units = f"{active} of {size} units active"
        yield f"KL divergence from the prior: {each.sum():.4g} nats; {units}"
