"""A fleet whose links, speeds and loads are known a slot late: what is known when, who decides on
what, and what counts.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.core.rollout import act
from jaxcoinfer.systems.fleet import baselines, twin
from jaxcoinfer.systems.fleet import env as fleet
from jaxcoinfer.systems.fleet.bound import solve
from tests.helpers.fleets import POLICIES, SLOTS, System, random_fleet, reset_at, step
from tests.reference import fleet as reference

KEY = jax.random.key(0)
LATE = ("efficiency", "speed", "bandwidth", "server")
IN_TIME = ("weight", "active")


def late_fleet(seed, n_devices, **kind) -> System:
    return dataclasses.replace(random_fleet(seed, n_devices, **kind), delay_slots=1)


def as_known(system: System) -> System:
    """The fleet that would look the same in time: what is late, moved one slot on."""
    bank = {
        name: np.concatenate([v[:, :1], v[:, :-1]], axis=1) if name in LATE else v
        for name, v in system.bank.items()
    }
    return dataclasses.replace(system, bank=bank, delay_slots=0)


@partial(jax.jit, static_argnums=(0, 1, 2))
def decide(env, baseline, informed, row, slot, params):
    policy = baselines.informed(env, baseline) if informed else baseline(env)
    state, timestep = env.reset_at(row, slot, params)
    return act(env, policy, KEY, state, timestep.observation, params)


def decided(system, baseline, row, slot, informed=False):
    place = (jnp.int32(row), jnp.int32(slot))
    return np.asarray(decide(system.env(), baseline, informed, *place, system.params()))


@pytest.mark.parametrize("delay", [0, 1])
def test_links_and_loads_are_known_late_and_tasks_in_time(delay):
    system = dataclasses.replace(random_fleet(3, 5, cloud=True), delay_slots=delay)
    env, params = system.env(), system.params()
    state, timestep = reset_at(env, jnp.int32(1), jnp.int32(0), params)
    for slot in range(SLOTS + 1):
        known = max(slot - delay, 0)  # all of the first slot is known in time
        for name in (*LATE, *IN_TIME):
            of_slot = np.float32(system.bank[name][1])
            np.testing.assert_array_equal(getattr(state.now, name), of_slot[slot])
            seen = of_slot[slot if name in IN_TIME else known]
            np.testing.assert_array_equal(getattr(state.seen, name), seen, err_msg=f"{name} {slot}")
        np.testing.assert_array_equal(state.seen.kind, system.bank["kind"][1])
        # An episode that starts here knows the same.
        fresh, first = reset_at(env, jnp.int32(1), jnp.int32(slot), params)
        jax.tree.map(np.testing.assert_array_equal, fresh, state)
        np.testing.assert_array_equal(first.observation, timestep.observation)
        ended = state
        state, timestep = step(env, state, jnp.zeros(5, jnp.int32), params)
    jax.tree.map(np.testing.assert_array_equal, ended, state)  # the end is for ever
    assert int(state.slot) == SLOTS and bool(state.done)


def test_observation_and_mask_show_nothing_of_the_present_but_its_tasks():
    late, known = late_fleet(3, 5), as_known(late_fleet(3, 5))
    env = late.env()
    for slot in range(SLOTS):
        one, other = (
            reset_at(env, jnp.int32(0), jnp.int32(slot), of.params()) for of in (late, known)
        )
        np.testing.assert_array_equal(one[1].observation, other[1].observation)
        np.testing.assert_array_equal(
            env.mask(one[0], late.params()), env.mask(other[0], known.params())
        )
    changed = dataclasses.replace(
        late,
        bank={
            n: v * (0.5 if n in LATE else 1) if v.dtype == float else v
            for n, v in late.bank.items()
        },
    )
    # In the first slot all is known, so there the change is seen.
    for slot in (0, 2):
        mixed = dataclasses.replace(late, bank=dict(late.bank))
        for name in LATE:
            values = late.bank[name].copy()
            values[:, slot:] = changed.bank[name][:, slot:]
            mixed.bank[name] = values
        seen = [of.state(0, slot) for of in (late, mixed)]
        observed = [np.asarray(fleet.observe(env, s, late.params())) for s in seen]
        assert np.array_equal(*observed) == (slot > 0)
        assert (np.asarray(seen[0].now.speed) != np.asarray(seen[1].now.speed)).any()


@pytest.mark.parametrize(
    "policy",
    POLICIES,
    ids=lambda policy: policy.__name__,
)
def test_policies_decide_on_what_is_known(policy):
    differs = 0
    for seed in range(8):
        late = late_fleet(seed, 4, everybody=True)
        present = dataclasses.replace(late, delay_slots=0)
        for row, slot in ((0, 0), (0, 2), (1, 3)):
            choice = decided(late, policy, row, slot)
            np.testing.assert_array_equal(choice, decided(as_known(late), policy, row, slot))
            wanted = decided(present, policy, row, slot)
            assert slot > 0 or (choice == wanted).all()
            differs += (choice != wanted).any()
            # Who is told of the present decides as if nothing were late.
            np.testing.assert_array_equal(decided(late, policy, row, slot, informed=True), wanted)
    # The version that is best on the device alone hardly depends on how fast it is.
    assert (differs > 0) == (policy is not baselines.device_only)


def test_what_tasks_cost_is_that_of_the_present():
    late, rng = late_fleet(7, 4), np.random.default_rng(0)
    env, params = late.env(), late.params()
    for slot in (1, 3):
        choice = rng.integers(0, env.n_choices, 4).astype(np.int32)
        state = late.state(1, slot)
        _, timestep = step(env, state, jnp.asarray(choice), params)
        of, devices, *left = late.reference(1, slot)
        taken = [of.choices()[c] for c in choice]
        shares = reference.best_shares(of, devices, taken, *left)
        tasks = reference.serve(of, devices, taken, *shares, *left, capped=False)
        here = [device.active for device in devices]
        np.testing.assert_array_equal(timestep.outcome.finished, here)
        wanted = np.array([[t.latency_s, t.energy_j, -t.cost] for t in tasks])[here]
        for name, column in zip(("latency_s", "energy_j", "utility"), wanted.T, strict=True):
            got = np.asarray(getattr(timestep.outcome, name))[here]
            np.testing.assert_allclose(got, column, rtol=1e-4, err_msg=name)
        told = twin.evaluate(env, state, params, jnp.asarray(choice))
        np.testing.assert_allclose(
            np.asarray(told)[np.arange(4), choice], -float(timestep.reward) * sum(here), rtol=1e-5
        )


def test_the_bound_is_that_of_the_present_and_knowing_it_is_no_worse():
    worse = []
    for seed in range(12):
        late = late_fleet(seed, 3, everybody=True)
        env, params, state = late.env(), late.params(), late.state(0, 2)
        found = jax.jit(solve)(fleet.tables(state.now, params))
        best = reference.optimum(*late.reference(0, 2))
        assert float(found.bound) <= best * (1 + 1e-6)
        costs = [
            -3.0 * float(step(env, state, jnp.asarray(choice), params)[1].reward)
            for choice in (
                decided(late, baselines.exhaustive, 0, 2, informed=True),
                decided(late, baselines.dual_recovery, 0, 2, informed=True),
                decided(late, baselines.dual_recovery, 0, 2),
            )
        ]
        np.testing.assert_allclose(costs[0], best, rtol=1e-5)
        np.testing.assert_allclose(costs[1], float(found.cost), rtol=1e-5)
        assert costs[2] >= best * (1 - 1e-5)
        worse.append(costs[2] / costs[1] - 1)
    # The recovery is not always the best answer, so a late one may be luckier, but by no more than
    # its gap.
    assert min(worse) > -1e-4 and max(worse) > 0.01
