"""The draw of a fleet's world. Axes: K rows, T slots, D devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.generators import gauss_markov, markov_states
from jaxcoinfer.data.processes import Split
from jaxcoinfer.physics.link import snr_db, spectral_efficiency
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
    """Returns environment and numbers of a scenario; consumes the key. Nothing of it is recorded,
    so no split differs.

    Raises ProfileError, ValueError.
    """
    numbers = fleet_numbers(scenario)
    params = make_params(draw(key, scenario), **numbers)
    n_versions, n_cuts = np.shape(numbers["work_flop"])
    return Fleet(
        scenario.devices, n_versions, n_cuts, with_cloud=scenario.cloud is not None
    ), params


@partial(jax.jit, static_argnames="scenario")
def draw(key: jax.Array, scenario: FleetScenario) -> FleetBank:
    """Returns one realisation of a fleet's world, rows of `slots` slots and one more; consumes the
    key.
    """
    key_noise, key_start, key_weight, key_active, key_kind, key_shares = jax.random.split(key, 6)
    rows, slots, radio = scenario.rows, scenario.slots + 1, scenario.radio
    shape, flat = (rows, slots, scenario.devices), (rows * scenario.devices, slots)
    moves = [(radio.velocity_memory, radio.speed_mps)] * 2
    noise = processes(
        key_noise, flat, [*moves, *[(radio.fading_memory, 0.5**0.5)] * 2, _law(scenario.speed)]
    )
    start = jax.random.uniform(key_start, (2, flat[0]), maxval=2.0 * radio.half_side_m)
    metres = distance_m(start, noise[:2], scenario.slot_s, radio)
    snr = 10.0 ** (snr_db(metres, radio.snr_at_100_m_db, radio.path_loss) / 10.0)
    efficiency = spectral_efficiency(snr * (noise[2] ** 2 + noise[3] ** 2), *radio.efficiency)
    others = processes(
        key_shares, (rows, slots), [_law(scenario.bandwidth), _law(scenario.capacity)]
    )
    shares = jnp.asarray([kind.share for kind in scenario.kinds], jnp.float32)
    kind = jax.random.categorical(key_kind, jnp.log(shares), shape=(rows, scenario.devices))
    return FleetBank(
        efficiency=_of_devices(efficiency, shape),
        weight=weights(key_weight, shape, scenario.tasks),
        speed=_of_devices(around(noise[4], scenario.speed), shape),
        active=activity(key_active, shape, scenario.tasks.leave),
        kind=kind.astype(jnp.int32),
        bandwidth=around(others[0], scenario.bandwidth),
        server=around(others[1], scenario.capacity),
    )


def processes(key: jax.Array, shape: tuple[int, int], laws: list[tuple[float, float]]) -> jax.Array:
    """Independent Gauss-Markov processes [len(laws), *shape], mean 0, each law (memory, deviation).

    Two of deviation sqrt(1/2), squared and added, are the power of Rayleigh fading, mean 1. All in
    one call, which compiles once.
    """
    memory, deviation = jnp.asarray(laws, jnp.float32).T
    keys = jax.random.split(key, len(laws))
    return jax.vmap(gauss_markov, (0, None, 0, 0))(keys, shape, memory, deviation)


def distance_m(
    start_m: jax.Array, velocity_mps: jax.Array, slot_s: float, radio: Radio
) -> jax.Array:
    """Metres to the base station [N, T] of devices in a square whose borders turn them back.

    start_m [2, N] from 0 to one side; velocity_mps [2, N, T]. Folded at both borders: with half
    side r, `|path mod 4r - 2r| - r` lies in [-r, r].
    """
    side = 2.0 * radio.half_side_m
    path = start_m[..., None] + slot_s * jnp.cumsum(velocity_mps, axis=-1)
    place = jnp.abs(path % (2.0 * side) - side) - radio.half_side_m
    return jnp.maximum(jnp.sqrt((place**2).sum(axis=0)), radio.nearest_m)


def weights(key: jax.Array, shape: tuple[int, ...], tasks: Tasks) -> jax.Array:
    """Weights of latency: of each task anew, from the range of its class."""
    key_class, key_weight = jax.random.split(key)
    urgent = jax.random.bernoulli(key_class, tasks.latency_share, shape)
    place = jax.random.uniform(key_weight, shape)
    (low_a, high_a), (low_b, high_b) = tasks.latency_weights, tasks.accuracy_weights
    return jnp.where(urgent, low_a + (high_a - low_a) * place, low_b + (high_b - low_b) * place)


def activity(key: jax.Array, shape: tuple[int, int, int], leave: tuple[float, ...]) -> jax.Array:
    """Whether a device has a task: a two-state chain that leaves having tasks and having none as
    `leave` says.
    """
    states = markov_states(key, (shape[0] * shape[2], shape[1]), jnp.asarray(leave, jnp.float32))
    return _of_devices(states == 0, shape)


def around(noise: jax.Array, vary: GaussMarkov) -> jax.Array:
    """A process around its mean, kept within its range."""
    return jnp.clip(vary.mean + noise, *vary.within)


def _law(vary: GaussMarkov) -> tuple[float, float]:
    return vary.memory, vary.deviation


def _of_devices(flat: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[K * D, T] as [K, T, D]: all devices of a slot lie together, as a step reads them."""
    return flat.reshape(shape[0], shape[2], shape[1]).transpose(0, 2, 1)
