"""Checked mode: each kind of fault is told with what and where, and what is right comes out as it
does unchecked.
"""

import copy
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.checked import Checked, CheckFailed, raising, twin
from jaxcoinfer.core.stacked import Stacked
from jaxcoinfer.systems.fleet import twin as fleet_twin
from jaxcoinfer.systems.fleet.env import FleetAction
from jaxcoinfer.systems.on_demand import twin as on_demand_twin
from jaxcoinfer.systems.registry import load_scenario
from jaxcoinfer.systems.stopping.twin import workload
from tests.helpers.fleets import random_fleet
from tests.helpers.on_demand import random_system
from tests.helpers.stopping import assert_trees_close, assert_trees_equal

N = 4
ZERO = jnp.int32(0)


def stopping():
    return jaxcoinfer.make(dataclasses.replace(load_scenario("reference-busy"), rows=2, slots=512))


def on_demand():
    system = random_system(0)
    return system.env, system.params()


def fleet():
    system = random_fleet(1, 3)
    return system.env(), system.params()


SYSTEMS = {"stopping": (stopping, 200), "on-demand": (on_demand, 45), "fleet": (fleet, 6)}
_stopping = pytest.fixture(scope="module", name="stop")(stopping)
_on_demand = pytest.fixture(scope="module", name="demand")(on_demand)
_fleet = pytest.fixture(scope="module", name="many")(fleet)


def roll(env, n_steps, params, key):
    """N environments, valid actions at random, to the end of their rows and beyond; all that is
    seen.
    """
    start = jax.vmap(env.reset, (0, None))(jax.random.split(key, N), params)

    def act(key, state):
        law = jnp.where(env.mask(state, params), 0.0, -1e9)
        return jax.random.categorical(key, law).astype(jnp.int32)

    def move(carry, key):
        action = jax.vmap(act)(jax.random.split(key, N), carry[0])
        after = jax.vmap(env.step, (0, 0, None))(carry[0], action, params)
        return after, after

    return jax.lax.scan(move, start, jax.random.split(key, n_steps))[1]


# Checks of a whole trace compile for long.
@pytest.mark.parametrize(
    "system",
    ["on-demand", *(pytest.param(name, marks=pytest.mark.slow) for name in ("stopping", "fleet"))],
)
def test_what_is_right_passes_with_the_same_numbers(system):
    build, n_steps = SYSTEMS[system]
    env, params = build()
    expected = jax.jit(partial(roll, env, n_steps))(params, jax.random.key(1))
    assert_trees_close(
        raising(partial(roll, Checked(env), n_steps))(params, jax.random.key(1)), expected
    )
    assert expected[0].done[-1].all() and not expected[0].done[0].all()


def test_actions_that_do_not_exist_or_are_not_valid(stop, demand, many):
    env, params = stop
    state, _ = env.reset_at(ZERO, ZERO, params)
    step = raising(Checked(env).step)
    for action in (2, -1):
        at = f"action {action} at slot {state.slot} of row 0"
        with pytest.raises(
            CheckFailed, match=rf"^Stopping\.step: {at} does not exist, there are 0 to 1$"
        ):
            step(state, jnp.int32(action), params)
    env, params = demand
    (invalid,) = np.flatnonzero(~np.asarray(params.valid))[:1]
    start = jax.jit(jax.vmap(env.reset_at, (0, None, None)))(jnp.arange(2), jnp.int32(3), params)[0]
    step_all = raising(jax.vmap(Checked(env).step, (0, 0, None)))
    with pytest.raises(
        CheckFailed, match=rf"^OnDemand\.step: action {invalid} at slot 3 of row 1 is not valid$"
    ):
        step_all(start, jnp.asarray([np.flatnonzero(params.valid)[0], invalid], jnp.int32), params)
    env, params = many
    params = params.replace(
        bank=params.bank.replace(active=params.bank.active.at[:, :, 0].set(False))
    )
    params = params.replace(
        bank=params.bank.replace(active=params.bank.active.at[:, :, 1:].set(True))
    )
    state, _ = env.reset_at(jnp.int32(1), jnp.int32(2), params)
    step = raising(Checked(env).step)
    step(state, jnp.zeros(3, jnp.int32), params.replace(valid=params.valid.at[0].set(True)))
    with pytest.raises(
        CheckFailed, match=r"^Fleet\.step: action 0 at slot 2 of row 1, device 1 is not valid"
    ):  # 0 is away
        step(state, jnp.zeros(3, jnp.int32), params.replace(valid=params.valid.at[0].set(False)))
    with pytest.raises(
        CheckFailed, match=r"^Fleet\.step: action 99 at slot 2 of row 1, device 2 does not exist"
    ):
        step(state, jnp.asarray([0, 0, 99], jnp.int32), params)
    learned = dataclasses.replace(env, learned_shares=True)
    shares = jnp.asarray([1.0, jnp.nan, 1.0])
    with pytest.raises(
        CheckFailed, match=r"^Fleet\.step: action\.bandwidth is nan at slot 2 of row 1"
    ):
        raising(Checked(learned).step)(
            state, FleetAction(jnp.zeros(3, jnp.int32), shares, jnp.ones(3)), params
        )


