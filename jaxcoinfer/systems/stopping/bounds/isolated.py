"""A certified upper bound on the utility of every task of a recorded world, whatever the policy.

No task fares better than one that has the device, the radio and the server's own queue to itself
from its arrival:

    U_n <= max_l [alpha acc_l - beta E_l - (c_l + u_l + Q(tau_l) + e_l)]

Proof. Starting later never ends earlier. The radio is first-come first-served: an upload that
begins later ends no earlier. So is the server: the backlog of the others falls by at most one slot
a slot, so `tau + Q(tau)` does not fall with tau, and own work of earlier tasks only adds to it.
Layers take at least what they take at the fastest speed of the bank, and an upload is on air for at
least the fewest slots of any that begins in the bank. What the queue costs is left out, so the
bound is close where queues are short, and says little under load;
`systems.stopping.bounds.dynamic_program` is for that. Where the confidence of an exit head is
observed, acc_l is how often choice l is right on images of which the head is as sure: a bound on
the mean over them.

Axes: K rows, N tasks, P = Le+1 stopping points with an upload.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.physics.compute import layer_slots, seconds
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.samples import Samples


def utility(env: Stopping, params: Params) -> jax.Array:
    """Returns the bound of each task [K, N]; minus infinity where the row ends before every choice
    is through.
    """
    samples = params.samples
    like = samples and samples.replace(records=stopping_samples.of_like_images(samples))
    return _of_tasks(env, params, like)


@partial(jax.jit, static_argnames="env")
def _of_tasks(env: Stopping, params: Params, sure: Samples | None) -> jax.Array:
    bank = params.bank
    fastest = bank.slots[:, :, exogenous.SPEED].max().astype(jnp.float32) / exogenous.SPEED_ONE
    slots = layer_slots(params.layer_s, fastest, params.slot_s)
    # Energy counts air time, and a task that starts later may meet a better link: the least of all.
    least_air_s = seconds(
        exogenous.upload_slots(bank, env.n_layers + 1).min(axis=(0, 1)), params.slot_s
    )
    upload_bits = params.upload_bits.astype(jnp.float32)
    upload_energy_j = transmit_energy_j(
        least_air_s, params.transmit_w, upload_bits, params.transmit_j_per_bit
    )
    energy_j = params.device_energy_j + jnp.append(upload_energy_j, 0.0)
    cost = params.energy_weight * energy_j

    def task(row: jax.Array, number: jax.Array):
        arrival = exogenous.arrival(bank, row, number)
        accuracy = params.accuracy if sure is None else stopping_samples.record(sure, row, number)
        best = (
            params.accuracy_weight * accuracy - cost - _latency_s(params, row, arrival, slots)
        ).max()
        return jnp.where(
            arrival + params.longest_local_slots <= params.last_upload[row], best, -jnp.inf
        )

    numbers = jnp.arange(bank.arrival_slot.shape[1], dtype=jnp.int32)
    rows = jnp.arange(bank.n_rows, dtype=jnp.int32)
    return jax.vmap(jax.vmap(task, (None, 0)), (0, None))(rows, numbers)


def _latency_s(params: Params, row: jax.Array, arrival: jax.Array, slots: jax.Array) -> jax.Array:
    """Seconds from arrival to result of each choice [P+1] of a task that meets nobody of its own
    device.
    """
    layers = jnp.arange(slots.shape[0], dtype=jnp.int32)
    computed = jnp.append(jnp.zeros((1,), jnp.int32), jnp.cumsum(slots, dtype=jnp.int32))
    begin = jnp.minimum(arrival + computed[:-1], params.last_upload[row])
    read = jax.vmap(exogenous.upload_record, (None, None, 0, 0))
    air, backlog, _ = read(params.bank, row, begin, layers)
    on_server_s = seconds(backlog, params.slot_s / exogenous.TICKS) + params.server_s + params.rtt_s
    away_s = seconds(air, params.slot_s) + on_server_s
    return seconds(computed, params.slot_s) + jnp.append(away_s, 0.0)


def by_row(bound: jax.Array, count: np.ndarray) -> np.ndarray:
    """Returns the mean bound of the first count [K] tasks of each row, those a policy finished,
    [K].
    """
    counted = np.arange(bound.shape[1])[None] < count[:, None]
    return np.where(counted, np.asarray(bound, np.float64), 0.0).sum(axis=1) / np.maximum(count, 1)
