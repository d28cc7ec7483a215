"""What a device of `on-demand` may know: of a recorded link only steps that are over, and nothing
of what only the world knows.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.core.rollout import Oracle, act
from jaxcoinfer.core.stacked import Stacked
from jaxcoinfer.data.processes import ConstantSpeed, RecordedRate
from jaxcoinfer.learn import sac
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand import baselines, bound, policies
from jaxcoinfer.systems.on_demand.exogenous import OBSERVED_RATE, RATE
from jaxcoinfer.systems.on_demand.lookup import look_up
from jaxcoinfer.systems.on_demand.policies import EXACT, INFORMED, NOT_DEPLOYABLE
from jaxcoinfer.systems.registry import make
from tests.helpers.on_demand import random_system

KEY = jax.random.key(3)
STEPS, SLOTS = 40, 200  # steps of 1 s, slots of .1 s
WIFI = dataclasses.replace(
    registry.load_scenario("on-demand-wifi"),
    rows=6,
    slots=SLOTS,
    slot_s=0.1,
    device_speed=ConstantSpeed(),
    edge_speed=ConstantSpeed(),
)


def on_trace(path, rates_bps, **changes):
    """The world of a link whose steps have these rates, from the same key: (env, params)."""
    lines = ["time_s,rate_bps", *(f"{i},{rate}" for i, rate in enumerate(rates_bps))]
    path.write_text("\n".join(lines))
    rate = RecordedRate(train=(str(path),), test=(str(path),))
    return make(dataclasses.replace(WIFI, rate=rate, **changes), KEY)


def every_slot(env, params):
    """Observations [K, T, F], and what three policies decide [3, K, T], in every slot."""
    deciding = (baselines.greedy(env), baselines.neurosurgeon(env), baselines.edgent(env))

    @jax.jit
    @jax.vmap
    def of_row(row):
        def of_slot(slot):
            state, timestep = env.reset_at(row, slot, params)
            acts = [act(env, p, KEY, state, timestep.observation, params) for p in deciding]
            return timestep.observation, jnp.stack(acts)

        return jax.vmap(of_slot)(jnp.arange(SLOTS, dtype=jnp.int32))

    observed, acts = of_row(jnp.arange(WIFI.rows, dtype=jnp.int32))
    return np.asarray(observed), np.moveaxis(np.asarray(acts), -1, 0)


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("outage_leave", [(), (0.1, 0.3)])
def test_what_is_seen_of_a_recorded_link_is_the_step_before(tmp_path, delay, outage_leave):
    rates = 1e6 * (1.0 + 0.37 * np.arange(STEPS))
    env, params = on_trace(tmp_path / "a.csv", rates, delay_slots=delay)
    if outage_leave:  # the rate in an outage is 0, and so is what is seen a slot later
        rate = RecordedRate((str(tmp_path / "a.csv"),), (str(tmp_path / "a.csv"),), outage_leave)
        env, params = make(dataclasses.replace(WIFI, rate=rate, delay_slots=delay), KEY)
    slots = np.asarray(params.bank.slots)[:, :SLOTS]
    true_bps, observed_bps = slots[..., RATE], slots[..., OBSERVED_RATE]
    if outage_leave:
        assert 0 < (true_bps == 0).mean() < 0.5
        np.testing.assert_array_equal(observed_bps[:, 1:] == 0, true_bps[:, :-1] == 0)
    up = (observed_bps > 0) & (true_bps > 0)
    last = np.abs(observed_bps[..., None] - rates).argmin(axis=-1)  # the step that is seen
    np.testing.assert_allclose(observed_bps[up], rates[last[up]], rtol=1e-5)
    # The slot itself lies in the step after that one, or goes over into the next but one.
    low, high = rates[last + 1], rates[np.minimum(last + 2, STEPS - 1)]
    assert (true_bps >= low * (1 - 1e-4))[up].all() and (true_bps <= high * (1 + 1e-4))[up].all()
    assert (np.abs(true_bps / low - 1) < 1e-4)[up].mean() > 0.85
    if not outage_leave:  # each step is seen for ten slots
        assert set(np.diff(last, axis=1).ravel()) == {0, 1} and last.min() >= 0
        inner = [np.bincount(row)[row.min() + 1 : row.max()] for row in last]
        assert {int(n) for row in inner for n in row} == {10}
    # That is what the device sees, whatever the delay.
    for row, slot in ((0, 1), (3, 77), (5, SLOTS - 1)):
        state, timestep = env.reset_at(jnp.int32(row), jnp.int32(slot), params)
        seen = observed_bps[row, slot]
        assert float(state.seen.rate_bps) == seen
        assert float(state.now.rate_bps) == true_bps[row, slot]
        np.testing.assert_allclose(
            timestep.observation[0], seen / (seen + float(params.typical_bps)), rtol=1e-6
        )


@pytest.mark.parametrize("changed", [12, 20])
def test_nothing_is_known_of_the_step_that_is_not_over(tmp_path, changed):
    rng = np.random.default_rng(0)
    rates = np.round(1e6 * 10.0 ** rng.uniform(-0.5, 1.5, STEPS))
    env, params = on_trace(tmp_path / "a.csv", rates)
    other = rates.copy()
    other[changed:] = np.round(rates[changed:] * rng.choice([0.1, 7.0], STEPS - changed))
    _, spoilt = on_trace(tmp_path / "b.csv", other)
    slots, spoilt_slots = (np.asarray(p.bank.slots)[:, :SLOTS] for p in (params, spoilt))
    # The step in which a slot begins: the one after the step that is seen.
    present = 1 + np.abs(slots[..., OBSERVED_RATE, None] - rates).argmin(axis=-1)
    before = present <= changed
    assert before.any(axis=1).sum() >= 3 and (present > changed).any()
    # The link itself is another from the first slot of the changed step on, ...
    assert (slots[..., RATE] != spoilt_slots[..., RATE])[present == changed].all()
    # ... but nothing that is seen, nor any decision, before that step is over.
    (seen, acts), (spoilt_seen, spoilt_acts) = (every_slot(env, p) for p in (params, spoilt))
    np.testing.assert_array_equal(seen[before], spoilt_seen[before])
    np.testing.assert_array_equal(acts[:, before], spoilt_acts[:, before])
    first = present == changed + 1
    assert (seen[first] != spoilt_seen[first]).any(axis=-1).all()
    assert (acts[:, first] != spoilt_acts[:, first]).any()


def test_policies_do_without_what_only_the_world_knows():
    system = random_system(1)
    env, params = system.env, system.params()
    state, timestep = env.reset_at(jnp.int32(1), jnp.int32(7), params)
    seen, known = env.visible(state, params)
    assert seen.row is None and seen.now is None and known.bank is None
    assert state.now is not None and params.bank is not None
    table = look_up(env, params)
    chosen = policies.choose(env, params, table, [0.1] * env.n_classes, jax.random.key(1))
    deployable = policies.baseline_policies(env, chosen, None)
    informed = deployable.pop(INFORMED)
    assert not NOT_DEPLOYABLE & set(deployable) and isinstance(informed, Oracle)
    config = sac.Config(hidden=(4,))
    weights = sac.network(env, config).init(jax.random.key(0), timestep.observation)
    deployable["learned"] = sac.policy(env, config, weights)
    for name, policy in deployable.items():
        assert not isinstance(policy, Oracle), name
        blind = policy(KEY, seen, timestep.observation, known)
        full = policy(KEY, state, timestep.observation, params)
        acted = act(env, policy, KEY, state, timestep.observation, params)
        assert int(blind) == int(full) == int(acted) and blind.dtype == jnp.int32, name
    # A reference receives the present.
    acted = act(env, informed, KEY, state, timestep.observation, params)
    assert int(acted) == int(informed(KEY, state, timestep.observation, params))
    with pytest.raises(AttributeError):
        informed(KEY, seen, timestep.observation, known)


def test_what_memory_adds_is_the_device_s_own():
    system = random_system(1)
    env, params = Stacked(system.env, 3), system.params()
    state, _ = env.reset_at(jnp.int32(1), jnp.int32(7), params)
    seen, known = env.visible(state, params)
    assert seen.state.row is None and seen.state.now is None and known.bank is None
    np.testing.assert_array_equal(seen.past, state.past)


def test_the_exact_optimum_needs_only_what_is_seen():
    scenario = dataclasses.replace(registry.load_scenario("on-demand-markov"), rows=2, slots=64)
    env, params = make(scenario, KEY)
    exact = bound.exact_policy(bound.solve(scenario, env, params))
    assert EXACT in NOT_DEPLOYABLE  # it knows the law of the world, but no more of the slot
    state, timestep = env.reset_at(jnp.int32(1), jnp.int32(7), params)
    seen, known = env.visible(state, params)
    blind = exact(KEY, seen, timestep.observation, known)
    assert int(blind) == int(exact(KEY, state, timestep.observation, params))
