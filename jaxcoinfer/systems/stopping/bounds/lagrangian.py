"""A certified upper bound on what any policy can reach in a recorded world, clairvoyant ones
included: prices for every slot of processor and radio.

In one row, task n arrives at slot a_n. Choice l takes d_l slots of the processor (all layers at the
fastest speed of the bank), and an upload begun at slot b is on air for u_l[b] slots. Relax "the
processor holds one task per slot" and "the radio holds one upload per slot", with prices
p[t], q[t] >= 0 for what is used. A task may then begin whenever it likes, and with prefix sums P, Q
of the prices

    g_l[b] = -(Q[b + u_l[b]] - Q[b]) - beta E_tx - (b + u_l[b]) D - backlog[b + u_l[b]] - e_l - rtt
    G_l[t] = max over b >= t of g_l[b]
    H_l[t] = max over s >= t of -(P[s + d_l] - P[s]) + G_l[s + d_l]

(on the device -(s + d) D stands for G), the sum of the utilities of any N tasks of the row is at
most

    sum_n max_l (alpha acc_{n,l} - beta E_dev(l) + H_l[a_n] + a_n D) + sum_t (p[t] + q[t]).

Proof. A plan that a policy realises holds the processor with at most one task and the radio with at
most one upload per slot, begins no task before it arrives and no upload before its layers are done,
takes d_l slots or more, and meets at the server at least the backlog of the others. So it is among
those over which the maxima are taken, and its utilities are no larger than what stands in them plus
the prices of what it uses, which are at most the sum of all prices (weak duality). Every task that
an environment counts ends within the row, so uploads and layers that would not are left out. What a
task is not allowed to know only makes a policy worse; of an image's own outcome, which nobody
knows, acc_{n,l} is what is expected given all that a policy may see, the head's confidence.

At prices of zero every task is alone, as in `isolated`. The prices come from subgradients (slots
used less one) with Polyak's steps towards what a known plan reaches, in float32; the bound itself
is then computed in float64. Axes: K rows, T slots, N tasks, P = Le+1 stopping points with an
upload.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.physics.compute import layer_slots
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.exogenous import ARRIVED, BACKLOG, SPEED
from jaxcoinfer.systems.stopping.params import Params

N_STEPS = 100
_NEVER = -1e9  # utility of what does not fit the row


class Row(struct.PyTreeNode):
    """What one row allows, without queues; int32 and float32."""

    arrival: jax.Array  # int32 [N], slot a_n; 0 where there is no such task
    own: jax.Array  # [N, P+1], alpha acc - beta E_dev + a_n D
    compute: jax.Array  # int32 [P+1], d_l
    air: jax.Array  # int32 [T+1, P], u_l[b], not past the end of the row
    sent: jax.Array  # [T+1, P], g_l[b] at prices of zero; _NEVER where it does not fit
    slot_s: jax.Array


class Bound(struct.PyTreeNode):
    """What prices say of every row, NumPy float64."""

    each: np.ndarray  # [K, N], of each task, prices of what it uses taken off
    paid: np.ndarray  # [K], sum of the prices

    def by_row(self, counts: np.ndarray) -> np.ndarray:
        """Returns what the mean utility of the first counts [K] tasks of each row cannot exceed."""
        sums = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(self.each, axis=1)], axis=1)
        total = sums[np.arange(len(counts)), counts] + self.paid
        return total / np.maximum(counts, 1)


def solve(
    env: Stopping,
    params: Params,
    counts: np.ndarray,
    reached: np.ndarray,
    n_steps: int = N_STEPS,
) -> Bound:
    """Returns the bound of the best prices found for the first counts [K] tasks of each row.

    reached [K]: the mean utility of some plan on as many tasks, towards which the steps go: any
    number gives a bound, that of a good plan a close one.
    """
    rows = allowed(env, params)
    known = jnp.asarray(reached * counts, jnp.float32)
    prices = _search(rows, jnp.asarray(counts, jnp.int32), known, n_steps)
    return certify(rows, *(np.asarray(price, np.float64) for price in prices))


def certify(rows: Row, processor: np.ndarray, radio: np.ndarray) -> Bound:
    """Returns the bound that prices >= 0 [K, T] give, in float64."""
    rows = jax.tree.map(np.asarray, rows)
    each = [
        _each(jax.tree.map(lambda leaf, k=k: leaf[k], rows), processor[k], radio[k])
        for k in range(len(processor))
    ]
    return Bound(np.stack(each), processor.sum(axis=1) + radio.sum(axis=1))


def _each(row: Row, processor: np.ndarray, radio: np.ndarray) -> np.ndarray:
    """The bound on each task of a row [N], prices of what it uses taken off, float64."""
    n_slots, slot_s = len(processor), float(row.slot_s)
    of_processor, of_radio = (
        np.concatenate([[0.0], np.cumsum(price)]) for price in (processor, radio)
    )
    begin = np.arange(n_slots + 1)
    used = of_radio[begin[:, None] + row.air] - of_radio[begin, None]
    sent = np.where(row.sent > _NEVER, row.sent - used, _NEVER)
    best_sent = np.maximum.accumulate(sent[::-1])[::-1]
    values = []
    for choice, slots in enumerate(row.compute):
        done = begin + slots
        fits, done = done <= n_slots, np.minimum(done, n_slots)
        local = choice == len(row.compute) - 1
        after = -done * slot_s if local else best_sent[done, choice]
        value = np.where(fits, after - (of_processor[done] - of_processor[begin]), _NEVER)
        values.append(np.maximum.accumulate(value[::-1])[::-1][row.arrival])
    return np.asarray(row.own + np.stack(values, axis=1)).max(axis=1)


def allowed(env: Stopping, params: Params) -> Row:
    """What each row allows, leaves [K, ...]."""
    most = int(params.bank.slots[:, -1, ARRIVED].max())
    return _allowed(env, params, max(most, 1))


@partial(jax.jit, static_argnums=(0, 2))
def _allowed(env: Stopping, params: Params, n_tasks: int) -> Row:
    bank, samples = params.bank, params.samples
    n_slots, n_points = bank.n_slots, env.n_layers + 1
    fastest = bank.slots[:, :, SPEED].max().astype(jnp.float32) / exogenous.SPEED_ONE
    layers = layer_slots(params.layer_s, fastest, params.slot_s)
    compute = jnp.append(jnp.zeros((1,), jnp.int32), jnp.cumsum(layers, dtype=jnp.int32))
    like = None if samples is None else stopping_samples.of_like_images(samples)
    slots = jnp.arange(n_slots + 1, dtype=jnp.int32)
    tick_s = exogenous.tick_s(params.slot_s)

    def one(row: jax.Array) -> Row:
        numbers = jnp.arange(n_tasks, dtype=jnp.int32)
        arrival = bank.arrival_slot[row, :n_tasks]
        accuracy = jnp.broadcast_to(params.accuracy, (len(numbers), n_points + 1))
        if samples is not None and like is not None:
            accuracy = like[stopping_samples.image(samples, row, numbers)]
        arrival = jnp.where(arrival <= n_slots, arrival, 0)
        own = params.accuracy_weight * accuracy
        own = own - (params.energy_weight * params.device_energy_j)[None]
        air = exogenous.upload_slots(bank, n_points)[row]
        fits, air = slots[:, None] + air <= n_slots, jnp.minimum(air, (n_slots - slots)[:, None])
        end = slots[:, None] + air
        air_s = air.astype(jnp.float32) * params.slot_s
        bits = params.upload_bits.astype(jnp.float32)
        energy_j = transmit_energy_j(
            air_s, params.transmit_w, bits[None], params.transmit_j_per_bit
        )
        backlog_s = bank.slots[row, :, BACKLOG][end].astype(jnp.float32) * tick_s
        sent = -params.energy_weight * energy_j - end.astype(jnp.float32) * params.slot_s
        sent = sent - backlog_s - (params.server_s + params.rtt_s)[None]
        return Row(
            arrival=arrival,
            own=own + (arrival.astype(jnp.float32) * params.slot_s)[:, None],
            compute=compute,
            air=air,
            sent=jnp.where(fits, sent, _NEVER),
            slot_s=params.slot_s,
        )

    return jax.vmap(one)(jnp.arange(bank.n_rows, dtype=jnp.int32))


@partial(jax.jit, static_argnames="n_steps")
def _search(
    rows: Row, counts: jax.Array, known: jax.Array, n_steps: int
) -> tuple[jax.Array, jax.Array]:
    """The best prices found for the first counts [K] tasks of each row, [K, T] each; known [K]:
    what a plan reaches with them in all.
    """

    def of_row(inputs: tuple[Row, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row, count, reached = inputs
        n_slots = row.air.shape[0] - 1

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            prices, best, least = carry
            bound, used = _subgradient(row, count, prices)
            better = bound < least
            best = jnp.where(better, prices, best)
            excess = used - 1.0
            # What is free and not needed cannot become cheaper.
            moves = (excess > 0.0) | (prices > 0.0)
            norm = jnp.where(moves, excess**2, 0.0).sum()
            length = jnp.maximum(bound - reached, 0.0) / jnp.maximum(norm, 1.0)
            new = jnp.maximum(prices + length * excess, 0.0)
            return (new, best, jnp.minimum(bound, least)), None

        zeros = jnp.zeros((2, n_slots))
        (_, best, _), _ = jax.lax.scan(step, (zeros, zeros, jnp.float32(jnp.inf)), length=n_steps)
        return best[0], best[1]

    return jax.lax.map(of_row, (rows, counts, known))


def _subgradient(row: Row, count: jax.Array, prices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The bound at prices [2, T] of processor and radio, and how many tasks use each slot then."""
    n_slots = prices.shape[1]
    counted = jnp.arange(row.arrival.shape[0]) < count
    paid = jnp.concatenate([jnp.zeros((2, 1)), sums(prices.T).T], axis=1)
    begin = jnp.arange(n_slots + 1, dtype=jnp.int32)
    radio = paid[1][begin[:, None] + row.air] - paid[1][:, None]
    best_sent, sent_at = suffix_max(row.sent - radio)
    through_layers = begin[:, None] + row.compute[None]
    done, fits = jnp.minimum(through_layers, n_slots), through_layers <= n_slots
    uploads = jnp.take_along_axis(best_sent, done[:, :-1], axis=0)
    local = -done[:, -1:].astype(jnp.float32) * row.slot_s
    after = jnp.concatenate([uploads, local], axis=1)
    value = jnp.where(fits, after - (paid[0][done] - paid[0][:, None]), _NEVER)
    best, begun_at = suffix_max(value)
    each = row.own + best[row.arrival]
    choice = jnp.argmax(each, axis=1)
    total = jnp.where(counted, each.max(axis=1), 0.0).sum() + prices.sum()
    start = begun_at[row.arrival, choice]
    end = start + row.compute[choice]
    point = jnp.minimum(choice, row.air.shape[1] - 1)
    sends = counted & (choice < row.air.shape[1])
    sending = sent_at[jnp.minimum(end, n_slots), point]
    through = sending + row.air[sending, point]
    held = jnp.stack(
        [
            _changes(start, end, counted, n_slots),
            _changes(sending, through, sends, n_slots),
        ],
        axis=1,
    )
    return total, sums(held).T


