"""Generators of everything random or recorded, one process per function, [K, T] each.

Axes: K rows, T slots, M states of a Markov chain.
"""

# JAX's own signatures are partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.data import processes, traces
from jaxcoinfer.data.processes import Split
from jaxcoinfer.physics.link import from_db
from jaxcoinfer.physics.queueing import TICKS

Number = jax.Array | float
# Shares of a recorded arrival log, from its beginning: nothing is counted on what was learned from.
PARTS: dict[Split, tuple[float, float]] = {
    "train": (0.0, 0.5),
    "validation": (0.5, 0.7),
    "test": (0.7, 1.0),
}


class Link(struct.PyTreeNode):
    """A link, and what is known of it; int32 [K, T]."""

    bits: jax.Array  # that it carries in a slot
    # Bits a slot as they were last measured when a slot begins: of a recorded rate, the mean of the
    # last step that is over; of a generated one, the slot before.
    observed_bits: jax.Array


def to_ticks(work_s: jax.Array, slot_s: Number) -> jax.Array:
    """Returns seconds of server work as whole ticks, `round(TICKS * work_s / slot_s)`."""
    return jnp.round(work_s * (TICKS / slot_s)).astype(jnp.int32)


def bernoulli_arrivals(key: jax.Array, shape: tuple[int, int], probability: Number) -> jax.Array:
    """Returns at most one task per slot, with `probability` (a number, or [K, 1])."""
    return jax.random.bernoulli(key, probability, shape).astype(jnp.int32)


def poisson_arrivals(key: jax.Array, shape: tuple[int, int], mean: Number) -> jax.Array:
    """Returns Poisson numbers of tasks per slot, of `mean` (a number, or [K, 1])."""
    return jax.random.poisson(key, mean, shape, dtype=jnp.int32)


def markov_states(key: jax.Array, shape: tuple[int, ...], leave: jax.Array) -> jax.Array:
    """Returns states [K, T] int32 of M-state chains that leave state i for any other with
    probability leave[i].

    The first state is drawn from the stationary law, which is proportional to `1 / leave`.
    """
    key_first, key_leave, key_where = jax.random.split(key, 3)
    k, t = shape
    m = leave.shape[0]
    first = jax.random.categorical(key_first, -jnp.log(leave), shape=(k,)).astype(jnp.int32)
    leaves = jax.random.uniform(key_leave, (t, k))
    shifts = jax.random.randint(key_where, (t, k), 1, max(m, 2), dtype=jnp.int32)

    def move(state: Any, draw: Any):
        uniform, shift = draw
        return jnp.where(uniform < leave[state], (state + shift) % m, state), state

    return jax.lax.scan(move, first, (leaves, shifts))[1].T


def mmpp_arrivals(
    key: jax.Array, shape: tuple[int, int], means: jax.Array, leave: jax.Array
) -> jax.Array:
    """Returns two-state Markov-modulated Poisson numbers of tasks: means [2] per slot, leave [2]
    the probability to leave a state.
    """
    key_state, key_count = jax.random.split(key)
    return jax.random.poisson(
        key_count, means[markov_states(key_state, shape, leave)], dtype=jnp.int32
    )


def poisson_batch_work(
    key: jax.Array,
    shape: tuple[int, int],
    load: Number,
    job_s: float,
    slot_s: float,
    jobs: str = "uniform",
) -> jax.Array:
    """Returns the ticks of work that Poisson jobs bring per slot; `load` is the share of the server
    that they take (a number, or [K, 1]).

    Jobs are uniform on (0, job_s) or exponential with mean job_s; their mean number per slot is
    `load * slot_s / E[job]`.
    """
    key_count, key_size = jax.random.split(key)
    mean_job_s = job_s / 2 if jobs == "uniform" else job_s
    count = jax.random.poisson(
        key_count, jnp.broadcast_to(load * (slot_s / mean_job_s), shape), dtype=jnp.int32
    )
    draws = {
        "uniform": lambda key: jax.random.uniform(key, shape, maxval=job_s),
        "exponential": lambda key: jax.random.exponential(key, shape) * job_s,
    }
    if jobs not in draws:
        raise ValueError(
            f"edge load: jobs {jobs!r} is unknown; allowed: {', '.join(map(repr, draws))}."
        )

    def add(carry: Any):
        number, total = carry
        size = draws[jobs](jax.random.fold_in(key_size, number))
        return number + 1, total + jnp.where(number < count, size, 0.0)

    largest = count.max()
    _, work_s = jax.lax.while_loop(lambda c: c[0] < largest, add, (jnp.int32(0), jnp.zeros(shape)))
    return to_ticks(work_s, slot_s)


def constant_bits(shape: tuple[int, int], rate_bps: float, slot_s: float) -> jax.Array:
    """Returns the bits per slot of a link of constant rate."""
    return jnp.full(shape, round(rate_bps * slot_s), jnp.int32)


def gauss_markov(
    key: jax.Array, shape: tuple[int, int], memory: float, deviation: float
) -> jax.Array:
    """Returns a stationary first-order process [K, T]:

    x[t+1] = memory x[t] + sqrt(1 - memory^2) deviation N(0, 1)
    """
    noise = deviation * jax.random.normal(key, (shape[1], shape[0]))
    fresh = (1.0 - memory**2) ** 0.5

    def move(x: jax.Array, z: jax.Array):
        return memory * x + fresh * z, x

    return jax.lax.scan(move, noise[0], jnp.roll(noise, -1, axis=0))[1].T


