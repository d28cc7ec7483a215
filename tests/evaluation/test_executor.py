"""Policies that play side by side: each as if alone, each on what it may know, of every seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.core.rollout import Oracle
from jaxcoinfer.evaluation import evaluate, executor
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import Learned
from jaxcoinfer.systems.stopping import baselines
from tests.helpers.stopping import ROWS, random_system

KEY = jax.random.key(0)
SYSTEMS = [random_system(seed, 2) for seed in (3, 11)]
ENV, WORLDS = SYSTEMS[0].env, [system.params() for system in SYSTEMS]
WEIGHTS = {"stop_at": jnp.asarray([0, 2], jnp.int32)}  # of two seeds


def stops_at(weights):
    """Returns a policy with weights: stops after as many layers as they say."""
    return lambda key, state, observation, params: jnp.where(
        weights["stop_at"] <= state.layer, 1, 0
    )


def assert_same(one: Tasks, other: Tasks):
    """Up to the rounding of float32: another program may fuse other operations."""
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        np.testing.assert_allclose(value, getattr(other, name), rtol=1e-6, atol=0, err_msg=name)


@pytest.fixture(scope="module")
def played():
    policies = {"fixed": baselines.fixed(0), "learned": Learned(stops_at, WEIGHTS)}
    policies |= {"waiting": baselines.adaptive_waiting(ENV)}
    return executor.play(ENV, policies, WORLDS, KEY)


def test_every_seed_plays_as_if_it_were_alone(played):
    assert [list(world) for world in played] == [["fixed", "learned", "waiting"]] * 2
    for seed in range(2):
        policy = stops_at({"stop_at": WEIGHTS["stop_at"][seed]})
        alone = evaluate.run(ENV, WORLDS, policy, KEY)
        for world, tasks in zip(played, alone, strict=True):
            assert len(world["learned"]) == 2
            assert_same(world["learned"][seed], tasks)
    for world in played:
        # The seeds decide otherwise, and other tasks come of it.
        zero, two = world["learned"]
        assert (zero.choice == 0).all() and (two.choice == 2).all()
        assert not np.array_equal(zero.latency_s, two.latency_s)


def test_policies_without_seeds_play_once_in_every_world(played):
    rules = {"fixed": baselines.fixed(0), "waiting": baselines.adaptive_waiting(ENV)}
    for name, policy in rules.items():
        alone = evaluate.run(ENV, WORLDS, policy, KEY)
        for world, tasks in zip(played, alone, strict=True):
            (found,) = world[name]
            assert_same(found, tasks)
            assert found.n_rows == ROWS
    # Stopping at once is what the seed does that stops at 0.
    for world in played:
        assert_same(world["fixed"][0], world["learned"][0])
    tasks = [tasks for world in played for several in world.values() for tasks in several]
    assert executor.n_played(played) == sum(len(one.utility) for one in tasks)


def test_policies_of_few_seeds_play_beside_those_of_many():
    one = {"stop_at": WEIGHTS["stop_at"][1:]}
    policies = {"one": Learned(stops_at, one), "two": Learned(stops_at, WEIGHTS)}
    (found,) = executor.play(ENV, policies, WORLDS[:1], KEY)
    assert {name: len(seeds) for name, seeds in found.items()} == {"one": 1, "two": 2}
    assert_same(found["one"][0], found["two"][1])


FUTURE = {
    "state.hidden": lambda state, params: state.hidden.radio_free,
    "state.row": lambda state, params: state.row,
    "params.bank": lambda state, params: params.bank.slots[0, -1, 0],
    "params.last_upload": lambda state, params: params.last_upload[0],
}


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("part", FUTURE)
def test_what_only_the_world_knows_is_for_oracles(part, learned):
    """Who decides on it fails, in the environment alone and side by side, however it was made."""

    def build(weights):
        def policy(key, state, observation, params):
            never = FUTURE[part](state, params) < -1_000_000_000  # read, and not decisive
            return jnp.where(never, 1, stops_at(weights)(key, state, observation, params))

        return policy

    weights = {"stop_at": WEIGHTS["stop_at"][0]}
    names = r"'NoneType' object (has no attribute|is not subscriptable)"
    cheat = Learned(build, WEIGHTS) if learned else build(weights)
    with pytest.raises((AttributeError, TypeError), match=names) as caught:
        executor.play(ENV, {"honest": stops_at(weights), "cheat": cheat}, WORLDS[:1], KEY)
    assert caught.type is AttributeError or part == "params.last_upload"
    with pytest.raises((AttributeError, TypeError), match=names):
        evaluate.run(ENV, WORLDS[:1], build(weights), KEY)
    allowed = Learned(lambda w: Oracle(build(w)), WEIGHTS) if learned else Oracle(build(weights))
    (found,) = executor.play(ENV, {"honest": stops_at(weights), "told": allowed}, WORLDS[:1], KEY)
    assert_same(found["told"][0], found["honest"][0])
