"""Trained networks loaded from a run: outputs and activations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.errors import DataError, Notify, StoreError, UsageError, did_you_mean, or_list
from cnnbench.graph.plan import Plan
from cnnbench.nn.augment import views_of
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.python_model import import_class, make_module
from cnnbench.runs.experiment import load_trained_experiment
from cnnbench.runs.folder import RESOLVED_FILE, kept_seeds, read_run_entry, read_weights
from cnnbench.runs.records import RunRecord
from cnnbench.spec.experiment import DatasetSpec, Experiment, Splits
from cnnbench.spec.loader import saved_source
from cnnbench.system import commands
from cnnbench.system.settings import pinned
from cnnbench.training.inference import activations_of, outputs_from, outputs_of
from cnnbench.training.state import Arrays, Network, Tree, split_network, with_weights
from cnnbench.training.step import make_rules

CHUNK = 100  # images per call
Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class TrainedNetwork:
    """The network of one seed after its last epoch, in evaluation mode.

    Layers are computed one by one (the `plain` form), whatever engine trained the network.

    Args:
      path: folder of the run.
      record: of the run.
      experiment: the resolved experiment.
      plan: its layers; None for a Python model.
      seed: the seed.
      weights: trained parameters and state, by name.
      apply: `outputs` as a pure function of images, for `jax.jit` and `jax.export`.
      image_shape: shape of an input image, (h, w, c).
    """

    path: Path
    record: RunRecord
    experiment: Experiment
    plan: Plan | None
    seed: int
    weights: Mapping[str, NDArray[Any]]
    apply: Callable[[jax.Array], jax.Array]
    _activations: Callable[[jax.Array], dict[str, jax.Array]]
    _outputs_from: Callable[..., jax.Array]
    image_shape: tuple[int, ...] = ()

    @property
    def parameters(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Weights by layer and name; a tied kernel belongs to its owner."""
        layers: dict[str, dict[str, NDArray[Any]]] = {}
        for name, value in self.weights.items():
            layer, _, own = name.rpartition(".")
            layers.setdefault(layer, {})[own] = value
        return layers

    @pinned()
    def outputs(self, images: Images) -> NDArray[np.float32]:
        """Outputs of the network for images, (n, *output shape).

        Args:
          images: (n, h, w, c), pixels from 0 to 255.
        """
        return np.concatenate([np.asarray(part) for part in _in_chunks(self.apply, images)])

    def predictions(self, images: Images) -> NDArray[np.float32]:
        """Outputs as in the evaluation of the run, with its test-time augmentation.

        Args:
          images: (n, h, w, c), pixels from 0 to 255.
        """
        views = views_of(self.experiment.evaluation.augment, images)
        mean = sum(np.float32(weight) * self.outputs(view) for weight, view in views)
        return np.asarray(mean, np.float32)

    @pinned()
    def outputs_from(self, layer: str, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Outputs of the network from the activations of a layer, (n, *output shape).

        Args:
          layer: a layer that the output depends on exclusively, as `autoencoder.decoder` says.
          values: its activations, (n, *layer shape).
        """
        return np.asarray(self._outputs_from(values.astype(np.float32), layer=layer))

    def activations(
        self, images: Images, layers: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Activations of layers for images, (n, *layer shape), by name.

        Args:
          images: (n, h, w, c), pixels from 0 to 255.
          layers: names of the layers; all layers if None.

        Raises:
          UsageError: a layer does not exist.
        """
        parts = list(self.activation_chunks(images, layers))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def activation_chunks(
        self, images: Images, layers: Sequence[str] | None = None
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yields activations in chunks of `CHUNK` images, for data that does not fit in memory.

        Args:
          images: (n, h, w, c), pixels from 0 to 255.
          layers: names of the layers; all layers if None.

        Raises:
          UsageError: a layer does not exist.
        """
        wanted = self.require_layers(layers)
        for part in _in_chunks(self._activations, images):
            yield {name: np.asarray(part[name]) for name in wanted}

    def require_layers(self, layers: Sequence[str] | None) -> list[str]:
        """Checks names of layers and returns them; all layers for None.

        In a Python model, layers are the paths of its submodules and of the values it sows.

        Args:
          layers: names of the layers.

        Raises:
          UsageError: a layer does not exist, or the Python model calls no submodule.
        """
        names = self._layer_names()
        if not names:
            message = f"{self.path}: '{self.experiment.model.python}' calls no submodule"
            raise UsageError(f"{message}; sow values as nnx.Intermediate, or ask for its outputs.")
        for layer in layers or ():
            if layer not in names:
                message = f"{self.path}: there is no layer '{layer}'{did_you_mean(layer, names)}"
                raise UsageError(f"{message}; write {or_list(names)}.")
        return names if layers is None else list(layers)

    def _layer_names(self) -> list[str]:
        if self.plan is not None:
            return [node.name for node in self.plan.nodes]
        image = jax.ShapeDtypeStruct((1, *self.image_shape), np.uint8)
        return list(jax.eval_shape(self._activations, image))

    def dataset(self, data_dir: Path | None, notify: Notify) -> Dataset:
        """Loads the dataset of the run, with the training and validation images of this seed.

        It may be a fallback.

        Args:
          data_dir: where datasets are looked up.
          notify: called with messages for the user.

        Raises:
          DataError: the dataset is unavailable, or differs from the one the run used.
        """
        found = dataset_of_run(self.path, self.record, self.experiment, data_dir, notify)
        return found.of_seed(self.seed)


def dataset_of_run(
    path: Path, record: RunRecord, experiment: Experiment, data_dir: Path | None, notify: Notify
) -> Dataset:
    """Loads the dataset of a run.

    Args:
      path: folder of the run.
      record: of the run.
      experiment: of the run.
      data_dir: where datasets are looked up.
      notify: called with messages for the user.

    Raises:
      DataError: the dataset is unavailable, or differs from the one the run used.
    """
    spec, used = experiment.dataset, record.dataset
    if used.stand_in_for:
        splits = Splits() if used.num_validation else Splits(validation=0)
        spec = spec.model_copy(update={"name": used.name, "offline": None, "splits": splits})
    found = dataset_of(_found(path, spec, data_dir), data_dir, notify)
    if found.digest != used.digest:
        message = f"{path}: '{found.info.name}' is not what the run was trained on"
        raise DataError(f"{message} ({used.source}); name its folder with --data-dir")
    return found


def _found(path: Path, spec: DatasetSpec, data_dir: Path | None) -> DatasetSpec:
    """The dataset, in `data_dir` if its folder or file was moved there."""
    key = "folder" if spec.folder else "arrays"
    place = getattr(spec, key)
    if not isinstance(place, str) or Path(place).exists():
        return spec
    if data_dir is None:
        message = f"{path}: its images are no longer in {place}"
        raise DataError(f"{message}; specify where they are with --data-dir")
    return spec.model_copy(update={key: str(data_dir)})


def load_trained(
    path: Path, seed: int | None = None, *, data_dir: Path | None = None
) -> TrainedNetwork:
    """Loads the trained network of one seed.

    Args:
      path: folder of the run.
      seed: the seed; the first of the run if None.
      data_dir: where datasets outside the built-in table are looked up.

    Raises:
      StoreError: the folder has no weights, or they are damaged.
      SpecError: the experiment cannot be read.
      UsageError: the seed has no weights, or its Python model cannot be imported.
    """
    first = _seeds(path, read_run_entry(path).record, seed)[0]
    return load_seeds(path, first, data_dir=data_dir)[0]


@pinned()
def load_seeds(
    path: Path,
    seed: int | None = None,
    *,
    data_dir: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[TrainedNetwork]:
    """Loads the networks of all seeds of a run, or of one; they share compiled programs.

    Args:
      path: folder of the run.
      seed: the seed; if None, all seeds with saved weights, in the order of the run.
      data_dir: where datasets outside the built-in table are looked up.
      overrides: of the experiment, such as ``train.precision=float32``.

    Raises:
      CnnbenchError: as `load_trained`.
    """
    record = read_run_entry(path).record
    seeds = _seeds(path, record, seed)
    learnt = [read_weights(path, each) for each in seeds]
    kept = partial(load_trained_experiment, path, record, data_dir=data_dir)
    loaded = kept(overrides)
    experiment, plan = loaded.experiment, loaded.plan
    layers = plan is not None
    network = _network(experiment, plan, path)
    whole = kept() if overrides else loaded
    require_trained(whole.experiment, record, path)
    rules = make_rules(experiment, None, training=False, prepares=layers)
    options = {"graphdef": network.evaluation, "rules": rules}
    outputs, activations = (
        jax.jit(partial(_of_images, partial(step, **options)))
        for step in (outputs_of, activations_of)
    )
    later = jax.jit(partial(outputs_from, **options), static_argnames="layer")
    shape = loaded.info.shape
    found = []
    for each, weights in zip(seeds, learnt, strict=True):
        where = f"{path}, seed {each}"
        own = with_weights(network, weights, layers=layers, where=where)
        calls = [partial(call, own.params, own.rest) for call in (outputs, activations, later)]
        trained: Any = partial(TrainedNetwork, path, record, experiment, plan, each, weights)
        found.append(trained(*calls, image_shape=shape))
    return found


def require_trained(experiment: Experiment, record: RunRecord, path: Path) -> None:
    """Refuses weights of another experiment, whose outputs would mean nothing.

    Raises:
      StoreError: the experiment is not that of the run.
    """
    if experiment.digest(saved_source(path)) != record.spec_digest:
        message = f"{path / RESOLVED_FILE}: not the experiment that was trained"
        raise StoreError(f"{message} (digest mismatch); restore the file or rerun the experiment.")


def _seeds(path: Path, record: RunRecord, seed: int | None) -> list[int]:
    """The given seed if it has weights, or all seeds that have."""
    kept = [known for known in record.seeds if known in kept_seeds(path)]
    if not kept:
        message = f"{path}: no saved weights (older version, or no seed has finished)"
        again = commands.command_line(record.command)
        raise StoreError(f"{message}; retrain with: {again}")
    if seed is not None and seed not in kept:
        raise UsageError(f"{path}: no weights of seed {seed}; write {or_list(map(str, kept))}.")
    return kept if seed is None else [seed]


def _network(experiment: Experiment, plan: Plan | None, path: Path) -> Network:
    """The experiment's network with arbitrary weights."""
    if plan is not None:
        return split_network(GraphNet(plan, form="plain", rngs=nnx.Rngs(0)))
    return split_network(make_module(kept_class(experiment, path), experiment.model.args, 0))


def kept_class(experiment: Experiment, path: Path) -> type[nnx.Module]:
    """Imports the class of a run's Python model.

    The run's folder has a copy of its source; the original module may have changed since.

    Args:
      experiment: of the run.
      path: folder of the run.

    Raises:
      ModelError: the class does not exist.
      StoreError: the source imports other files that were next to it.
    """
    name = str(experiment.model.python).partition(":")[2]
    try:
        return import_class(f"model:{name}", path)
    except ImportError as error:
        message = f"{path / 'model.py'}: cannot be imported on its own ({error})"
        raise StoreError(f"{message}; read the weights with safetensors.") from None


def _of_images(step: Callable[..., Any], params: Tree, rest: Tree, images: jax.Array) -> Any:
    """Result of an evaluation step for images; it does not read their labels."""
    return step(params, rest, Arrays(images, jax.numpy.zeros(0, int)), slice(None))


def _in_chunks(call: Callable[[jax.Array], Any], images: Images) -> Iterator[Any]:
    """Calls a program with chunks of equal size, so that it is compiled once."""
    size = min(CHUNK, len(images))
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled: Any = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
        count = slice(len(part))
        with pinned():  # not around the loop: the caller's own code runs in between
            found = call(filled)
        yield jax.tree.map(lambda value, count=count: np.asarray(value)[count], found)
