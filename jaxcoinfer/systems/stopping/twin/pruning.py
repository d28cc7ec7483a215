"""Choices that cannot win, found without asking the server's queue.

The `value` (Ũ) of one task n is compared between its own choices, l and m below. Notation:

    s        slot at which the task starts            Δ        seconds of a slot, slot_s
    t_l      slot before layer l+1                    e_l      seconds of the rest on the server
    b_l      max(t_l, radio free): the upload of l    acc_l    accuracy
             begins                                   E_dev(l) joules the device has computed away
    τ_l      slot in which it ends                    E_tx(l)  joules of the upload
    a_l      τ_l − b_l, slots on air                  E_l      E_dev(l) + E_tx(l)
    bits_l   its size                                 rtt      round trip, seconds
    A[u]     tasks that have arrived by slot u        α, β     weights of accuracy and energy
    C[u]     bits the link has carried before u       N_l      waiting tasks, summed over s..t_l
    W[u]     seconds of work the others bring in u    w        waiting cost of t_l..t_m, seconds
    Q_tot(t) seconds of work at the server, of the others and of our earlier tasks
    G(t)     tΔ + Q_tot(t): when work that joins the server at t is begun, in seconds

Lemma: for l < m with τ_l ≤ τ_m,

    value_m − value_l ≤ α (acc_m − acc_l) + (e_l − e_m)
                        + β (E_tx(l) − E_tx(m)) − β (E_dev(m) − E_dev(l)) − w,

and where the right side is ≤ 0, m cannot win.

Proof. Earlier tasks pass the radio by b_l (first come, first served), so Q_tot is the same whatever
task n chooses. Q_tot(t+1) ≥ Q_tot(t) − Δ, so G never falls, and G(τ_m) ≥ G(τ_l). Now

    value_l = α acc_l − (G(τ_l) − sΔ + e_l + rtt) − β (E_dev(l) + E_tx(l)) − Δ N_l.

Subtract, and drop G(τ_l) − G(τ_m) ≤ 0: left is the bound with w = Δ (N_m − N_l), the sum of
Δ (A[u] − (n+1)) over the slots from t_l to t_m, which is ≥ 0 since task n has arrived.

The condition τ_l ≤ τ_m. Uploads l and m are alternatives, and a smaller m overtakes where l is long
or both wait for a busy radio. As b_l ≤ b_m, the condition holds for sure beforehand if either

    bits_l ≤ bits_m, for then C[τ_m] ≥ C[b_m] + bits_m ≥ C[b_l] + bits_l, or
    max a_l ≤ min a_m + (b_m − b_l), where b_m − b_l is t_m − t_l for an idle radio, else ≥ 0.

E_tx = power Δ a + j_per_bit bits has unknown air time a, but

    a_l − a_m = (b_m − b_l) − (τ_m − τ_l) ≤ t_m − t_l, and ≤ max a_l − min a_m.

Ceiling: with an empty server, the earliest τ_m, the least air time and the least N_m,

    value_m ≤ α acc_m − (τ_m − s)Δ − e_m − rtt − β E_m − Δ N_m;

on the device t takes the place of τ, and e, rtt and radio are absent.

Limits. Choice m is out only while the l that beats it is open: once l is passed, m may be the best
left. `value` ignores later tasks: a policy that values the queue it leaves may rightly take m. In
float32, ties are decided by the rounding of `value`.

P = L+1 uploads, P+1 choices. Source: in the manner of Hu et al. (arXiv 2405.17664); lemma and proof
are ours.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.physics.compute import layer_slots, seconds
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.systems.stopping import device, exogenous
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload
from jaxcoinfer.systems.stopping.twin.workload import Replay


class Sure(struct.PyTreeNode):
    """What is sure about the choices of one task; `[2, ...]` are least and most, equal after a
    replay.
    """

    first: jax.Array  # int32, earliest open choice
    slots: jax.Array  # int32 [2, P+1], differences bound t_m − t_l, the least bound t_l − s
    air: jax.Array  # int32 [2, P], slots on air, a_l
    end: jax.Array  # int32 [P], least slots τ_l − s
    waiting_s: jax.Array  # float32 [P+1], it and its differences are at most the waiting cost
    ordered: jax.Array  # bool [P, P], τ_l ≤ τ_m, row l, column m
    # float32 [P+1], of each choice, or what is expected of it: the lemma then holds for expected
    # values
    accuracy: jax.Array


def limits(params: Params) -> tuple[jax.Array, jax.Array]:
    """Returns least and most slots of layers [2, L+1] and on air [2, P] in the bank, as a profile
    would; int32.
    """
    speed = exogenous.relative_speed(params.bank.slots[:, :, exogenous.SPEED])
    slots = [layer_slots(params.layer_s, v, params.slot_s) for v in (speed.max(), speed.min())]
    possible = (
        jnp.arange(params.bank.n_slots + 1)[None, :, None] <= params.last_upload[:, None, None]
    )
    air = exogenous.upload_slots(params.bank, params.upload_bits.shape[0])
    return jnp.stack(slots), jnp.stack(
        [air.min(axis=(0, 1)), jnp.where(possible, air, 0).max(axis=(0, 1))]
    )


def after_replay(replay: Replay) -> Sure:
    """Returns what a replay tells of all choices before the server is asked: decisions, air times,
    waiting tasks.
    """
    start, end = replay.end.start, replay.uploads.end
    slots = jnp.append(replay.states.slot, replay.end.slot) - start
    slots, air = (jnp.stack([x, x]) for x in (slots, end - replay.uploads.begin))
    choices, ordered = replay.choices, _step(end) >= 0
    return Sure(
        jnp.int32(0), slots, air, end - start, choices.waiting_cost_s, ordered, choices.accuracy
    )


def at_decision(
    env: Stopping, state: State, params: Params, limits: tuple[jax.Array, jax.Array]
) -> Sure:
    """Returns what is sure at a decision, from `limits(params)`; reads nothing that comes after its
    slot.
    """
    k, (layer_limits, air) = known(state, params), limits
    now = layer_slots(params.layer_s, k.speed, params.slot_s)[None]
    spent, layers = state.slot - state.start, jnp.arange(env.n_layers + 1)[None]
    ahead = jnp.where(layers < state.layer, 0, jnp.where(layers == state.layer, now, layer_limits))
    ahead = jnp.pad(jnp.cumsum(ahead, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
    waited = device.waiting_slots(state.at_start.now, state.now, spent, state.task)
    waited_s = seconds(waited, params.slot_s)
    waiting_s = waited_s + k.waiting_tasks * seconds(ahead[0], params.slot_s)
    apart = jnp.where(state.observed.radio_busy, 0, _step(ahead[0, :-1]))
    ordered = (_step(params.upload_bits) >= 0) | (air[1][:, None] <= air[0][None] + apart)
    accuracy = workload.expected_accuracy(env, state, params)
    return Sure(
        state.layer,
        spent + ahead,
        air,
        spent + ahead[0, :-1] + air[0],
        waiting_s,
        ordered,
        accuracy,
    )


def most_gain(params: Params, sure: Sure) -> jax.Array:
    """Returns the lemma's bound on value_m − value_l, [P, P], row l, column m; infinite where it
    does not apply.
    """
    layers = jnp.arange(params.server_s.shape[0])
    applies = sure.ordered & (_step(layers) > 0) & (layers[:, None] >= sure.first)
    air = jnp.minimum(sure.air[1][:, None] - sure.air[0][None], _step(sure.slots[1, :-1]))
    energy_j = _step(params.device_energy_j[:-1]) + _sent_j(params, -air, _step(params.upload_bits))
    gain = params.accuracy_weight * _step(sure.accuracy[:-1]) - params.energy_weight * energy_j
    return jnp.where(applies, gain - _step(params.server_s) - _step(sure.waiting_s[:-1]), jnp.inf)


def ceiling(params: Params, sure: Sure) -> jax.Array:
    """Returns the most each choice can reach, [P+1]; of the device after a replay, its value."""
    return _value(
        params, sure, seconds(jnp.append(sure.end, sure.slots[0, -1]), params.slot_s), sure.air[0]
    )


def can_win(params: Params, sure: Sure, device_value: jax.Array | float = -jnp.inf) -> jax.Array:
    """Returns which open choices may be best, bool [P+1]: not beaten by the lemma, nor their
    ceiling by the device.
    """
    loses = (most_gain(params, sure) <= 0).any(axis=0) | (ceiling(params, sure)[:-1] < device_value)
    return jnp.append(~loses & (jnp.arange(loses.shape[0]) >= sure.first), True)


def floor_now(state: State, params: Params, sure: Sure, most_work_s: jax.Array) -> jax.Array:
    """Returns the least value of stopping now, [P], if the others bring at most `most_work_s`
    (finite) seconds per slot.

    G(τ) ≤ max(G(t), τΔ) + (τ − t) most_work_s, since G(t+1) = max(G(t), (t+1)Δ) + W[t], at the
    longest air time. Minus infinity for other l, and while the radio is busy: how much own work
    comes first is then not known.
    """
    tick_s = exogenous.tick_s(params.slot_s)
    work_s = seconds(state.now.backlog, tick_s) + state.observed.own_backlog_s
    served_s = jnp.maximum(work_s, seconds(sure.air[1], params.slot_s))
    served_s = (
        served_s
        + seconds(sure.air[1], most_work_s)
        + seconds(state.slot - state.start, params.slot_s)
    )
    here = (jnp.arange(served_s.shape[0]) == state.layer) & ~state.observed.radio_busy
    return jnp.where(
        here, _value(params, sure, jnp.append(served_s, 0.0), sure.air[1])[:-1], -jnp.inf
    )


def stop_now(params: Params, sure: Sure, value: jax.Array) -> jax.Array:
    """Returns whether no m > l beats stopping at l, by the ceiling of m or by the lemma, bool [P].

    value [P]: of stopping at l, realised or a floor; where minus infinity the answer is False.
    """
    loses = jnp.pad(most_gain(params, sure) <= 0, ((0, 0), (0, 1))) | (
        ceiling(params, sure)[None] <= value[:, None]
    )
    return ~jnp.triu(~loses, 1).any(axis=1) & (jnp.arange(value.shape[0]) >= sure.first)


@partial(jax.jit, static_argnames=("env", "n_devices", "n_tasks"))
def shares(
    key: jax.Array, params: Params, *, env: Stopping, n_devices: int = 256, n_tasks: int = 50
) -> tuple[jax.Array, jax.Array]:
    """Returns the share of choices that are ruled out after a replay, and of those still open at a
    decision: twin evaluations that nobody has to ask the server for. Devices follow the forecast.

    Consumes the key.
    """
    of_bank = limits(params)

    def task(state: State) -> tuple[State, tuple[jax.Array, ...]]:
        replay = workload.evaluate(env, state, params)
        told = can_win(params, after_replay(replay), replay.choices.value[-1])
        sure = jax.vmap(at_decision, (None, 0, None, None))(env, replay.states, params, of_bank)
        known_open = jax.vmap(can_win, (None, 0))(params, sure)
        layer = jnp.arange(env.n_layers + 1)
        choice = jnp.argmax(workload.forecast(env, state, params).value).astype(jnp.int32)
        is_open = (jnp.arange(told.shape[0])[None] >= layer[:, None]) & (layer <= choice)[:, None]
        counts = (~told).sum(), told.size, (is_open & ~known_open).sum(), is_open.sum()
        counted = tuple(jnp.where(state.done, 0, count) for count in counts)
        return workload.follow(replay, choice, params), counted

    def tasks(states: State, _: None) -> tuple[State, tuple[jax.Array, ...]]:
        states, counted = jax.vmap(task)(states)
        return states, tuple(count.sum() for count in counted)

    states, _ = jax.vmap(env.reset, (0, None))(jax.random.split(key, n_devices), params)
    _, counted = jax.lax.scan(tasks, states, None, length=n_tasks)
    told, all_told, known_away, all_open = (count.sum().astype(jnp.float32) for count in counted)
    return told / all_told, known_away / all_open


def saved(kept: jax.Array) -> jax.Array:
    """Returns the share of evaluations not needed, `mean(~kept)`, scalar; kept bool, any shape."""
    return jnp.mean(~kept, dtype=jnp.float32)


def _step(x: jax.Array) -> jax.Array:  # x_m − x_l, row l, column m
    return x[None] - x[:, None]


def _sent_j(params: Params, air: jax.Array, bits: jax.Array) -> jax.Array:
    air_s, bits = seconds(air, params.slot_s), bits.astype(jnp.float32)
    return transmit_energy_j(air_s, params.transmit_w, bits, params.transmit_j_per_bit)


def _value(params: Params, sure: Sure, end_s: jax.Array, air: jax.Array) -> jax.Array:
    """Value of each choice [P+1] if the server begins, or the device ends, end_s [P+1] after the
    task's start; air [P].
    """
    after_s = jnp.append(params.server_s + params.rtt_s, 0.0)
    energy_j = params.device_energy_j + jnp.append(_sent_j(params, air, params.upload_bits), 0.0)
    lost = after_s + sure.waiting_s + params.energy_weight * energy_j
    return params.accuracy_weight * sure.accuracy - end_s - lost
