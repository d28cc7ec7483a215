"""Exact optimum of `stopping`: Bernoulli arrivals, Poisson batches of load, constant rate and
speed, long-run average.

One step of the decision process is one task, from its start to the next start, so its average
reward is the utility per task, and time needs no price. With the radio busy for r more slots, y
seconds of work at the server and w other tasks waiting, the task in hand stops or continues before
layer l+1 (D: slot, n = r + u_l, c = c_{l+1}, v+ = max(v, 0)):

    V_l(r, y, w) = max(S_l, C_l),   l = 0..Le;  a step ends with V_0 of the next start
    S_l = alpha acc_l - (n D + E[Q_n | y] + e_l + rtt) - beta E_tx(l)
          + N(n, y + E[I_n | y] + e_l, w)
    C_l = -c D - D (c w + p c (c-1) / 2) - beta (E_dev(l+1) - E_dev(l))
          + E V_{l+1}((r-c)+, Q_c, w + Bin(c, p))
    N(r, y, w) = V_0(r, y, w-1) if w > 0, else E V_0 at the next arrival

C_Le runs the exit head: it adds alpha acc_{Le+1} and has N for V_{l+1}.

Own work counts in y from the moment it is sent. Work e that arrives n slots later then equals work
e + I_n now, with I_n = Q_n - y + n D - (load) the time the server idles meanwhile (see
`physics.queueing`); its mean stands for it, which is exact for n = 1, for y >= n D and without
load. The backlog moves by `backlog_law`. A rate or a speed that varies is beyond this optimum: it
holds for the constant ones.

Axes: A = Le+1 stopping points with an upload, R radio states, X backlogs, W waiting tasks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.systems.stopping.bounds.tables import (
    Grid,
    Model,
    Tables,
    checked,
    default_grid,
    make_tables,
    radio_states,
)

EXACT = jax.lax.Precision.HIGHEST  # a GPU would round the products behind a certificate to ten bits


@struct.dataclass
class Solution:
    """The optimum, its certificate and its policy; float32 unless said otherwise."""

    gain_per_slot: jax.Array  # utility
    gain_per_task: jax.Array  # utility
    span: jax.Array  # the optimum on the grid is this close to gain_per_task, mostly far closer
    iterations: jax.Array  # int32, sweeps
    # [R, X, W], utility of the state in which a task starts, relative to an idle system
    values: jax.Array
    # [A, R, X, W], utility of stopping over continuing; the policy stops where it is >= 0
    advantage: jax.Array
    backlogs_s: jax.Array  # [X], of the grid
    slot_s: jax.Array
    sent_s: jax.Array  # server seconds of raw input that a slot of the radio brings


def solve(
    model: Model, grid: Grid | None = None, tolerance: float = 1e-4, max_iterations: int = 100_000
) -> Solution:
    """Returns the best long-run utility per task, by relative value iteration until the span is
    below `tolerance`.

    For every V, `min(T V - V) <= optimum <= max(T V - V)`: the span of the last change certifies
    the optimum on the grid. How far the grid's is from the system's shows when the grid is refined.
    A run stopped by `max_iterations` has a span above `tolerance`. Call it outside jit: the laws
    are made on the host. ValueError: an impossible system.
    """
    model = checked(model)
    grid = default_grid(model) if grid is None else grid
    tables = jax.tree.map(_to_device, make_tables(model, grid))
    limits = _to_device(float(tolerance)), _to_device(int(max_iterations))
    gain, span, iterations, values, advantage = _iterate(
        tables, *limits, radios=radio_states(model, grid)
    )
    return Solution(
        gain_per_slot=gain * tables.arrival_probability,
        gain_per_task=gain,
        span=span,
        iterations=iterations,
        values=values,
        advantage=advantage,
        backlogs_s=_to_device(grid.nodes_s()),
        slot_s=_to_device(model.slot_s),
        sent_s=_to_device(model.server_s[0] / model.upload_slots[0]),
    )


def act(
    solution: Solution,
    layer: jax.Array,
    waiting: jax.Array,
    backlog_s: jax.Array,
    radio_slots: jax.Array,
    under_way_s: jax.Array | None = None,
) -> jax.Array:
    """Returns whether to stop before layer `layer` + 1, bool; outside the grid its edge decides.

    layer, waiting, radio_slots int32; backlog_s: seconds at the server in this slot, own work that
    arrived included; under_way_s: own work that the radio still holds, without it the raw inputs
    that would keep the radio busy as long. All of one shape.
    """
    _, radio, nodes, tasks = solution.advantage.shape
    busy = radio_slots.astype(jnp.float32)
    under_way_s = busy * solution.sent_s if under_way_s is None else under_way_s
    effective_s = jnp.maximum(backlog_s, busy * solution.slot_s) + under_way_s
    node = jnp.clip(
        jnp.searchsorted(solution.backlogs_s, effective_s, side="right") - 1, 0, nodes - 2
    )
    below_s, above_s = solution.backlogs_s[node], solution.backlogs_s[node + 1]
    weight = jnp.clip((effective_s - below_s) / (above_s - below_s), 0.0, 1.0)
    radio_slots, waiting = jnp.minimum(radio_slots, radio - 1), jnp.minimum(waiting, tasks - 1)
    below = solution.advantage[layer, radio_slots, node, waiting]
    above = solution.advantage[layer, radio_slots, node + 1, waiting]
    return below * (1 - weight) + above * weight >= 0


def _to_device(leaf: Any) -> jax.Array:
    return jnp.asarray(leaf, jnp.int32 if np.asarray(leaf).dtype.kind == "i" else jnp.float32)


def _free(tables: Tables, values: jax.Array) -> jax.Array:
    """N of the module's formula: values of a start [R, X, W] to values when the device comes free
    [R, X, W].
    """
    arrives = tables.arrival_probability
    alone = [jnp.matmul(tables.idle, values[0, :, 0], precision=EXACT)]
    for radio in range(1, values.shape[0]):
        mixed = arrives * values[radio - 1, :, 0] + (1 - arrives) * alone[-1]
        alone.append(jnp.matmul(tables.one_slot, mixed, precision=EXACT))
    return jnp.concatenate([jnp.stack(alone)[:, :, None], values[:, :, :-1]], axis=2)


def _sweep(
    tables: Tables,
    advantage: tuple[jax.Array, ...],
    change: jax.Array,
    radios: tuple[int, ...],
    first: bool,
):
    """Bellman's operator on a change of values: the next change of V_0 [R, X, W] and the new
    advantages [R, X, W] of A.

    Only changes travel, because in float32 large values swallow small ones: where a decision stands
    its own change passes, where it flips both its values are close. The first sweep takes V from 0
    to the rewards.
    """
    free = _free(tables, change)
    after, updated = free[: radios[-1]], []
    for place, before in zip(reversed(tables.places), reversed(advantage), strict=True):
        sent, rows = free[place.sent_radio], jnp.arange(place.sent_radio.size)[:, None]
        weight = place.sent_weight[:, :, None]
        stop = sent[rows, place.sent_node] * (1 - weight) + sent[rows, place.sent_node + 1] * weight
        go = jnp.einsum("xy,ryw,wv->rxv", place.flow, after, place.arrivals, precision=EXACT)[
            place.next_radio
        ]
        if first:
            stop, go = stop + place.stop_reward[:, :, None], go + place.go_reward[None, None, :]
        now = before + (stop - go)
        flipped = go + jnp.maximum(now, 0) - jnp.maximum(before, 0)
        after = jnp.where(
            (before >= 0) & (now >= 0), stop, jnp.where((before < 0) & (now < 0), go, flipped)
        )
        updated.append(now)
    return after, tuple(reversed(updated))


@functools.partial(jax.jit, static_argnames=("radios",))
def _iterate(
    tables: Tables, tolerance: jax.Array, max_iterations: jax.Array, radios: tuple[int, ...]
):
    """Sweeps until the change is flat: its value, its span, sweeps, values [R, X, W], advantage [A,
    R, X, W].
    """
    nodes, tasks = tables.idle.shape[0], tables.places[0].arrivals.shape[0]
    zeros = jnp.zeros((radios[0], nodes, tasks))
    even = tuple(jnp.zeros((states, nodes, tasks)) for states in radios[:-1])
    change, advantage = _sweep(tables, even, zeros, radios, first=True)

    def unsettled(carry: tuple[Any, ...]):
        *_, residual, _, sweeps = carry
        return (jnp.max(residual) - jnp.min(residual) > tolerance) & (sweeps < max_iterations)

    def body(carry: tuple[Any, ...]):
        values, lost, advantage, residual, level, sweeps = carry
        more = residual - lost  # compensated (Kahan): thousands of sums of small to large
        summed = values + more
        lost = (summed - values) - more
        change, advantage = _sweep(tables, advantage, residual, radios, first=False)
        step = change[0, 0, 0]  # laws keep a constant, so it travels apart and rounds nothing
        return summed, lost, advantage, change - step, level + step, sweeps + 1

    level = change[0, 0, 0]
    carry = (zeros, zeros, advantage, change - level, level, jnp.int32(1))
    values, _, advantage, residual, level, sweeps = jax.lax.while_loop(unsettled, body, carry)
    replicate = [table[np.minimum(np.arange(radios[0]), len(table) - 1)] for table in advantage]
    return level, jnp.max(residual) - jnp.min(residual), sweeps, values, jnp.stack(replicate)
