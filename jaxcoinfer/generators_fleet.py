"""The draw of a fleet's world. Axes: K rows, T slots, D devices."""

import jax
import jax.numpy as jnp

from jaxcoinfer.exogenous_fleet import FleetBank
from jaxcoinfer.generators import gauss_markov, markov_states
from jaxcoinfer.physics.link import snr_db, spectral_efficiency
from jaxcoinfer.scenarios_fleet import FleetScenario, Radio, Tasks, Vary


def draw(key: jax.Array, scenario: FleetScenario) -> FleetBank:
    """Returns one realisation of a fleet's world, rows of `slots` slots and one more; consumes the key."""
    key_link, key_weight, key_active, key_speed, key_kind, key_band, key_server = jax.random.split(key, 7)
    rows, slots = scenario.rows, scenario.slots + 1
    shape = (rows, slots, scenario.devices)
    shares = jnp.asarray([kind.share for kind in scenario.kinds], jnp.float32)
    of_kind = jax.random.categorical(key_kind, jnp.log(shares), shape=(rows, scenario.devices))
    return FleetBank(
        efficiency=efficiency(key_link, shape, scenario.slot_s, scenario.radio),
        weight=weights(key_weight, shape, scenario.tasks),
        speed=_of_devices(varying(key_speed, (rows * scenario.devices, slots), scenario.speed), shape),
        active=activity(key_active, shape, scenario.tasks.leave),
        kind=of_kind.astype(jnp.int32),
        bandwidth=varying(key_band, (rows, slots), scenario.bandwidth),
        server=varying(key_server, (rows, slots), scenario.capacity),
    )


def efficiency(key: jax.Array, shape: tuple[int, int, int], slot_s: float, radio: Radio) -> jax.Array:
    """Bits a second and hertz of walking devices, [K, T, D]: path loss and Rayleigh fading through Shannon capacity."""
    key_walk, key_fade = jax.random.split(key)
    flat = (shape[0] * shape[2], shape[1])
    snr = 10.0 ** (snr_db(distance_m(key_walk, flat, slot_s, radio), radio.snr_at_100_m_db, radio.path_loss) / 10.0)
    fading = rayleigh_power(key_fade, flat, radio.fading_memory)
    return _of_devices(spectral_efficiency(snr * fading, *radio.efficiency), shape)


def distance_m(key: jax.Array, shape: tuple[int, int], slot_s: float, radio: Radio) -> jax.Array:
    """Metres to the base station of devices with Gauss-Markov velocity in a square whose borders turn them back."""
    squares = jnp.zeros(shape)
    for key_axis in jax.random.split(key):
        key_start, key_velocity = jax.random.split(key_axis)
        velocity = gauss_markov(key_velocity, shape, radio.velocity_memory, radio.speed_mps)
        start = jax.random.uniform(key_start, (shape[0], 1), maxval=2.0 * radio.half_side_m)
        path = start + slot_s * jnp.cumsum(velocity, axis=1)
        # Folded at both borders: |((path mod 4r) - 2r)| - r lies in [-r, r].
        folded = jnp.abs(path % (4.0 * radio.half_side_m) - 2.0 * radio.half_side_m) - radio.half_side_m
        squares = squares + folded**2
    return jnp.maximum(jnp.sqrt(squares), radio.nearest_m)


def rayleigh_power(key: jax.Array, shape: tuple[int, int], memory: float) -> jax.Array:
    """Power gain of Rayleigh fading, mean 1, [N, T]: squares of two Gauss-Markov processes of deviation sqrt(1/2)."""
    parts = [gauss_markov(part, shape, memory, 0.5**0.5) for part in jax.random.split(key)]
    return parts[0] ** 2 + parts[1] ** 2


def weights(key: jax.Array, shape: tuple[int, ...], tasks: Tasks) -> jax.Array:
    """Weights of latency: of each task anew, from the range of its class."""
    key_class, key_weight = jax.random.split(key)
    urgent = jax.random.bernoulli(key_class, tasks.latency_share, shape)
    place = jax.random.uniform(key_weight, shape)
    (low_a, high_a), (low_b, high_b) = tasks.latency_weights, tasks.accuracy_weights
    return jnp.where(urgent, low_a + (high_a - low_a) * place, low_b + (high_b - low_b) * place)


def activity(key: jax.Array, shape: tuple[int, int, int], leave: tuple[float, ...]) -> jax.Array:
    """Whether a device has a task: a two-state chain that leaves having tasks and having none as `leave` says."""
    states = markov_states(key, (shape[0] * shape[2], shape[1]), jnp.asarray(leave, jnp.float32))
    return _of_devices(states == 0, shape)


def varying(key: jax.Array, shape: tuple[int, int], vary: Vary) -> jax.Array:
    """A Gauss-Markov process [N, T] around a mean, kept within its range."""
    return jnp.clip(vary.mean + gauss_markov(key, shape, vary.memory, vary.deviation), *vary.within)


def _of_devices(flat: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[K * D, T] as [K, T, D]: all devices of a slot lie together, as a step reads them."""
    return flat.reshape(shape[0], shape[2], shape[1]).transpose(0, 2, 1)
