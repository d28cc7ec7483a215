"""The same numbers on one device, on several, and on several processes; states stay where they are.

A count of devices is fixed when Python starts, so each has a process of its own, which does
everything once.
"""

import dataclasses
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core import sharding
from jaxcoinfer.systems import registry
from tests.helpers.devices import N_ENVS

ROOT = Path(__file__).resolve().parents[2]
COUNTS = (2, 4, 8)
# Sums over environments are taken in another order, which moves them by some 1e-7 of their size;
# after the few updates of these trainings weights and curves (of size 1) have moved by about as
# much. What has no such sum moves not at all.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    small = dataclasses.replace(registry.load_scenario("reference"), rows=4, slots=2048)
    env, params = jaxcoinfer.make(small)
    path = tmp_path_factory.mktemp("devices")
    (path / "world").write_bytes(pickle.dumps((env, jax.device_get(params))))
    return path


def run(folder: Path, *commands: tuple[str, ...]) -> None:
    """Runs `tests.helpers.devices` once for each command, side by side; the first word is the count
    of devices.
    """
    # What is compiled here runs for milliseconds: the less the compiler thinks, the better.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    started = []
    try:
        for words in commands:
            given = {
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={words[0]} {flags}",
                "JAX_PLATFORMS": "cpu",
            }
            command = [sys.executable, "-m", "tests.helpers.devices", str(folder), *words]
            pipe = subprocess.PIPE
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=os.environ | given, stderr=pipe, text=True)
            )
        for process in started:
            complaint = process.communicate(timeout=300)[1]
            assert process.returncode == 0, complaint[-4000:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def result(folder: Path, name: str) -> tuple[dict[str, np.ndarray], dict]:
    return dict(np.load(folder / f"{name}.npz")), json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def alone(folder):
    run(folder, ("1",))
    return result(folder, "1")


def assert_same(values: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    for name, value in values.items():
        if name.startswith("play"):
            np.testing.assert_array_equal(value, reference[name], err_msg=name)
        else:
            np.testing.assert_allclose(value, reference[name], rtol=0, atol=CLOSE, err_msg=name)


@pytest.mark.slow
def test_one_device_has_it_all(alone):
    values, facts = alone
    assert (
        facts["shards"] == [f"[({N_ENVS},)]"]
        and not facts["sent"]
        and not any(facts["learned"].values())
    )
    assert set(facts["learned"]) == {"ppo", "sac", "differential"}
    start = [
        value
        for name, value in values.items()
        if name.startswith("differential") and value.ndim == 2
    ]
    assert len(values) > 20 and all(
        value.any() for value in start
    )  # something was learned that can differ


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
def test_several_devices_give_the_same_and_send_no_states(folder, alone, count):
    run(folder, (str(count),))
    values, facts = result(folder, str(count))
    assert set(values) == set(alone[0])
    assert_same(values, alone[0])
    assert facts["shards"] == [str([(N_ENVS // count,)] * count)] and facts["states"]
    assert not facts["sent"]  # the recorded world is read where the environments are
    # Gradients are summed over devices, what is learned from is gathered; nothing is passed from
    # one to another.
    for sent in facts["learned"].values():
        assert set(sent) == {"all-gather", "all-reduce"}


@pytest.mark.slow
def test_two_processes_give_the_same(folder, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    run(folder, ("1", address, "2", "0"), ("1", address, "2", "1"))
    for process in "01":
        values, facts = result(folder, f"1-{process}")
        assert any(name.startswith("ppo") for name in values)
        assert_same(values, alone[0])
        assert facts["shards"] == [f"[({N_ENVS // 2},)]"] and facts["states"] and not facts["sent"]


def test_a_mesh_of_one_changes_nothing_and_too_many_devices_are_an_error():
    def double(x):
        return sharding.replicate(sharding.shard(x) * 2)

    without = jax.jit(double).lower(jnp.ones(3)).as_text()
    assert "sharding" not in without
    with jax.set_mesh(sharding.mesh(1)):
        np.testing.assert_array_equal(jax.jit(double)(jnp.arange(3)), [0, 2, 4])
    for count in (0, jax.local_device_count() + 1):
        with pytest.raises(ValueError, match=f"{count} devices asked for, process 0 has"):
            sharding.mesh(count)


def test_an_uneven_number_is_an_error():
    two = jax.sharding.AbstractMesh((2,), (sharding.AXIS,))
    with (
        jax.sharding.use_abstract_mesh(two),
        pytest.raises(ValueError, match="3 cannot be shared out alike over 2 devices"),
    ):
        jax.eval_shape(sharding.shard, jnp.ones(3))
