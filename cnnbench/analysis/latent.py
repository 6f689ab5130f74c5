"""What an autoencoder's code can do: walks, samples from the prior, a plane; and denoising."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.trained_network import Images, TrainedNetwork
from cnnbench.graph.autoencoder import code_layer, disturbed, entrance
from cnnbench.layers import GaussianNoise
from cnnbench.layers.noise import unit_divergence
from cnnbench.training.losses import BRIGHTEST, psnr

STEPS, SIDE, SAMPLES = 10, 15, 50  # of a walk, along each side of the plane, of the prior

FloatArray = NDArray[np.floating[Any]]


class Denoised(NamedTuple):
    """Disturbed images and what is made of them, pixels from 0 to 255."""

    noisy: FloatArray
    outputs: FloatArray


def decibels(images: Images, found: FloatArray) -> float:
    """Peak signal-to-noise ratio, mean over images; values that no pixel can have are clipped.

    Args:
      images: (n, h, w, c), pixels from 0 to 255.
      found: what stands for them, likewise.
    """
    import jax.numpy as jnp

    possible = jnp.asarray(found, jnp.float32).clip(0, BRIGHTEST)
    return float(psnr(possible, jnp.asarray(images, jnp.float32), BRIGHTEST).mean())


def denoise(network: TrainedNetwork, images: Images, seed: int = 0) -> Denoised | None:
    """Images disturbed as in training, and what the network makes of them.

    Args:
      network: a trained network.
      images: (n, h, w, c), pixels from 0 to 255.
      seed: of the noise.

    Returns:
      None where the network has no noise before its first layer.
    """
    layers = disturbed(network.plan) if network.plan else ()
    if not layers:
        return None
    rng, scale = np.random.default_rng(seed), network.experiment.dataset.pixel_scale
    noisy = images / scale
    for node in layers:
        if isinstance(node.op, GaussianNoise):
            noisy = noisy + rng.normal(0, node.op.stddev, noisy.shape)
        else:
            noisy = noisy * (rng.random(noisy.shape) >= node.op.rate)  # type: ignore[union-attr]
    return Denoised(noisy * scale, network.outputs_from(layers[-1].name, noisy) * scale)


def codes(network: TrainedNetwork, images: Images) -> FloatArray:
    """The code of each image, (n, *its shape); the mean where it is a distribution."""
    (code,) = network.activations(images, [layer_of(network)]).values()
    return code


def divergences(network: TrainedNetwork, images: Images) -> FloatArray | None:
    """Mean divergence from the prior of each unit of the code, in nats; None without a prior."""
    if network.plan is None or not network.plan.samples:
        return None
    names = network.plan.samples[0].inputs
    found = network.activations(images, names)
    mean, log_variance = (found[name].reshape(len(images), -1) for name in names)
    each: FloatArray = unit_divergence(mean, log_variance).mean(axis=0)
    return each


def decode(network: TrainedNetwork, values: FloatArray) -> FloatArray | None:
    """Images, pixels from 0 to 255, from codes (n, *their shape); None without a decoder."""
    layer = _entrance(network)
    if layer is None:
        return None
    images: FloatArray = (
        network.outputs_from(layer, values) * network.experiment.dataset.pixel_scale
    )
    return images


def walk(network: TrainedNetwork, ends: Images) -> FloatArray | None:
    """What lies between the codes of two images, (`STEPS`, h, w, c); None without a decoder.

    Args:
      network: a trained network.
      ends: two images.
    """
    start, end = codes(network, ends)
    shares = np.linspace(0, 1, STEPS).reshape(-1, *[1] * start.ndim)
    return decode(network, (1 - shares) * start + shares * end)


def from_prior(network: TrainedNetwork, seed: int = 0) -> FloatArray | None:
    """Images of codes drawn from the standard normal distribution; None where it is no prior."""
    if network.plan is None or not network.plan.samples:
        return None
    shape = network.plan.samples[0].layout.shape
    return decode(network, np.random.default_rng(seed).normal(size=(SAMPLES, *shape)))


def has_plane(network: TrainedNetwork) -> bool:
    """Whether a code is two numbers with a prior."""
    samples = network.plan.samples if network.plan else ()
    return bool(samples) and samples[0].layout.shape == (2,)


def plane(network: TrainedNetwork, reach: float) -> FloatArray | None:
    """Images decoded over a square of codes of two numbers, row by row from the top.

    Args:
      network: a trained network.
      reach: half the side of the square, in units of the prior's standard deviation; the
        outermost images are half a step inside of it.

    Returns:
      (`SIDE` ** 2, h, w, c), pixels from 0 to 255; None where a code is not two numbers
      with a prior.
    """
    if not has_plane(network):
        return None
    edge = reach * (1 - 1 / SIDE)
    line = np.linspace(-edge, edge, SIDE)
    return decode(network, np.array([(x, y) for y in reversed(line) for x in line]))


def layer_of(network: TrainedNetwork) -> str:
    """The layer that holds the code; the mean where it is a distribution."""
    assert network.plan is not None
    if network.plan.samples:
        return network.plan.samples[0].inputs[0]
    return code_layer(network.plan, network.experiment.model.code_layer)


def _entrance(network: TrainedNetwork) -> str | None:
    assert network.plan is not None
    return entrance(network.plan, network.experiment.model.code_layer)