def fading_bits(
    key: jax.Array,
    shape: tuple[int, int],
    slot_s: float,
    bandwidth_hz: float,
    snr_db: float,
    shadowing_db: float,
    shadowing_memory: float,
    block_slots: int,
) -> jax.Array:
    """Returns the bits per slot by Shannon capacity: `B log2(1 + snr 10^(X/10) |h|^2)`.

    X is Gauss-Markov shadowing in dB, |h|^2 Rayleigh block fading (exponential, mean 1); both
    change every `block_slots` slots.
    """
    key_shadow, key_fade = jax.random.split(key)
    blocks = (shape[0], -(-shape[1] // block_slots))
    shadow = gauss_markov(key_shadow, blocks, shadowing_memory, shadowing_db)
    snr = from_db(snr_db + shadow) * jax.random.exponential(key_fade, blocks)
    bits = jnp.round(bandwidth_hz * slot_s * jnp.log2(1.0 + snr)).astype(jnp.int32)
    return jnp.repeat(bits, block_slots, axis=1)[:, : shape[1]]


def markov_speed(
    key: jax.Array, shape: tuple[int, int], speeds: jax.Array, leave: jax.Array
) -> jax.Array:
    """Returns the speed of a device that jumps between `speeds` [M], leaving state i with
    probability leave[i] per slot.
    """
    return speeds[markov_states(key, shape, leave)]


def link(key: jax.Array, shape: tuple[int, int], rate: Any, slot_s: float, split: Split) -> Link:
    """Returns the link of a scenario's `rate`; recorded rates are those of `split`.

    With Gilbert-Elliott outages (`outage_leave`) it carries nothing while a two-state chain is in
    state 1.
    """
    key_rate, key_outage = jax.random.split(key)
    longer = (shape[0], shape[1] + 1)  # with the slot before the first
    match rate:
        case processes.ConstantRate(rate_bps):
            bits = constant_bits(shape, rate_bps, slot_s)
            drawn = Link(bits, bits)
        case processes.Fading(bandwidth_hz, snr_db, shadowing_db, memory, block):
            bits = fading_bits(
                key_rate, longer, slot_s, bandwidth_hz, snr_db, shadowing_db, memory, block
            )
            drawn = Link(bits[:, 1:], bits[:, :-1])
        case processes.RecordedRate():
            drawn = _recorded_link(key_rate, shape, slot_s, rate, split)
        case _:
            raise TypeError(f"rate: {rate!r} is no process of `jaxcoinfer.data.processes`.")
    if not rate.outage_leave:
        return drawn
    leave = jnp.asarray(rate.outage_leave, jnp.float32)
    is_up = markov_states(key_outage, longer, leave) == 0
    return Link(
        jnp.where(is_up[:, 1:], drawn.bits, 0), jnp.where(is_up[:, :-1], drawn.observed_bits, 0)
    )


def speeds(key: jax.Array, shape: tuple[int, int], speed: Any) -> jax.Array:
    """Returns the speed in each slot of a scenario's `speed`, float32 [K, T]; 1 = nominal."""
    match speed:
        case processes.ConstantSpeed():
            return jnp.ones(shape, jnp.float32)
        case processes.MarkovSpeed(values, leave):
            return markov_speed(
                key, shape, jnp.asarray(values, jnp.float32), jnp.asarray(leave, jnp.float32)
            )
        case _:
            raise TypeError(f"speed: {speed!r} is no process of `jaxcoinfer.data.processes`.")


def _recorded_link(
    key: jax.Array,
    shape: tuple[int, int],
    slot_s: float,
    rate: processes.RecordedRate,
    split: Split,
) -> Link:
    """Each row takes the next trace in turn, from a random instant after its first step."""
    k, t = shape
    key_start, key_factor = jax.random.split(key)
    starts = np.asarray(jax.random.uniform(key_start, (k,)))
    spread = np.asarray(jax.random.uniform(key_factor, (k,), minval=-1.0, maxval=1.0))
    factors = rate.share * (rate.vary**spread if split == "train" else np.ones(k))
    files = traces.of_rows(rate.of(split), k)
    recorded = {file: traces.read_rate_trace(file) for file in set(files)}
    bits, observed = [], []
    for file, factor, start in zip(files, factors, starts, strict=True):
        trace = recorded[file].scaled(float(factor))
        begin_s = trace.step_s
        start_s = begin_s + _random_start_s(trace.duration_s - begin_s, slot_s, t, start)
        bits.append(traces.slot_bits(trace, slot_s, t, start_s))
        observed.append(traces.observed_bits(trace, slot_s, t, start_s))
    return Link(*(jnp.asarray(np.stack(rows), jnp.int32) for rows in (bits, observed)))


def recorded_counts(
    key: jax.Array, shape: tuple[int, int], slot_s: float, file: str, mean: float, split: Split
) -> jax.Array:
    """Returns the requests per slot of a recorded trace, int32 [K, T], its time rescaled such that
    there are `mean` per slot.

    Each row starts at a random instant of the part of the log that belongs to `split`; consumes the
    key. Raises TraceError where a row does not fit.
    """
    k, t = shape
    begin, end = PARTS[split]
    trace = traces.read_arrival_trace(file).part(begin, end)
    scale = traces.time_scale_for_rate(trace, mean / slot_s)
    starts = np.asarray(jax.random.uniform(key, (k,)))
    rows = []
    for row in range(k):
        start_s = _random_start_s(trace.duration_s * scale, slot_s, t, starts[row])
        rows.append(traces.arrival_counts(trace, slot_s, t, start_s, scale))
    return jnp.asarray(np.stack(rows), jnp.int32)


def _random_start_s(duration_s: float, slot_s: float, n_slots: int, uniform: float) -> float:
    """A start such that the row fits; 0 where it does not fit at all, which the trace reader then
    reports.
    """
    spare_s = duration_s - n_slots * slot_s
    return float(uniform) * spare_s * 0.999 if spare_s > 0 else 0.0
