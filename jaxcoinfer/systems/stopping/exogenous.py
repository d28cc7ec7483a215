"""Everything random or recorded, as arrays: arrivals, edge load, link rate, device speed.

What a decision cannot change is data. A `Draw` holds K rows of T slots as they were generated or
recorded; a `Bank` holds the prefix sums of a draw, so that a decision costs O(1) whatever the
length of a row.

Work of the server is counted in ticks, `TICKS` to a slot, and bits are whole: every sum is an int32
whose differences are exact, also where the sum itself wraps around.

Axes: K rows, T slots, N tasks of a row.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.data.processes import MAX_SLOTS
from jaxcoinfer.physics.queueing import TICKS

SPEED_ONE = 1 << 16  # the device's nominal speed in the bank's fixed-point numbers

# Columns of `Bank.slots`. All of a slot lies together: what a decision costs is the number of
# places in memory it reads, and so it reads one for where it stands and one for where it goes.
ARRIVED, ARRIVED_SUM, BACKLOG, IDLE, BITS, BITS_SUM, SPEED, UPLOADS = range(8)
_PER_UPLOAD = 3  # columns an upload of one size takes from UPLOADS on
_RECORD = 8  # columns gathered as one record


class Draw(struct.PyTreeNode):
    """One realisation of everything a decision cannot change."""

    arrivals: jax.Array  # [K, T] int32, tasks that arrive in a slot
    edge_work: jax.Array  # [K, T] int32, ticks of server work that other devices bring in a slot
    slot_bits: jax.Array  # [K, T] int32, bits the link carries in a slot
    # [K, T] int32, bits a slot as they were last measured when a slot begins
    observed_bits: jax.Array
    speed: jax.Array  # [K, T] float32, of the device, 1 = nominal


class Bank(struct.PyTreeNode):
    """Prefix sums of a `Draw`; all that an environment reads.

    Columns C of `slots`:

        ARRIVED      A[t] = #{n: a_n <= t}
        ARRIVED_SUM  AA[t] = sum_{u<t} A[u]
        BACKLOG      Q[t], ticks of work of the others at the start of slot t
        IDLE         I[t], ticks the server would have idled before t
        BITS         a slot, as last measured when slot t begins
        BITS_SUM     carried before t, wrapping around
        SPEED        of the device in slot t, in units of 1/65,536
        UPLOADS      and all after it: what `with_uploads` adds
    """

    slots: jax.Array  # [K, T+1, C] int32
    arrival_slot: jax.Array  # [K, N] int32, slot a_n of the n-th task, T+1 where there is none

    @property
    def n_rows(self) -> int:
        return self.slots.shape[0]

    @property
    def n_slots(self) -> int:
        return self.slots.shape[1] - 1


class Slot(struct.PyTreeNode):
    """The bank's record of one slot, whole as it was gathered; columns as in `Bank.slots`."""

    record: jax.Array  # [..., 8] int32

    arrived = property(lambda self: self.record[..., ARRIVED])
    arrived_sum = property(lambda self: self.record[..., ARRIVED_SUM])
    backlog = property(lambda self: self.record[..., BACKLOG])
    idle = property(lambda self: self.record[..., IDLE])
    bits = property(lambda self: self.record[..., BITS])
    bits_sum = property(lambda self: self.record[..., BITS_SUM])
    speed = property(lambda self: self.record[..., SPEED])


def tick_s(slot_s: jax.Array) -> jax.Array:
    """Returns the seconds of server work in a tick."""
    return slot_s * (1.0 / TICKS)


def relative_speed(speed: jax.Array) -> jax.Array:
    """Returns the speed of the device, 1 = nominal, float32, from the bank's fixed-point number."""
    return speed.astype(jnp.float32) * (1.0 / SPEED_ONE)


def make_slot(arrived: jax.Array, backlog: jax.Array, bits: jax.Array, speed: jax.Array) -> Slot:
    """Returns the record of a slot that is in no bank; int32, the remaining columns are zero."""
    record = jnp.zeros((_RECORD,), jnp.int32)
    for column, number in ((ARRIVED, arrived), (BACKLOG, backlog), (BITS, bits), (SPEED, speed)):
        record = record.at[column].set(number)
    return Slot(record)


def slot_at(bank: Bank, row: jax.Array, slot: jax.Array) -> Slot:
    """Returns the record of `slot` in `row`; both int32 and inside the bank."""
    return Slot(_gather(bank, row, slot, 0, _RECORD))


