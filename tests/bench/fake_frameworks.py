"""Fake frameworks for worker processes that do nothing or fail, named by their behavior."""

import os
import sys
import time
from pathlib import Path

import numpy as np

from cnnbench.errors import UsageError


def make_trainer(variant, experiment, plan, weights):
    if variant == "refuses":
        raise UsageError("peer 'refuses': it has no convolutions; leave it out.")
    return Fake(variant, plan, weights)


class Fake:
    def __init__(self, variant, plan, weights):
        self.variant, self.plan, self.weights = variant, plan, weights
        self.steps = 0

    def train(self, images, labels):
        sys.stdout.write("a library's chatter on standard output\n")
        self.steps += len(images)
        self._log(f"{self.variant} {len(images)} {images.sum()} {labels.sum()}")
        if self.variant == "dies" and self.steps > 3:
            sys.stderr.write("Traceback ...\nMemoryError: no room for 7 images\n\n")
            sys.stderr.flush()
            os._exit(3)
        if self.variant == "is-killed" and self.steps > 3:
            os.kill(os.getpid(), 9)
        if self.variant == "refuses-later" and self.steps > 3:
            raise UsageError("enough.")
        if self.variant == "hangs":
            time.sleep(60)
        time.sleep(len(images) * (0.05 if self.variant.startswith("slow") else 0.01))
        return np.zeros(len(images))

    def outputs(self, images):
        """The first class for every image, with a logit that grows with the first bias."""
        self._log(f"{self.variant} evaluates {len(images)}")
        outputs = np.zeros((len(images), *self.plan.output_shape))
        outputs[:, 0] = 1 + self.weights["dense1"]["bias"][0]
        return outputs

    def _log(self, line):
        if path := os.environ.get("FAKE_TRAINERS_LOG"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
