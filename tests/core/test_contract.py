"""What every environment keeps: an entry in `ENVIRONMENTS`, and all of this is tested of it."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.contract import Env, Outcome, TimeStep, select
from jaxcoinfer.core.stacked import Stacked
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.events import UsersAction, UsersOutcome
from jaxcoinfer.systems.stopping.twin.status import StatusTwinEnv, watch
from tests.helpers.on_demand import random_system as random_on_demand
from tests.helpers.stopping import assert_trees_close, assert_trees_equal, random_system

ROOT = Path(__file__).resolve().parents[2]
N_ENVS, STEPS = 12, 300


@cache
def stopping():
    system = random_system(8, 3)
    return system.env, system.params(), True


@cache
def on_demand():
    system = random_on_demand(2)
    return system.env, system.params(), True


@cache
def watched():
    env, params, _ = stopping()
    return StatusTwinEnv(env), watch(params, 3), True


@cache
def stacked():
    env, params, _ = on_demand()
    return Stacked(env, 3), params, True


@cache
def multi_user():
    scenario = dataclasses.replace(
        registry.load_scenario("multi-user"), rows=64, users=3, tasks=5.0
    )
    return *jaxcoinfer.make(scenario, jax.random.key(1)), False


# name: () -> (env, params, whether it is a queueing system, which never ends)
ENVIRONMENTS = {
    "stopping": stopping,
    "on-demand": on_demand,
    "watched": watched,
    "stacked": stacked,
    "multi-user": multi_user,
}


@pytest.fixture(params=ENVIRONMENTS)
def name(request):
    return request.param


def valid(env, params):
    """Actions that may be taken, stacked: all but for environments with a mask; some of those that
    hold numbers.
    """
    if isinstance(env, MultiUser):
        return some_of_users(env, params)
    state, _ = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    mask = env.mask(state, params)
    assert mask.shape == (env.n_actions,) and mask.dtype == bool and mask.any()
    return jnp.asarray(np.flatnonzero(mask), jnp.int32)


def some_of_users(env, params, n=6):
    state, _ = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    mask = env.mask(state, params)
    shapes = ((env.n_users, env.n_splits), (env.n_users, env.n_channels), (env.n_users,))
    assert tuple(leaf.shape for leaf in jax.tree.leaves(mask)) == shapes
    assert all(leaf.dtype == bool and leaf.all() for leaf in jax.tree.leaves(mask))
    keys, shape = jax.random.split(jax.random.key(7), 3), (n, env.n_users)
    split, channel = (
        jax.random.randint(key, shape, 0, most, jnp.int32)
        for key, most in zip(keys, (env.n_splits, env.n_channels), strict=False)
    )
    return UsersAction(split, channel, jax.random.uniform(keys[2], shape, minval=0.05))


def pick(actions, which):
    return jax.tree.map(lambda leaf: leaf[which], actions)


@cache
def trajectory(name):
    """First (state, time step) of N_ENVS environments, random actions, and all states and time
    steps that follow.
    """
    env, params, _ = ENVIRONMENTS[name]()
    key_reset, key_act = jax.random.split(jax.random.key(0))
    choices = valid(env, params)
    n_choices = len(jax.tree.leaves(choices)[0])
    actions = pick(choices, jax.random.randint(key_act, (STEPS, N_ENVS), 0, n_choices))

    def move(state, action):
        state, timestep = jax.vmap(env.step, (0, 0, None))(state, action, params)
        return state, (state, timestep)

    first = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(key_reset, N_ENVS), params)
    return jax.tree.map(
        np.asarray, (first, actions, jax.jit(lambda s: jax.lax.scan(move, s, actions)[1])(first[0]))
    )


def kind(tree):
    """Structure, shapes and types of a tree."""
    return jax.tree.structure(tree), [
        (x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)
    ]


def test_an_environment_is_frozen_and_hashable(name):
    env, params, _ = ENVIRONMENTS[name]()
    assert dataclasses.is_dataclass(env) and hash(env) == hash(dataclasses.replace(env))
    assert env == dataclasses.replace(env)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(env, dataclasses.fields(env)[0].name, None)
    assert all(
        isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params)
    )  # numbers: nothing static among them


def test_signatures(name):
    env, _, _ = ENVIRONMENTS[name]()
    assert list(inspect.signature(env.reset).parameters) == ["key", "params"]
    assert list(inspect.signature(env.step).parameters) == ["state", "action", "params"]
    assert isinstance(env.n_actions, int) and env.n_actions > 1
    assert all(isinstance(n, int) for n in env.observation_shape)


def test_reset_and_step_return_the_same_structure_shapes_and_types(name):
    env, params, _ = ENVIRONMENTS[name]()
    action = pick(valid(env, params), 0)
    started = jax.eval_shape(env.reset, jax.random.key(0), params)
    stepped = jax.eval_shape(env.step, started[0], action, params)
    again = jax.eval_shape(env.step, stepped[0], action, params)
    assert kind(started) == kind(stepped) == kind(again)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(started))


def test_a_time_step_has_the_types_of_the_contract(name):
    env, params, _ = ENVIRONMENTS[name]()
    _, timestep = jax.eval_shape(env.reset, jax.random.key(0), params)
    assert type(timestep) is TimeStep
    assert (timestep.observation.shape, timestep.observation.dtype) == (
        env.observation_shape,
        jnp.float32,
    )
    wanted = dict(reward=jnp.float32, terminated=bool, truncated=bool)
    of_task = dict(finished=bool, choice=jnp.int32, reports=jnp.int32) | dict.fromkeys(
        ("latency_s", "energy_j", "accuracy", "utility"), jnp.float32
    )
    kind_of_outcome, of_outcome, of_shape = Outcome, of_task, ()
    if isinstance(env, MultiUser):  # several tasks of each user end in a step
        kind_of_outcome, of_shape = UsersOutcome, (env.n_users,)
        of_outcome = dict(tasks=jnp.int32, energy_j=jnp.float32)
    assert type(timestep.outcome) is kind_of_outcome
    for part, types, shape in ((timestep, wanted, ()), (timestep.outcome, of_outcome, of_shape)):
        for field, dtype in types.items():
            assert getattr(part, field).shape == shape and getattr(part, field).dtype == dtype, (
                field
            )


def test_no_key_is_kept_in_the_state(name):
    env, params, _ = ENVIRONMENTS[name]()
    state, _ = jax.eval_shape(env.reset, jax.random.key(0), params)
    assert not any(
        jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)
    )


def test_all_that_is_shown_is_finite(name):
    (_, first), _, (states, steps) = trajectory(name)
    for leaf in jax.tree.leaves((first, states, steps)):
        assert np.isfinite(np.asarray(leaf)).all()
    for observation in (first.observation, steps.observation):
        assert float(observation.min()) >= 0.0 and float(observation.max()) <= 1.0


def test_outcomes_make_sense(name):
    env, _, _ = ENVIRONMENTS[name]()
    _, _, (states, steps) = trajectory(name)
    if isinstance(env, MultiUser):
        assert (steps.outcome.energy_j >= 0).all()
        np.testing.assert_array_equal(
            steps.outcome.tasks.sum(axis=0), (states.all_tasks - states.tasks)[-1]
        )
        return
    finished = np.asarray(steps.outcome.finished)
    assert finished.any() and not finished.all()
    outcome = jax.tree.map(lambda x: np.asarray(x)[finished], steps.outcome)
    assert set(outcome.choice) <= set(range(env.n_choices))
    assert len(set(outcome.choice)) > 1
    assert (outcome.latency_s >= 0).all() and (outcome.energy_j >= 0).all()
    assert ((outcome.accuracy >= 0) & (outcome.accuracy <= 1)).all()


def test_every_valid_action_is_taken_and_does_something(name):
    env, params, _ = ENVIRONMENTS[name]()
    (state, _), _, _ = trajectory(name)
    state, actions = jax.tree.map(lambda x: x[0], state), valid(env, params)
    _, after = jax.jit(jax.vmap(env.step, (None, 0, None)))(state, actions, params)
    assert len(set(map(float, after.reward))) == len(after.reward)


def test_an_end_is_for_ever_and_pays_nothing(name):
    env, _, queueing = ENVIRONMENTS[name]()
    (_, first), _, (states, steps) = trajectory(name)
    truncated, terminated = np.asarray(steps.truncated), np.asarray(steps.terminated)
    ended = truncated | terminated
    assert not np.asarray(first.truncated).all() and ended[-1].any()  # the trajectory shows ends
    assert (truncated[1:] >= truncated[:-1]).all() and (terminated[1:] >= terminated[:-1]).all()
    assert not (truncated & terminated).any()
    if queueing:
        assert not terminated.any()
    after = ended[:-1]
    assert (np.asarray(steps.reward)[1:][after] == 0).all()
    ends = steps.outcome.tasks if isinstance(env, MultiUser) else steps.outcome.finished
    assert not np.asarray(ends)[1:][after].any()
    for leaf in jax.tree.leaves((states, steps.observation)):
        leaf = np.asarray(leaf)
        np.testing.assert_array_equal(leaf[1:][after], leaf[:-1][after])


def test_a_step_is_deterministic_and_a_reset_depends_on_its_key_alone_and_uses_it_once(name):
    env, params, _ = ENVIRONMENTS[name]()
    (state, _), actions, (states, steps) = trajectory(name)
    step = jax.jit(jax.vmap(env.step, (0, 0, None)))
    first, again = (step(state, pick(actions, 0), params) for _ in range(2))
    assert_trees_equal(first, again)
    assert_trees_close(first, jax.tree.map(lambda x: x[0], (states, steps)), rtol=1e-5)
    reset = jax.jit(env.reset)
    with jax.debug_key_reuse(True):
        one, same = (reset(jax.random.key(1), params) for _ in range(2))
    assert_trees_equal(one, same)
    # N_ENVS keys give other starts: no two observations and states need differ, but all being equal
    # would be a bug.
    assert any((np.asarray(leaf) != np.asarray(leaf)[:1]).any() for leaf in jax.tree.leaves(state))


def test_vmap_and_jit_change_nothing(name):
    env, params, _ = ENVIRONMENTS[name]()
    (state, _), actions, (states, steps) = trajectory(name)
    for i in range(2):
        mine = jax.tree.map(lambda x, i=i: x[i], state)
        eager = env.step(mine, pick(actions, (0, i)), params)
        assert_trees_close(eager, jax.tree.map(lambda x, i=i: x[0, i], (states, steps)), rtol=1e-5)


def test_reset_is_o1_in_the_length_of_the_record(name):
    # The record is read in place, not copied: nothing as long as a row is in the state.
    env, params, _ = ENVIRONMENTS[name]()
    state, timestep = jax.eval_shape(env.reset, jax.random.key(0), params)
    assert sum(leaf.size for leaf in jax.tree.leaves((state, timestep))) < 100


# --- the contract as a protocol, and what one environment loads --------------------------------

SYSTEM_ENVS = {
    "stopping": ("stopping.env", "Stopping"),
    "on-demand": ("on_demand.env", "OnDemand"),
    "fleet": ("fleet.env", "Fleet"),
    "multi-user": ("multi_user.env", "MultiUser"),
}
TWINS = ("stopping.twin.workload", "on_demand.twin", "fleet.twin")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"jaxcoinfer.systems.{name}")


def test_every_system_has_its_environment_here():
    assert set(SYSTEM_ENVS) == set(registry.SYSTEMS)


@pytest.mark.parametrize("name", SYSTEM_ENVS)
def test_environments_have_what_the_protocol_says(name):
    module, cls = SYSTEM_ENVS[name]
    env = getattr(_module(module), cls)
    for part, wanted in vars(Env).items():
        if part.startswith("_"):
            continue
        own = inspect.getattr_static(env, part)
        assert isinstance(own, property) == isinstance(wanted, property), part
        if not isinstance(wanted, property):
            parameters = list(inspect.signature(own).parameters)
            assert parameters == list(inspect.signature(wanted).parameters), part


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_one_signature(name):
    parameters = list(inspect.signature(_module(name).evaluate).parameters)
    assert parameters in (["env", "state", "params"], ["env", "state", "params", "action"])


def test_an_environment_loads_its_slice_alone():
    script = (
        "import sys, jaxcoinfer.systems.fleet.env\n"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] == 'jaxcoinfer'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert "jaxcoinfer.systems.fleet.env" in loaded
    assert len(loaded) <= 12, loaded  # 34 when systems were spread over many folders


def test_select_takes_whole_entries():
    new = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    old = jax.tree.map(jnp.zeros_like, new)
    chosen = select(jnp.asarray([True, False]), new, old)
    np.testing.assert_array_equal(chosen["a"], [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(chosen["b"], [1, 0])
