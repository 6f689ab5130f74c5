"""Latent space of autoencoders: interpolation, samples from the prior, 2-D grid; and denoising."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.trained_network import Images, TrainedNetwork
from cnnbench.data.scaling import BRIGHTEST
from cnnbench.graph.autoencoder import code_layer, decoder_input, input_noise_layers
from cnnbench.layers import GaussianNoise
from cnnbench.layers.noise import unit_divergence
from cnnbench.training.losses import psnr

# Images of an interpolation, along each side of the grid, and drawn from the prior.
STEPS, SIDE, SAMPLES = 10, 15, 50

FloatArray = NDArray[np.floating[Any]]


class Denoised(NamedTuple):
    """Corrupted images and their reconstructions, pixels from 0 to 255."""

    noisy: FloatArray
    outputs: FloatArray


def decibels(images: Images, found: FloatArray) -> float:
    """Peak signal-to-noise ratio in dB, mean over images; values outside 0 to 255 are clipped.

    Args:
      images: (n, h, w, c), pixels from 0 to 255.
      found: their approximations, (n, h, w, c).
    """
    import jax.numpy as jnp

    possible = jnp.asarray(found, jnp.float32).clip(0, BRIGHTEST)
    return float(psnr(possible, jnp.asarray(images, jnp.float32), BRIGHTEST).mean())


def denoise(network: TrainedNetwork, images: Images, seed: int = 0) -> Denoised | None:
    """Images corrupted as in training, and their reconstructions.

    Args:
      network: a trained network.
      images: (n, h, w, c), pixels from 0 to 255.
      seed: of the noise.

    Returns:
      None if the network has no noise layers at its input.
    """
    layers = input_noise_layers(network.plan) if network.plan else ()
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
    """Latent codes of images, (n, *code shape); for a VAE, the mean of the distribution.

    Args:
      network: a trained network.
      images: (n, h, w, c), pixels from 0 to 255.
    """
    (code,) = network.activations(images, [layer_of(network)]).values()
    return code


def divergences(network: TrainedNetwork, images: Images) -> FloatArray | None:
    """KL divergence from the prior per latent unit, in nats; None without a prior.

    Args:
      network: a trained network.
      images: (n, h, w, c), pixels from 0 to 255; the result is the mean over them.
    """
    if network.plan is None or not network.plan.samples:
        return None
    names = network.plan.samples[0].inputs
    found = network.activations(images, names)
    mean, log_variance = (found[name].reshape(len(images), -1) for name in names)
    each: FloatArray = unit_divergence(mean, log_variance).mean(axis=0)
    return each


def decode(network: TrainedNetwork, values: FloatArray) -> FloatArray | None:
    """Decodes latent codes into images, pixels from 0 to 255; None without a decoder.

    Args:
      network: a trained network.
      values: codes, (n, *code shape).
    """
    layer = _decoder_input(network)
    if layer is None:
        return None
    images: FloatArray = (
        network.outputs_from(layer, values) * network.experiment.dataset.pixel_scale
    )
    return images


def walk(network: TrainedNetwork, ends: Images) -> FloatArray | None:
    """Linear interpolation between two latent codes, (`STEPS`, h, w, c); None without a decoder.

    Args:
      network: a trained network.
      ends: two images.
    """
    start, end = codes(network, ends)
    shares = np.linspace(0, 1, STEPS).reshape(-1, *[1] * start.ndim)
    return decode(network, (1 - shares) * start + shares * end)


def from_prior(network: TrainedNetwork, seed: int = 0) -> FloatArray | None:
    """Decodes samples from the standard normal prior; None without a prior.

    Args:
      network: a trained network.
      seed: of the samples.
    """
    if network.plan is None or not network.plan.samples:
        return None
    shape = network.plan.samples[0].layout.shape
    return decode(network, np.random.default_rng(seed).normal(size=(SAMPLES, *shape)))


def has_plane(network: TrainedNetwork) -> bool:
    """True if the latent code is two-dimensional and has a prior."""
    samples = network.plan.samples if network.plan else ()
    return bool(samples) and samples[0].layout.shape == (2,)


def plane(network: TrainedNetwork, reach: float) -> FloatArray | None:
    """Images decoded on a square grid of two-dimensional codes, row by row from the top.

    Args:
      network: a trained network.
      reach: half the side of the square, in standard deviations of the prior; the outermost
        images are half a step inside it.

    Returns:
      (`SIDE` ** 2, h, w, c), pixels from 0 to 255; None unless the code is two-dimensional and
      has a prior.
    """
    if not has_plane(network):
        return None
    edge = reach * (1 - 1 / SIDE)
    line = np.linspace(-edge, edge, SIDE)
    return decode(network, np.array([(x, y) for y in reversed(line) for x in line]))


def layer_of(network: TrainedNetwork) -> str:
    """Name of the layer that holds the latent code; for a VAE, of the mean."""
    assert network.plan is not None
    if network.plan.samples:
        return network.plan.samples[0].inputs[0]
    return code_layer(network.plan, network.experiment.model.code_layer)


def _decoder_input(network: TrainedNetwork) -> str | None:
    assert network.plan is not None
    return decoder_input(network.plan, network.experiment.model.code_layer)
