"""From a scenario to the environment and its numbers: `make`, the draw of the exogenous processes,
and the generators that only `on-demand` has.

Axes: K rows, T slots, M states of a Markov chain, G deadline classes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.generators import link, speeds
from jaxcoinfer.data.processes import HeldOutages, MarkovRate, RecordedRate, Split
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.exogenous import Draw, make_bank
from jaxcoinfer.systems.on_demand.params import Params, make_params
from jaxcoinfer.systems.on_demand.scenario import OnDemandScenario, grid_numbers, stationary


def make(
    scenario: OnDemandScenario, key: jax.Array, *, split: Split = "train"
) -> tuple[OnDemand, Params]:
    """Returns environment and numbers of a scenario; consumes the key.

    Raises ProfileError, TraceError, ValueError.
    """
    realisation = draw(key, scenario, split=split)
    numbers = grid_numbers(scenario.task)
    params = make_params(
        make_bank(realisation),
        deadline_s=[c.deadline_s for c in scenario.classes],
        accuracy_weight=[c.accuracy_weight for c in scenario.classes],
        penalty=[c.penalty for c in scenario.classes],
        cap=scenario.cap,
        delay_slots=scenario.delay_slots,
        **numbers,
    )
    return OnDemand(*numbers["accuracy"].shape, n_classes=len(scenario.classes)), params


def draw(key: jax.Array, scenario: OnDemandScenario, *, split: Split = "train") -> Draw:
    """Returns one realisation of a scenario, [rows, slots]; consumes the key.

    Recorded links are read from their files. Raises TraceError.
    """
    key_rate, key_outage, key_device, key_edge, key_class = jax.random.split(key, 5)
    shape = (scenario.rows, scenario.slots)
    rate_bps, observed_bps = _rates_bps(key_rate, shape, scenario, split)
    match scenario.outages:
        case HeldOutages(begin, shortest, longest):
            is_out = held_outages(key_outage, shape, begin, shortest, longest)
            rate_bps = jnp.where(is_out, 0.0, rate_bps)
            observed_bps = jnp.where(_late(is_out, scenario), 0.0, observed_bps)
    return Draw(
        rate_bps=rate_bps,
        observed_bps=observed_bps,
        device_speed=speeds(key_device, shape, scenario.device_speed),
        edge_speed=speeds(key_edge, shape, scenario.edge_speed),
        task_class=task_classes(key_class, shape, tuple(c.share for c in scenario.classes)),
    )


def _rates_bps(
    key: jax.Array, shape: tuple[int, int], scenario: OnDemandScenario, split: Split
) -> tuple[jax.Array, jax.Array]:
    """Link rates, and what is known of them, [K, T] float32, before any outages that are held."""
    match scenario.rate:
        case MarkovRate(rates_bps, transition):
            states = markov_chain(key, shape, np.asarray(transition))
            rate_bps = jnp.asarray(rates_bps, jnp.float32)[states]
            return rate_bps, _late(rate_bps, scenario)
    drawn = link(key, shape, scenario.rate, scenario.slot_s, split)
    rate_bps = drawn.bits.astype(jnp.float32) * (1.0 / scenario.slot_s)
    if not isinstance(scenario.rate, RecordedRate):
        return rate_bps, _late(rate_bps, scenario)
    return rate_bps, drawn.observed_bits.astype(jnp.float32) * (1.0 / scenario.slot_s)


def _late(values: jax.Array, scenario: OnDemandScenario) -> jax.Array:
    """Values [K, T] as known `delay_slots` later; a row begins to be played after so many slots."""
    return jnp.roll(values, scenario.delay_slots, axis=1)


def markov_chain(key: jax.Array, shape: tuple[int, int], transition: np.ndarray) -> jax.Array:
    """Returns states [K, T] int32 of chains that go from state i to j with probability
    transition[i, j]; consumes the key.

    The first state is drawn from the stationary distribution.
    """
    key_first, key_move = jax.random.split(key)
    k, t = shape
    # Up to the last state but one: what rounding leaves missing from 1 falls to the last.
    steps = jnp.asarray(np.cumsum(transition, axis=1)[:, :-1], jnp.float32)
    cumulative = jnp.asarray(np.cumsum(stationary(transition))[:-1], jnp.float32)
    uniform = jax.random.uniform(key_first, (k, 1))
    first = (uniform >= cumulative[None]).sum(axis=1).astype(jnp.int32)

    def move(state: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (uniform[:, None] >= steps[state]).sum(axis=1).astype(jnp.int32), state

    return jax.lax.scan(move, first, jax.random.uniform(key_move, (t, k)))[1].T


def held_outages(
    key: jax.Array, shape: tuple[int, int], begin: float, shortest: int, longest: int
) -> jax.Array:
    """Returns whether the link is out, bool [K, T], under `HeldOutages`; consumes the key.

    The state of the chain is the number of slots that an outage still lasts, 0 while the link is
    up. From n > 0 it goes to n - 1; from 0, with probability `begin`, to a length drawn uniformly
    from shortest to longest. It starts in its stationary distribution, in which 0 weighs
    `1 / begin` and n weighs `P(length >= n)`.
    """
    key_first, key_begin, key_length = jax.random.split(key, 3)
    k, t = shape
    weights = np.append(1.0 / begin, _survival(np.arange(1, longest + 1), shortest, longest))
    first = jax.random.categorical(
        key_first, jnp.asarray(np.log(weights), jnp.float32), shape=(k,)
    ).astype(jnp.int32)
    begins = jax.random.bernoulli(key_begin, begin, (t, k))
    lengths = jax.random.randint(key_length, (t, k), shortest, longest + 1, dtype=jnp.int32)

    def move(left: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        starts, length = drawn
        return jnp.where(left > 0, left - 1, jnp.where(starts, length, 0)), left > 0

    return jax.lax.scan(move, first, (begins, lengths))[1].T


def _survival(slots: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """P(length >= slots) of a length uniform from shortest to longest."""
    return np.clip((longest + 1 - slots) / (longest + 1 - shortest), 0.0, 1.0)


def task_classes(key: jax.Array, shape: tuple[int, int], shares: tuple[float, ...]) -> jax.Array:
    """Returns the deadline class of each slot's task, int32 [K, T], drawn with `shares` [G];
    consumes the key.
    """
    return jax.random.categorical(
        key, jnp.log(jnp.asarray(shares, jnp.float32)), shape=shape
    ).astype(jnp.int32)
