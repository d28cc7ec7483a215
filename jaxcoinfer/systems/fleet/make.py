"""From a scenario to the environment and its numbers: `make`, the draw of a fleet's world, and its
generators.

Axes: K rows, T slots, D devices, N processes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.generators import gauss_markov, markov_states
from jaxcoinfer.data.processes import Split
from jaxcoinfer.physics.link import from_db, snr_db, spectral_efficiency
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.exogenous import FleetBank
from jaxcoinfer.systems.fleet.params import FleetParams, make_params
from jaxcoinfer.systems.fleet.scenario import (
    FleetScenario,
    GaussMarkov,
    Radio,
    Tasks,
    fleet_numbers,
)


def make(
    scenario: FleetScenario, key: jax.Array, *, split: Split = "train"
) -> tuple[Fleet, FleetParams]:
    """Returns environment and numbers of a scenario; consumes the key.

    Nothing is recorded in files, so both splits are draws of the same world. Raises ProfileError,
    ValueError.
    """
    numbers = fleet_numbers(scenario)
    params = make_params(draw(key, scenario), **numbers)
    n_versions, n_cuts = np.shape(numbers["work_flop"])
    with_cloud = scenario.cloud is not None
    return Fleet(scenario.devices, n_versions, n_cuts, with_cloud=with_cloud), params


@partial(jax.jit, static_argnames="scenario")
def draw(key: jax.Array, scenario: FleetScenario) -> FleetBank:
    """Returns one realisation of a fleet's world, rows of `slots` slots and one more; consumes the
    key.
    """
    key_noise, key_start, key_weight, key_active, key_kind, key_shares = jax.random.split(key, 6)
    rows, slots, radio = scenario.rows, scenario.slots + 1, scenario.radio
    shape, flat = (rows, slots, scenario.devices), (rows * scenario.devices, slots)
    velocity = (radio.velocity_memory, radio.speed_mps)
    fading = (radio.fading_memory, 0.5**0.5)
    noise = processes(key_noise, flat, [velocity, velocity, fading, fading, _noise(scenario.speed)])
    start = jax.random.uniform(key_start, (2, flat[0]), maxval=2.0 * radio.half_side_m)
    metres = distance_m(start, noise[:2], scenario.slot_s, radio)
    snr = from_db(snr_db(metres, radio.snr_at_100_m_db, radio.path_loss))
    efficiency = spectral_efficiency(snr * (noise[2] ** 2 + noise[3] ** 2), *radio.efficiency)
    left = processes(
        key_shares, (rows, slots), [_noise(scenario.bandwidth), _noise(scenario.capacity)]
    )
    shares = jnp.asarray([kind.share for kind in scenario.kinds], jnp.float32)
    kind = jax.random.categorical(key_kind, jnp.log(shares), shape=(rows, scenario.devices))
    return FleetBank(
        efficiency=_by_device(efficiency, shape),
        weight=weights(key_weight, shape, scenario.tasks),
        speed=_by_device(around(noise[4], scenario.speed), shape),
        active=activity(key_active, shape, scenario.tasks.leave),
        kind=kind.astype(jnp.int32),
        bandwidth=around(left[0], scenario.bandwidth),
        server=around(left[1], scenario.capacity),
    )


def processes(
    key: jax.Array, shape: tuple[int, int], noises: list[tuple[float, float]]
) -> jax.Array:
    """Returns independent Gauss-Markov processes [N, *shape] of mean 0; consumes the key.

    noises: (memory, deviation) of each. Two of deviation sqrt(1/2), squared and added, are the
    power of Rayleigh fading, mean 1. All are drawn in one call, which compiles once.
    """
    memory, deviation = jnp.asarray(noises, jnp.float32).T
    keys = jax.random.split(key, len(noises))
    return jax.vmap(gauss_markov, (0, None, 0, 0))(keys, shape, memory, deviation)


def distance_m(
    start_m: jax.Array, velocity_mps: jax.Array, slot_s: float, radio: Radio
) -> jax.Array:
    """Returns metres to the base station [K D, T] of devices in a square that turn back at its
    borders.

    start_m [2, K D] from 0 to one side; velocity_mps [2, K D, T]. Folded at both borders: with half
    side r, `|path mod 4r - 2r| - r` lies in [-r, r].
    """
    side = 2.0 * radio.half_side_m
    path = start_m[..., None] + slot_s * jnp.cumsum(velocity_mps, axis=-1)
    place = jnp.abs(path % (2.0 * side) - side) - radio.half_side_m
    return jnp.maximum(jnp.sqrt((place**2).sum(axis=0)), radio.nearest_m)


def weights(key: jax.Array, shape: tuple[int, ...], tasks: Tasks) -> jax.Array:
    """Returns the weight of latency of each task, drawn from the range of its class; consumes the
    key.
    """
    key_class, key_weight = jax.random.split(key)
    urgent = jax.random.bernoulli(key_class, tasks.latency_share, shape)
    place = jax.random.uniform(key_weight, shape)
    (low_a, high_a), (low_b, high_b) = tasks.latency_weights, tasks.accuracy_weights
    return jnp.where(urgent, low_a + (high_a - low_a) * place, low_b + (high_b - low_b) * place)


def activity(key: jax.Array, shape: tuple[int, int, int], leave: tuple[float, ...]) -> jax.Array:
    """Returns whether a device has a task, bool [K, T, D]: a two-state chain; consumes the key.

    leave: probabilities to leave the state with tasks, and the one without.
    """
    states = markov_states(key, (shape[0] * shape[2], shape[1]), jnp.asarray(leave, jnp.float32))
    return _by_device(states == 0, shape)


def around(noise: jax.Array, process: GaussMarkov) -> jax.Array:
    """Returns a process around its mean, kept within its range."""
    return jnp.clip(process.mean + noise, *process.within)


def _noise(process: GaussMarkov) -> tuple[float, float]:
    return process.memory, process.deviation


def _by_device(flat: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[K D, T] as [K, T, D]: all devices of a slot lie together, as a step reads them."""
    return flat.reshape(shape[0], shape[2], shape[1]).transpose(0, 2, 1)
