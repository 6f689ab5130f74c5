"""Runs that several modules of tests read."""

from pathlib import Path

import pytest

from cnnbench.runner.batches.shards import Shard, shard_requests
from tests.runner.batches.test_batches import ARMS, requests, train


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two arms: whole, and in two shards with a folder of results each."""
    folder = tmp_path_factory.mktemp("machines")
    train(requests(folder, folder / "whole", *ARMS))
    for number in (1, 2):
        asked = requests(folder, folder / f"m{number}", *ARMS)
        train(shard_requests(asked, Shard(number, 2)))
    return folder
