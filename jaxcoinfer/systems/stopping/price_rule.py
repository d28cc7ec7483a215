"""The price rule: the forecast, less linear prices of processor, radio and server time.

A forecast charges a task for those that wait now; it forgets those that will arrive. At a decision
with forecast value v_c of each choice c still open, the rule takes

    argmax_c  v_c - d_c (h0 + h1 w) - x_c (h2 + h3 w + h4 lambda R) - e_c h5 lambda B

with d_c seconds of processor still to come, x_c seconds on air at the rate last measured, e_c
server seconds, w waiting tasks, R seconds of radio backlog, B of server backlog, lambda tasks per
second, and prices h >= 0. All zero, it is `baselines.adaptive_waiting`. It is drift plus penalty
with prices that are found rather than derived: by a cross-entropy search through the twin on
training rows (Rubinstein and Kroese, *The Cross-Entropy Method*, 2004).

Axes: P = Le+1 stopping points with an upload, P+1 choices.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.physics.compute import seconds
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload
from jaxcoinfer.systems.stopping.twin.rollout import first_stop, mean_utility
from jaxcoinfer.systems.stopping.twin.workload import Replay

N_PRICES = 6


class Prices(struct.PyTreeNode):
    """Prices of the three resources."""

    weights: jax.Array  # float32 [6], h0 to h5
    tasks_per_s: jax.Array  # float32, lambda


@dataclass(frozen=True)
class Search:
    """How much the search does."""

    n_samples: int = 24  # a round
    n_best: int = 6  # of which the next round is drawn
    n_rounds: int = 12
    n_devices: int = 128
    n_tasks: int = 100  # of each device


def free(params: Params) -> Prices:
    """Returns prices of zero, of a world with a bank."""
    return Prices(jnp.zeros((N_PRICES,)), tasks_per_s(params))


def tasks_per_s(params: Params) -> jax.Array:
    """Returns the mean arrival rate of a bank, float32."""
    bank = params.bank
    arrived = bank.slots[:, -1, exogenous.ARRIVED].astype(jnp.float32).mean()
    return arrived / (bank.n_slots * params.slot_s)


def charges(env: Stopping, state: State, params: Params, prices: Prices) -> jax.Array:
    """Returns what each choice pays for the processor, radio and server time it would take, [P+1];
    utility.
    """
    now, expected = known(state, params), workload.forecast(env, state, params)
    h, rate = prices.weights, prices.tasks_per_s
    ahead_s = expected.compute_s - seconds(state.slot - state.start, params.slot_s)
    on_air_s = jnp.append(workload.air_s(now, params), 0.0)
    radio_s = workload.radio_backlog_s(now, params)
    waiting = now.waiting_tasks
    return (
        ahead_s * (h[0] + h[1] * waiting)
        + on_air_s * (h[2] + h[3] * waiting + h[4] * rate * radio_s)
        + expected.server_s * h[5] * rate * now.server_backlog_s
    )


def values(env: Stopping, state: State, params: Params, prices: Prices) -> jax.Array:
    """Returns the forecast value of each choice less its price, [P+1]; minus infinity behind."""
    expected = workload.forecast(env, state, params).value
    return expected - charges(env, state, params, prices)


def policy(env: Stopping, prices: Prices) -> Policy:
    """Stops where that is the best choice still open."""

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        best = jnp.argmax(values(env, state, params, prices))
        return jnp.where(best == state.layer, STOP, CONTINUE)

    return act


@partial(jax.jit, static_argnames=("env", "search"))
def tune(key: jax.Array, params: Params, *, env: Stopping, search: Search = Search()) -> Prices:
    """Returns the prices of the most utility per task in a bank to learn from; consumes the key.

    All samples play the same tasks. The first round draws |N(.3, .5)|, the others a normal
    distribution fitted to the best of the round before, kept wide enough to go on.
    """
    key_start, key_search = jax.random.split(key)
    starts = jax.random.split(key_start, search.n_devices)
    states, _ = jax.vmap(env.reset, (0, None))(starts, params)
    rate = tasks_per_s(params)

    def utility(weights: jax.Array) -> jax.Array:
        def choose(replay: Replay) -> jax.Array:
            by_decision = jax.vmap(values, (None, 0, None, None))(
                env, replay.states, params, Prices(weights, rate)
            )
            stops = jnp.argmax(by_decision, axis=1) == jnp.arange(env.n_layers + 1)
            return first_stop(stops)

        return mean_utility(env, choose, states, params, search.n_tasks)

    def improve(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        mean, deviation, best, most = carry
        noise = jax.random.normal(key, (search.n_samples, N_PRICES))
        samples = jnp.abs(mean[None] + deviation[None] * noise).at[0].set(mean)
        reached = jax.lax.map(utility, samples)
        order = jnp.argsort(-reached)[: search.n_best]
        elite, top = samples[order], reached[order[0]]
        best = jnp.where(top > most, elite[0], best)
        spread = jnp.maximum(elite.std(axis=0), 0.02)
        return (elite.mean(axis=0), spread, best, jnp.maximum(top, most)), None

    nothing = jnp.zeros((N_PRICES,))
    first = (nothing + 0.3, nothing + 0.5, nothing, utility(nothing))
    (_, _, best, _), _ = jax.lax.scan(improve, first, jax.random.split(key_search, search.n_rounds))
    return Prices(best, rate)
