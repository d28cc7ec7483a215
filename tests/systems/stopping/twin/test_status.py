"""The status twin: what the server believes, and what it costs in reports."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.contract import Env
from jaxcoinfer.core.rollout import unroll
from jaxcoinfer.data import processes
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines as policies
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.twin import status

KEY = jax.random.key(0)
NEVER = 1 << 20  # slots: no device is ever that far behind


def _system(speed: Any):
    scenario = registry.load_scenario("reference")
    scenario = dataclasses.replace(
        scenario, rows=4, slots=3000, arrivals=processes.Bernoulli(0.025), speed=speed
    )
    return jaxcoinfer.make(scenario, jax.random.key(3))


VARYING = processes.MarkovSpeed((0.8, 1.0, 1.2), (0.01, 0.01, 0.01))


@pytest.fixture(scope="module")
def varying():
    return _system(VARYING)


def _play(env: Env, worlds: list):
    return evaluate.run(env, worlds, policies.one_time_waiting(Stopping(2)), KEY)


def test_with_no_tolerance_the_server_knows_everything(varying: tuple[Stopping, Params]):
    env, params = varying
    told = _play(status.StatusTwinEnv(env), [status.watch(params, 0)])[0]
    full = _play(env, [params])[0]
    np.testing.assert_array_equal(told.choice, full.choice)
    np.testing.assert_array_equal(told.utility, full.utility)
    assert told.reports.sum() < full.reports.sum()  # where the estimate is right nothing is said


def test_a_device_of_one_speed_never_reports_and_is_known_exactly():
    env, params = _system(processes.ConstantSpeed())
    told = _play(status.StatusTwinEnv(env), [status.watch(params, 0)])[0]
    full = _play(env, [params])[0]
    np.testing.assert_array_equal(told.utility, full.utility)
    assert told.reports.sum() == params.bank.n_rows  # the first of every row, with which it starts


def test_reports_fall_with_the_threshold_and_with_extrapolation(varying: tuple[Stopping, Params]):
    env, params = varying
    worlds = [status.watch(params, threshold) for threshold in (0, 5, 20, NEVER)]
    with_twin = [tasks.reports.mean() for tasks in _play(status.StatusTwinEnv(env), worlds)]
    held = [status.watch(params, threshold, extrapolate=False) for threshold in (0, 5, 20, NEVER)]
    without = [tasks.reports.mean() for tasks in _play(status.StatusTwinEnv(env), held)]
    assert with_twin[0] > with_twin[1] > with_twin[2] > with_twin[3]
    assert all(twin < held for twin, held in zip(with_twin[:3], without[:3], strict=True))


@pytest.mark.parametrize("extrapolate", [True, False])
@pytest.mark.parametrize("threshold", [3, NEVER])
def test_the_server_is_never_ahead_of_the_device_nor_beyond_the_threshold(
    varying: tuple[Stopping, Params], extrapolate: bool, threshold: int
):
    env, params = varying
    watched, params = status.StatusTwinEnv(env), status.watch(params, threshold, extrapolate)
    rows = jnp.arange(params.bank.n_rows, dtype=jnp.int32)
    state, timestep = jax.vmap(watched.reset_at, (0, None, None))(rows, jnp.int32(0), params)
    policy = policies.random_choice()

    def behind(carry: Any, key: jax.Array):
        state, timestep = carry
        state, timestep, _ = unroll(watched, params, policy, key, state, timestep, 1)
        return (state, timestep), jnp.where(state.done, 0, state.truth.slot - state.slot)

    slots = jax.jit(lambda s, t: jax.lax.scan(behind, (s, t), jax.random.split(KEY, 400))[1])(
        state, timestep
    )
    assert slots.min() >= 0
    assert slots.max() <= threshold
    assert slots.max() > 0  # the estimate is put to the test


def test_a_negative_threshold_is_refused(varying: tuple[Stopping, Params]):
    with pytest.raises(ValueError, match=r"threshold_slots: -1; must be at least 0"):
        status.watch(varying[1], -1)