def upload_record(
    bank: Bank, row: jax.Array, slot: jax.Array, point: jax.Array
) -> tuple[jax.Array, ...]:
    """Returns, for an upload of size `point` that begins at `slot` of `row`: the slots it takes,
    and at its end the others' backlog and the server's idle time, ticks; int32. Of a bank with
    uploads.
    """
    record = _gather(bank, row, slot, UPLOADS + _PER_UPLOAD * point, _PER_UPLOAD)
    return record[..., 0], record[..., 1], record[..., 2]


def _gather(
    bank: Bank, row: jax.Array, slot: jax.Array, column: int | jax.Array, width: int
) -> jax.Array:
    begin = (row * (bank.n_slots + 1) + slot) * bank.slots.shape[-1] + column
    dimensions = jax.lax.GatherDimensionNumbers(
        offset_dims=(begin.ndim,), collapsed_slice_dims=(), start_index_map=(0,)
    )
    mode = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return jax.lax.gather(bank.slots.reshape(-1), begin[..., None], dimensions, (width,), mode=mode)


def arrival(bank: Bank, row: jax.Array, task: jax.Array) -> jax.Array:
    """Returns slot a_n of task n, T+1 (never) past the last task of the row."""
    n_tasks = bank.arrival_slot.shape[1]
    index = row * n_tasks + jnp.minimum(task, n_tasks - 1)
    return bank.arrival_slot.reshape(-1).at[index].get(mode="promise_in_bounds")


@jax.jit
def make_bank(draw: Draw) -> Bank:
    """Returns the prefix sums of a draw.

    Backlog and idle time of the server under the work of the others alone are the reflection of
    `S[t] = sum_{u<t} (W[u-1] - TICKS)` at zero:

        I[t] = max(0, max_{u<=t} -S[u])
        Q[t] = S[t] + I[t] + W[t-1]

    which solves `Q[t+1] = max(Q[t] - TICKS, 0) + W[t]`, `I[t+1] = I[t] + max(TICKS - Q[t], 0)`.
    """
    k, t = draw.arrivals.shape
    if t > MAX_SLOTS:
        raise ValueError(
            f"a row has {t} slots; at most {MAX_SLOTS} are exact. Use more rows or longer slots."
        )
    zero = jnp.zeros((k, 1), jnp.int32)
    arrived = jnp.cumsum(draw.arrivals, axis=1, dtype=jnp.int32)
    arrived = jnp.concatenate([arrived, arrived[:, -1:]], axis=1)
    arrived_sum = jnp.concatenate(
        [zero, jnp.cumsum(arrived[:, :-1], axis=1, dtype=jnp.int32)], axis=1
    )
    before = jnp.concatenate([zero, draw.edge_work], axis=1)  # W[t-1]
    free = jnp.concatenate(
        [zero, jnp.cumsum(before[:, :-1] - TICKS, axis=1, dtype=jnp.int32)], axis=1
    )
    idle = jax.lax.cummax(jnp.maximum(-free, 0), axis=1)
    speed = jnp.round(draw.speed * SPEED_ONE).astype(jnp.int32)
    columns = [
        arrived,
        arrived_sum,
        free + idle + before,
        idle,
        jnp.concatenate([draw.observed_bits, draw.observed_bits[:, -1:]], axis=1),
        jnp.concatenate([zero, jnp.cumsum(draw.slot_bits, axis=1, dtype=jnp.int32)], axis=1),
        jnp.concatenate([speed, speed[:, -1:]], axis=1),
    ]
    slots = jnp.stack(columns + [jnp.zeros_like(arrived)] * (_RECORD - len(columns)), axis=-1)
    numbers = jnp.arange(t + 1, dtype=jnp.int32)
    first = jax.vmap(lambda a: jnp.searchsorted(a, numbers, side="right"))(arrived).astype(
        jnp.int32
    )
    return Bank(slots, jnp.where(numbers[None] < arrived[:, -1:], first, t + 1))


