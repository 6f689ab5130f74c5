"""What a worker imports while it waits for its first task: JAX takes seconds."""

import importlib
import os

# A value that JAX refuses is reported by the first task.
valid = {"JAX_PLATFORMS": "cpu"}  # of workers on Ray
others = [name for name in os.environ if os.environ[name] != valid.get(name)]
if not any(name.startswith(("JAX_", "FLAX_", "NNX_", "XLA_")) for name in others):
    importlib.import_module("cnnbench.training.trainer")
importlib.import_module("cnnbench.runner.seed_task")
