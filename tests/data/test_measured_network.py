"""The shipped multi-exit network: what it must show, and that the scenarios which use it need all
it offers.
"""

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.rollout import unroll
from jaxcoinfer.data import costs, profiles
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand.bound import exact_policy, solve

DNN = profiles.load_dnn("b-alexnet")
assert DNN.samples is not None
MEANS = DNN.samples.unpacked().mean(axis=-1)  # [V, E, P, Q]
OWN = MEANS[:, :, 0, -1]  # [V, E]: nothing lost on the way
POINT = 0.01


def test_accuracy_of_the_exits():
    assert OWN[0, -1] >= 0.76 and OWN[0, 0] >= 0.62
    assert (np.diff(OWN, axis=1) >= 0).all(), "it falls with depth"
    assert (np.diff(OWN, axis=0) <= 0.5 * POINT).all(), "a thinner version is better"


def test_bits():
    whole = MEANS[:, -1, 1:-1]  # [V, P-2, Q]
    loss = whole[..., -1:] - whole
    assert DNN.bits == (2, 4, 8, 32)
    assert (np.abs(loss[..., 2]) <= 0.5 * POINT).all(), "8 bits should lose nothing"
    assert (loss[:, 0, 0] > 1.0 * POINT).all(), "2 bits should be seen behind the first layer"
    assert (loss[:, :, 0].max(axis=1) > loss[:, :, 1].max(axis=1)).all(), (
        "2 bits should lose more than 4"
    )


def test_the_file_is_small_and_says_where_it_comes_from():
    path = profiles.profiles_root() / "dnn" / "b-alexnet.npz"
    assert path.stat().st_size < 3e6
    assert DNN.samples.samples == 10_000
    assert "JPEG" in dict(DNN.source)["full_accuracy"] and "JPEG" in dict(DNN.source)["samples"]


def test_the_means_of_the_file_are_those_of_its_bits():
    for number, width in enumerate(profiles.widths(DNN)):
        thin = profiles.version(DNN, width)
        said = [*(e.accuracy for e in thin.exits), thin.full_accuracy]
        np.testing.assert_allclose(said, OWN[number], atol=1e-5)
        np.testing.assert_allclose(costs.cut_accuracy(thin, 4), MEANS[number, -1, :, 1])


def test_exits_agree_on_easy_images():
    right = DNN.samples.unpacked()[0, :, 0, -1]
    alone = right.mean(axis=1)
    both = (right[0] & right[-1]).mean()
    assert both > alone[0] * alone[-1] + 2 * POINT
    sure = DNN.samples.confidence[0, 0] > np.median(DNN.samples.confidence[0, 0])
    assert right[0][sure].mean() > right[0][~sure].mean() + 10 * POINT


def test_its_own_machine_is_a_profile():
    server = profiles.load_server("edge-epyc")
    for width in profiles.widths(DNN):
        thin = profiles.version(DNN, width)
        assert any(table.dnn == thin.name for table in server.measured)
        assert 1e-5 < costs.layer_seconds(server, thin).sum() < 0.1


def test_the_optimum_on_demand_mixes_exits_cuts_and_bits():
    scenario = dataclasses.replace(registry.load_scenario("on-demand-markov"), rows=8, slots=512)
    env, params = jaxcoinfer.make(scenario, jax.random.key(0))
    solution = solve(scenario, env, params)
    assert solution is not None
    policy = exact_policy(solution)

    @jax.jit
    def play(params):
        start = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(1), 64), params)
        return unroll(env, params, policy, jax.random.key(2), *start, 256)[2].outcome

    outcome = play(params)
    taken = np.asarray(outcome.choice)[np.asarray(outcome.finished)]
    shares = [Counter(part.tolist()) for part in map(np.asarray, env.unflatten(taken))]
    often = [sum(count > 0.02 * len(taken) for count in share.values()) for share in shares]
    assert often[0] >= 2 and often[1] >= 3 and often[2] >= 2, shares


@pytest.mark.parametrize("name", ["camera", "on-demand-markov", "fleet"])
def test_it_is_the_network_of_the_default_scenarios(name):
    scenario = registry.load_scenario(name)
    assert (scenario.dnn if name == "fleet" else scenario.task.dnn) == "b-alexnet"
