"""The main module of worker processes, imported by them before anything else.

Without it, they would import the program that started them, such as the user's script. Grain
imports JAX if it is installed, which takes seconds and memory that decoding images does not need.
"""

import signal
import sys

if __name__ == "__mp_main__":  # in a worker process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; see `loader`
    for package in ("jax", "orbax", "tensorflow"):
        sys.modules[package] = None  # type: ignore[assignment]  # cannot be imported
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # Grain warns that there is no JAX
