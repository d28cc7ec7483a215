"""The price rule: adaptive waiting without prices, a choice by hand, and a search that never loses
to no prices.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.rollout import act
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines, price_rule
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.price_rule import Prices, Search
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import rollout, workload
from tests.helpers.stopping import played, random_stops, random_system

KEY = jax.random.key(0)


@partial(jax.jit, static_argnums=(0, 1))
def decisions(env: Stopping, build, state: State, params: Params, *arguments) -> jax.Array:
    """What a policy, `build(env, *arguments)`, decides in states [B]."""
    decide = partial(act, env, build(env, *arguments))
    observation = jnp.zeros(env.observation_shape)
    return jax.vmap(decide, (None, 0, None, None))(KEY, state, observation, params)


@partial(jax.jit, static_argnums=0)
def values(env: Stopping, state: State, params: Params, prices: Prices) -> jax.Array:
    return jax.vmap(price_rule.values, (None, 0, None, None))(env, state, params, prices)


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_without_prices_it_is_adaptive_waiting(seed, n_layers):
    system = random_system(seed, n_layers)
    params = system.params()
    _, states, _, _ = played(system, params, random_stops(seed, n_layers, 0.2))
    met = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)
    free = price_rule.free(params)
    np.testing.assert_array_equal(free.weights, np.zeros(price_rule.N_PRICES))
    rule = decisions(system.env, price_rule.policy, met, params, free)
    np.testing.assert_array_equal(
        rule, decisions(system.env, baselines.adaptive_waiting, met, params)
    )
    forecast = jax.jit(jax.vmap(lambda s: workload.forecast(system.env, s, params).value))(met)
    # Compiled code may round a product and a sum once, not twice.
    np.testing.assert_allclose(
        values(system.env, met, params, free), forecast, rtol=1e-5, atol=1e-5
    )


def test_the_rate_is_that_of_the_bank():
    system = random_system(3, 2)
    requests_per_slot = system.arrivals.mean()
    np.testing.assert_allclose(
        price_rule.tasks_per_s(system.params()),
        requests_per_slot / system.numbers["slot_s"],
        rtol=1e-6,
    )


def by_hand_world():
    """Two layers of 2 and 1 slots of .1 s and a head of 1; uploads of 400, 200, 0 bits at 100 a
    slot: 4, 2, 0 slots on air; the server takes .3, .2, .1 s. Three tasks come at once; the first
    begins at slot 0, and the others wait. The server has .5 s of work of others.
    """
    system = random_system(0, 2)
    numbers = system.numbers | {
        "slot_s": 0.1,
        "layer_s": (0.2, 0.1, 0.1),
        "upload_bits": (400.0, 200.0, 0.0),
        "server_s": (0.3, 0.2, 0.1),
        "device_energy_j": (0.0, 0.1, 0.2, 0.3),
        "accuracy": (0.9, 0.9, 0.9, 0.5),
        "transmit_w": 0.0,
        "transmit_j_per_bit": 0.0,
        "rtt_s": 0.0,
        "accuracy_weight": 1.0,
        "energy_weight": 1.0,
    }
    arrivals = np.zeros_like(system.arrivals)
    arrivals[:, 0] = 3
    arrivals[:, 100] = 61  # 64 tasks in 32 s: lambda is 2
    edge_work = np.zeros_like(system.edge_work)
    edge_work[:, 0] = 7 * 1024  # a slot of it is done by the time it is seen, at slot 1
    bits = np.full_like(system.slot_bits, 100)
    return dataclasses.replace(
        system,
        numbers=numbers,
        arrivals=arrivals,
        edge_work=edge_work,
        slot_bits=bits,
        observed_bits=bits,
        speed=np.ones_like(system.speed),
    )


def test_values_by_hand():
    system = by_hand_world()
    env, params = system.env, system.params()
    prices = Prices(jnp.asarray([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), price_rule.tasks_per_s(params))
    assert float(prices.tasks_per_s) == pytest.approx(2.0)
    state, _ = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    backlog_s, waiting = 0.4, 2.0
    now = state.now.record
    state = state.replace(
        observed=state.observed.replace(
            now=state.now.replace(record=now.at[2].set(4 * 1024)),  # the others' backlog, ticks
            unsent_bits=jnp.int32(300),
        )
    )
    found = np.asarray(values(env, jax.tree.map(lambda leaf: leaf[None], state), params, prices))[0]
    # Seconds: computing 0, .2, .3, .4; on air .4, .2, 0; the radio has 300 bits to send, .3 s, of
    # which what is left when the upload is there is waited for: .3, .1, 0.
    latency = np.array([0.0 + 0.7 + 0.4 + 0.3, 0.2 + 0.3 + 0.4 + 0.2, 0.3 + 0.0 + 0.4 + 0.1, 0.4])
    energy, accuracy = np.array([0.0, 0.1, 0.2, 0.3]), np.array([0.9, 0.9, 0.9, 0.5])
    ahead = np.array([0.0, 0.2, 0.3, 0.4])
    forecast = accuracy - latency - energy - waiting * ahead
    processor = ahead * (0.1 + 0.2 * waiting)
    radio = np.array([0.4, 0.2, 0.0, 0.0]) * (0.3 + 0.4 * waiting + 0.5 * 2.0 * 0.3)
    server = np.array([0.3, 0.2, 0.1, 0.0]) * 0.6 * 2.0 * backlog_s
    np.testing.assert_allclose(found, forecast - processor - radio - server, rtol=1e-5)
    # After a layer what is behind is out of the question, and what is spent costs nothing more:
    # two slots are over, so .1 and .2 s are ahead.
    later = state.replace(layer=jnp.int32(1), slot=state.slot + 2)
    found = np.asarray(values(env, jax.tree.map(lambda leaf: leaf[None], later), params, prices))[0]
    assert found[0] == -np.inf
    latency = np.array([0.2 + 0.3 + 0.2 + 0.4 + 0.2, 0.3 + 0.2 + 0.4 + 0.1, 0.4])
    ahead = np.array([0.0, 0.1, 0.2])
    forecast = accuracy[1:] - latency - energy[1:] - waiting * ahead
    processor = ahead * (0.1 + 0.2 * waiting)
    radio = np.array([0.2, 0.0, 0.0]) * (0.3 + 0.4 * waiting + 0.5 * 2.0 * 0.3)
    np.testing.assert_allclose(found[1:], forecast - processor - radio - server[1:], rtol=1e-5)


def test_a_price_moves_the_choice_off_what_it_is_for():
    system = by_hand_world()
    env, params = system.env, system.params()
    state, _ = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    state = jax.tree.map(lambda leaf: leaf[None], state)
    chosen = {}
    for name, place in (("none", None), ("processor", 0), ("radio", 2)):
        weights = jnp.zeros(6) if place is None else jnp.zeros(6).at[place].set(10.0)
        prices = Prices(weights, jnp.float32(2.0))
        chosen[name] = int(np.argmax(values(env, state, params, prices)[0]))
    # No prices: .9 - .7, .9 - .1 - .6 - .4, .9 - .2 - .4 - .6, .5 - .3 - .4 - .8, so 0, which sends
    # the most; after 2 layers nothing need be sent.
    assert chosen == {"none": 0, "processor": 0, "radio": 2}


SEARCH = Search(n_samples=8, n_best=3, n_rounds=3, n_devices=32, n_tasks=40)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_search_never_loses_to_no_prices(seed):
    """On the tasks that it plays, and finds prices where they pay."""
    scenario = dataclasses.replace(registry.load_scenario("reference-busy"), rows=4, slots=8192)
    env, params = jaxcoinfer.make(scenario, jax.random.key(seed))
    found = price_rule.tune(KEY, params, env=env, search=SEARCH)
    assert (np.asarray(found.weights) >= 0).all() and np.isfinite(found.weights).all()
    np.testing.assert_allclose(found.tasks_per_s, price_rule.tasks_per_s(params), rtol=1e-6)
    key_start, _ = jax.random.split(KEY)  # the devices that it plays with
    starts = jax.random.split(key_start, SEARCH.n_devices)
    states, _ = jax.jit(jax.vmap(env.reset, (0, None)))(starts, params)

    @jax.jit
    def utility(prices: Prices) -> jax.Array:
        def choose(replay: workload.Replay) -> jax.Array:
            priced = jax.vmap(price_rule.values, (None, 0, None, None))
            best = jnp.argmax(priced(env, replay.states, params, prices), axis=1)
            return rollout.first_stop(best == jnp.arange(env.n_layers + 1))

        return rollout.mean_utility(env, choose, states, params, SEARCH.n_tasks)

    gain = float(utility(found)) - float(utility(price_rule.free(params)))
    assert gain >= -1e-6
    assert gain > 0.01  # in a busy world waiting costs more than the forecast says


def test_the_search_keeps_no_prices_where_nothing_beats_them():
    """One task at a time, an idle server: the forecast is exact, and each choice the best."""
    system = by_hand_world()
    arrivals = np.zeros_like(system.arrivals)
    arrivals[:, 10::40] = 1
    alone = dataclasses.replace(
        system, arrivals=arrivals, edge_work=np.zeros_like(system.edge_work)
    )
    search = dataclasses.replace(SEARCH, n_devices=4, n_tasks=3)
    found = price_rule.tune(KEY, alone.params(), env=alone.env, search=search)
    np.testing.assert_array_equal(found.weights, np.zeros(6))
