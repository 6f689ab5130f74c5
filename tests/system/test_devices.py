"""Selection of devices."""

import re

import jax
import pytest

from cnnbench.errors import UsageError
from cnnbench.system.devices import BATCH, make_mesh, pick_devices, use_all_cores


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_device_that_is_not_there(kind: str) -> None:
    have = {device.platform for device in jax.devices()}
    if kind in have:
        pytest.skip(f"this machine has a {kind}")
    message = (
        f"--device {kind}: JAX finds no {kind} on this machine, only {', '.join(sorted(have))};"
        " use --device auto."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        pick_devices(kind)


def test_auto_is_every_device_of_the_first_kind() -> None:
    assert pick_devices("auto") == tuple(jax.local_devices())
    assert [device.platform for device in pick_devices("cpu")] == ["cpu", "cpu"]


def test_once_jax_runs_its_host_devices_stay() -> None:
    before = pick_devices("cpu")
    use_all_cores(pytest.fail)
    assert pick_devices("cpu") == before


def test_a_mesh_is_for_several_devices() -> None:
    devices = pick_devices("cpu")
    mesh = make_mesh(devices)
    assert mesh is not None
    assert (mesh.axis_names, mesh.size) == ((BATCH,), 2)
    assert make_mesh(devices[:1]) is None