@jax.jit
def with_uploads(bank: Bank, slots: jax.Array) -> Bank:
    """Returns the bank with three columns for each upload size: the slots it takes from slot t on,
    and the backlog of the others and the idle time of the server at its end (at the row's where it
    does not end).

    slots [K, T+1, P] int32: as `upload_table` gives them.
    """
    k, t = bank.n_rows, bank.n_slots
    end = jnp.minimum(jnp.arange(t + 1, dtype=jnp.int32)[None, :, None] + slots, t)
    at_end = [
        jax.vmap(lambda column, i: column[i])(bank.slots[:, :, c], end) for c in (BACKLOG, IDLE)
    ]
    uploads = jnp.stack([slots, *at_end], axis=-1).reshape(k, t + 1, -1)
    filler = jnp.zeros((k, t + 1, -(UPLOADS + uploads.shape[-1]) % _RECORD), jnp.int32)
    if k * (t + 1) * (UPLOADS + uploads.shape[-1] + filler.shape[-1]) >= 2**31:
        raise ValueError(
            f"a bank of {k} rows of {t} slots is too large for 32-bit places. "
            "Use fewer or shorter rows."
        )
    return bank.replace(
        slots=jnp.concatenate([bank.slots[:, :, :UPLOADS], uploads, filler], axis=-1)
    )


def upload_slots(bank: Bank, n_points: int) -> jax.Array:
    """Returns the slots an upload takes, [K, T+1, P] int32, of a bank with uploads."""
    return bank.slots[:, :, UPLOADS : UPLOADS + _PER_UPLOAD * n_points : _PER_UPLOAD]


@jax.jit
def upload_table(slot_bits: jax.Array, upload_bits: jax.Array) -> jax.Array:
    """Returns how many slots an upload of each size takes, whatever slot it begins in: int32
    [K, T+1, P].

    `u[k, t, p] = min{n : sum_{t<=i<t+n} slot_bits[k, i] >= upload_bits[p]}`, and T+1 where the row
    ends first. slot_bits [K, T] int32 bits, upload_bits [P] int32 bits. The sum is kept in two
    words, because a long row carries more bits than an int32 counts. Exact, also through outages.
    """
    k, t = slot_bits.shape
    high, low = _two_word_sums(slot_bits)
    start = jnp.broadcast_to(jnp.arange(t + 1, dtype=jnp.int32), (k, t + 1))

    def search(bits: jax.Array) -> jax.Array:
        want_low = low + (bits & _LOW_MASK)
        want_high, want_low = high + (bits >> _LOW) + (want_low >> _LOW), want_low & _LOW_MASK

        def enough(slots: jax.Array) -> jax.Array:
            end = start + slots
            at = jnp.minimum(end, t)
            at_high, at_low = (
                jnp.take_along_axis(high, at, axis=1),
                jnp.take_along_axis(low, at, axis=1),
            )
            return (
                (end > t) | (at_high > want_high) | ((at_high == want_high) & (at_low >= want_low))
            )

        def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            too_few, many = bounds
            middle = (too_few + many) // 2
            fits = enough(middle)
            return jnp.where(fits, too_few, middle), jnp.where(fits, middle, many)

        # Doubling first: the search then costs the logarithm of the longest upload, not of the row.
        longest = jax.lax.while_loop(
            lambda slots: ~enough(slots).all(), lambda slots: 2 * slots, jnp.int32(1)
        )
        rounds = jnp.ceil(jnp.log2(longest.astype(jnp.float32))).astype(jnp.int32) + 1
        bounds = (jnp.full_like(start, -1), jnp.broadcast_to(longest, start.shape))
        _, slots = jax.lax.fori_loop(0, rounds, halve, bounds)
        return jnp.where(start + slots > t, t + 1, slots)

    return jax.lax.map(search, upload_bits).transpose(1, 2, 0)


_DIGIT = 11  # bits: a sum of MAX_SLOTS digits fits an int32, its carry included
_LOW = 2 * _DIGIT  # bits in the low word of a sum
_LOW_MASK = (1 << _LOW) - 1


def _two_word_sums(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of values [K, T] before each slot, [K, T+1]: words above, below `2**22`."""
    mask = (1 << _DIGIT) - 1
    digits = [values & mask, (values >> _DIGIT) & mask, values >> _LOW]
    zero = jnp.zeros((values.shape[0], 1), jnp.int32)
    ones, middle, high = (
        jnp.concatenate([zero, jnp.cumsum(digit, axis=1, dtype=jnp.int32)], axis=1)
        for digit in digits
    )
    middle = middle + (ones >> _DIGIT)
    return high + (middle >> _DIGIT), (ones & mask) | ((middle & mask) << _DIGIT)


def concatenate(draws: Sequence[Draw]) -> Draw:
    """Puts the rows of several draws, all of T slots, into one."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *draws)