def test_reads_past_the_trace(stop, demand):
    env, params = stop
    state, _ = env.reset_at(ZERO, ZERO, params)
    checked = Checked(env)
    outside = r"slot 513 of row 0 lies outside the trace, 2 rows of slots 0 to 512$"
    with pytest.raises(
        CheckFailed, match=rf"^Stopping\.step: {outside}"
    ):  # row 1 follows in memory: nobody would know
        raising(checked.step)(state.replace(slot=jnp.int32(513)), ZERO, params)
    with pytest.raises(CheckFailed, match=rf"^Stopping\.reset_at: {outside}"):
        raising(checked.reset_at)(ZERO, jnp.int32(513), params)
    # No upload that begins there ends in time.
    busy = state.hidden.replace(radio_free=jnp.int32(512))
    late = state.replace(slot=jnp.int32(511), hidden=busy)
    with pytest.raises(CheckFailed, match=r"^Stopping\.step: .*(past|outside) the trace"):
        raising(checked.step)(late, jnp.int32(1), params)
    env, params = demand
    state, _ = env.reset_at(ZERO, jnp.int32(3), params)
    with pytest.raises(
        CheckFailed,
        match=r"^OnDemand\.step: slot 3 of row 7 lies outside the trace, 3 rows of slots 0",
    ):
        raising(Checked(env).step)(state.replace(row=jnp.int32(7)), ZERO, params)
    with pytest.raises(
        CheckFailed, match="out-of-bounds indexing"
    ):  # what `raising` finds by itself
        raising(env.step)(state.replace(row=jnp.int32(7)), ZERO, params)


def test_numbers_that_are_none(stop, demand):
    env, params = stop
    state, _ = env.reset_at(ZERO, ZERO, params)
    with pytest.raises(CheckFailed, match=r"^Stopping\.step: reward is nan at slot \d+ of row 0$"):
        raising(Checked(env).step)(state, ZERO, params.replace(energy_weight=jnp.float32(jnp.inf)))
    env, params = demand
    broken = params.replace(deadline_s=params.deadline_s * jnp.nan)
    with pytest.raises(
        CheckFailed, match=r"^OnDemand\.reset_at: observation is nan at slot 3 of row [01]$"
    ):
        raising(jax.vmap(Checked(env).reset_at, (0, None, None)))(
            jnp.arange(2), jnp.int32(3), broken
        )


def test_twins_take_no_state_that_is_done_or_outside(stop, demand, many):
    env, params = stop
    state, _ = env.reset_at(ZERO, ZERO, params)
    ask = raising(partial(twin(workload.evaluate), env))
    assert_trees_equal(ask(state, params), jax.jit(partial(workload.evaluate, env))(state, params))
    assert_trees_equal(
        raising(partial(twin(workload.forecast), env))(state, params),
        jax.jit(partial(workload.forecast, env))(state, params),
    )
    busy = state.hidden.replace(radio_free=jnp.int32(512))
    over = r"the state at slot \d+ of row 0 has ended; ask about one that has not$"
    with pytest.raises(CheckFailed, match=rf"^stopping\.twin\.workload\.evaluate: {over}"):
        ask(state.replace(done=jnp.bool_(True)), params)
    with pytest.raises(
        CheckFailed, match=r"^stopping\.twin\.workload\.evaluate: slot 600 of row 0 lies outside"
    ):
        ask(state.replace(slot=jnp.int32(600)), params)
    with pytest.raises(
        CheckFailed,
        match=r"^stopping\.twin\.workload\.evaluate: an upload of row 0 ends at slot \d+, past the",
    ):
        ask(
            state.replace(slot=jnp.int32(500), start=jnp.int32(500), hidden=busy),
            params,
        )
    env, params = demand
    state, _ = env.reset_at(ZERO, jnp.int32(3), params)
    ask = raising(partial(twin(on_demand_twin.evaluate), env))
    assert_trees_equal(
        ask(state, params), jax.jit(partial(on_demand_twin.evaluate, env))(state, params)
    )
    with pytest.raises(CheckFailed, match=rf"^on_demand\.twin\.evaluate: {over}"):
        ask(state.replace(done=jnp.bool_(True)), params)
    env, params = many
    state, _ = env.reset_at(ZERO, ZERO, params)
    ask, choice = raising(partial(twin(fleet_twin.evaluate), env)), jnp.zeros(3, jnp.int32)
    assert_trees_close(
        ask(state, params, choice),
        jax.jit(partial(fleet_twin.evaluate, env))(state, params, choice),
    )
    with pytest.raises(
        CheckFailed,
        match=r"^fleet\.twin\.evaluate: action -1 at slot 0 of row 0, device \d does not ex",
    ):
        ask(state, params, choice - 1)


def test_it_is_an_environment_like_the_one_within(demand):
    env, _ = demand
    checked = Checked(env)
    assert (
        checked == Checked(env)
        and hash(checked) == hash(Checked(env))
        and copy.deepcopy(checked) == checked
    )
    assert (checked.n_actions, checked.observation_shape) == (env.n_actions, env.observation_shape)
    assert Stacked(checked, 2).observation_shape == (2 * env.observation_shape[0],)
    with pytest.raises(AttributeError):
        _ = checked.nothing