_BLOCK = 128  # slots


def _blocks(values: jax.Array, filler: float) -> jax.Array:
    """Values [T, C] as blocks of slots, [_BLOCK, T / _BLOCK, C]: scans then run in all blocks at
    once, and cost `_BLOCK + T / _BLOCK` steps rather than T.
    """
    n = -(-values.shape[0] // _BLOCK) * _BLOCK
    padded = jnp.pad(values, ((0, n - values.shape[0]), (0, 0)), constant_values=filler)
    return padded.reshape(-1, _BLOCK, values.shape[1]).swapaxes(0, 1)


def suffix_max(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maxima over all later slots of [T+1, C], and the first slot at which each is reached."""
    n_slots, n_choices = values.shape
    slots = jnp.broadcast_to(jnp.arange(n_slots)[:, None], values.shape).astype(jnp.float32)
    blocks = _blocks(values, -jnp.inf), _blocks(slots, float(n_slots))

    def later(best: tuple, here: tuple) -> tuple[tuple, tuple]:
        wins = here[0] >= best[0]
        new = jnp.where(wins, here[0], best[0]), jnp.where(wins, here[1], best[1])
        return new, new

    none = jnp.full((blocks[0].shape[1], n_choices), -jnp.inf)
    _, within = jax.lax.scan(later, (none, none), blocks, reverse=True)
    whole = within[0][0], within[1][0]  # of each block
    nothing = none[0], none[0]
    _, after = jax.lax.scan(
        lambda best, here: (later(best, here)[0], best), nothing, whole, reverse=True
    )
    wins = within[0] >= after[0][None]
    best, reached = (
        jnp.where(wins, inside, beyond[None]).swapaxes(0, 1).reshape(-1, n_choices)[:n_slots]
        for inside, beyond in zip(within, after, strict=True)
    )
    return best, reached.astype(jnp.int32)


def sums(values: jax.Array) -> jax.Array:
    """Sums up to and with each slot, of [T, C]."""
    blocks = _blocks(values, 0.0)
    zero = jnp.zeros(blocks.shape[1:])
    _, within = jax.lax.scan(lambda total, here: (total + here, total + here), zero, blocks)
    _, before = jax.lax.scan(
        lambda total, here: (total + here, total), jnp.zeros_like(zero[0]), within[-1]
    )
    total = within + before[None]
    return total.swapaxes(0, 1).reshape(-1, values.shape[1])[: values.shape[0]]


def _changes(begin: jax.Array, end: jax.Array, counts: jax.Array, n_slots: int) -> jax.Array:
    """Changes, slot by slot, of how many of the intervals that count [N] hold it, float32 [T]."""
    weight = counts.astype(jnp.float32)
    return jnp.zeros((n_slots + 1,)).at[begin].add(weight).at[end].add(-weight)[:-1]
