"""`on-demand`: environment, twin and policies against the reference, worked numbers, and what must
always hold.
"""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcoinfer.systems.on_demand import baselines, twin
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.exogenous import CLASS, DEVICE_SPEED, EDGE_SPEED, RATE
from jaxcoinfer.systems.on_demand.params import make_params
from tests.helpers.on_demand import (
    CUTS,
    EXITS,
    ROWS,
    SLOTS,
    WIDTHS,
    bank_of,
    numbers_of,
    random_system,
)
from tests.helpers.stopping import assert_trees_close, assert_trees_equal
from tests.reference import on_demand as reference

CHOICES = ("choice", "latency_s", "energy_j", "accuracy", "utility")
SYSTEM = random_system(1)
ENV = SYSTEM.env

step = jax.jit(OnDemand.step, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def play(env, params, actions, slot):
    """Plays actions [T, K] from `slot` of every row; returns first, and (states before, time steps
    after) [T, K].
    """
    rows = jnp.arange(ROWS, dtype=jnp.int32)
    first = jax.jit(jax.vmap(env.reset_at, (0, None, None)))(rows, slot, params)

    def move(state, action):
        after, timestep = jax.vmap(env.step, (0, 0, None))(state, action, params)
        return after, (state, timestep)

    return first, jax.lax.scan(move, first[0], actions)


def random_actions(params, seed, shape):
    valid = np.flatnonzero(np.asarray(params.valid))
    return jnp.asarray(np.random.default_rng(seed).choice(valid, shape), jnp.int32)


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.integers(0, 1))
def test_the_environment_agrees_with_the_reference(seed, delay):
    system = random_system(seed, delay_slots=delay)
    params = system.params()
    actions = random_actions(params, seed, (SLOTS, ROWS))
    _, (_, (states, steps)) = play(system.env, params, actions, jnp.int32(0))
    states, steps = jax.tree.map(np.asarray, (states, steps))
    assert steps.outcome.finished.sum() == ROWS * (SLOTS - delay)
    for row in range(ROWS):
        draw = system.draw(row)
        for t in range(SLOTS - delay):
            assert states.slot[t, row] == t + delay
            exit_, cut, width = (int(x) for x in system.env.unflatten(actions[t, row]))
            task = reference.run_task(system.scenario, draw, t + delay, exit_, cut, width)
            got = {name: getattr(steps.outcome, name)[t, row] for name in CHOICES[1:]}
            wanted = dict(
                latency_s=task.latency_s,
                energy_j=task.energy_j,
                accuracy=task.accuracy,
                utility=task.reward,
            )
            for name, value in wanted.items():
                np.testing.assert_allclose(
                    got[name], value, rtol=3e-5, atol=1e-6, err_msg=f"{name} {row} {t}"
                )
            np.testing.assert_allclose(steps.reward[t, row], task.reward, rtol=3e-5, atol=1e-6)


def test_the_mask_is_that_of_the_reference():
    params = SYSTEM.params()
    for action in range(ENV.n_actions):
        exit_, cut, width = ENV.unflatten(action)
        assert bool(params.valid[action]) == reference.is_valid(SYSTEM.scenario, exit_, cut, width)
        assert action == (exit_ * CUTS + cut) * WIDTHS + width
    state, _ = ENV.reset_at(jnp.int32(0), jnp.int32(3), params)
    np.testing.assert_array_equal(ENV.mask(state, params), params.valid)
    # Exit 0 leaves at cut 2: input, feature 1 at two widths, device. Exit 1 at 3: one feature more.
    assert int(params.valid.sum()) == (1 + 2 + 1) + (1 + 2 + 2 + 1)


def test_a_cut_that_is_not_allowed_is_masked():
    params = make_params(
        bank_of(SYSTEM), **numbers_of(SYSTEM) | {"cut_allowed": [True, False, True, True]}
    )
    allowed = np.asarray(params.valid).reshape(EXITS, CUTS, WIDTHS)
    assert not allowed[:, 1].any() and allowed[0, 2].any() and allowed[1, 2].all()


def test_an_invalid_action_is_lost_and_not_replaced():
    params = SYSTEM.params()
    invalid = int(np.flatnonzero(~np.asarray(params.valid))[0])
    state, _ = ENV.reset_at(jnp.int32(0), jnp.int32(3), params)
    _, timestep = step(ENV, state, jnp.int32(invalid), params)
    deadline_s = float(params.deadline_s[int(state.now.task_class)])
    assert timestep.outcome.choice == invalid and timestep.outcome.accuracy == 0.0
    np.testing.assert_allclose(
        timestep.outcome.latency_s, float(params.cap) * deadline_s, rtol=1e-6
    )


def test_the_twin_is_the_environment_for_every_action():
    params = SYSTEM.params()

    @partial(jax.jit, static_argnums=0)
    def both(env, row, slot, params):
        state, _ = env.reset_at(row, slot, params)
        done = jax.vmap(env.step, (None, 0, None))(
            state, jnp.arange(env.n_actions, dtype=jnp.int32), params
        )[1]
        return twin.evaluate(env, state, params), done

    rng = np.random.default_rng(0)
    rows, slots = rng.integers(0, ROWS, 10_000), rng.integers(0, SLOTS, 10_000)
    told, done = jax.vmap(both, (None, 0, 0, None))(
        ENV, jnp.asarray(rows, jnp.int32), jnp.asarray(slots, jnp.int32), params
    )
    told, outcome, valid = *jax.tree.map(np.asarray, (told, done.outcome)), np.asarray(params.valid)
    for name in ("latency_s", "energy_j", "accuracy"):
        np.testing.assert_allclose(getattr(told, name), getattr(outcome, name), rtol=1e-6)
    np.testing.assert_allclose(
        told.utility[:, valid], outcome.utility[:, valid], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(told.utility[:, valid], done.reward[:, valid], rtol=1e-5, atol=1e-6)
    assert (told.utility[:, ~valid] == -np.inf).all()
    parts = np.minimum(
        told.device_s + told.upload_s + told.edge_s, told.latency_s.max(axis=1, keepdims=True)
    )
    np.testing.assert_allclose(parts[:, valid], told.latency_s[:, valid], rtol=1e-5)


# Two blocks of 4 and 6 ms (edge 1 and 2 ms), an exit behind the first (head 1 ms, edge .5 ms),
# widths 4 and 8.
WORKED = reference.Scenario(
    layer_device_s=(0.004, 0.006),
    layer_edge_s=(0.001, 0.002),
    layer_energy_j=(0.02, 0.03),
    feature_elements=(1000, 10),
    input_bits=20_000,
    exit_after=(1, 2),
    head_device_s=(0.001, 0.0),
    head_edge_s=(0.0005, 0.0),
    head_energy_j=(0.005, 0.0),
    exit_accuracy=(0.6, 0.8),
    bits=(4, 8),
    bits_loss=(0.1, 0.0),
    transmit_w=2.0,
    transmit_j_per_bit=1e-6,
    rtt_s=0.002,
    deadline_s=(0.02,),
    omega=(0.75,),
    penalty=(3.0,),
    cap=5.0,
)
EXAMPLES = [  # exit, cut, width; bit/s; latency, energy, accuracy, reward
    # Full network on the device at half speed: 10 / .5 = 20 ms, not later than 20. .75 * .8 - .25 =
    # .35
    ((1, 2, 1), 2e6, 0.020, 0.05, 0.8, 0.35),
    # Exit on the device: (4 + 1) / .5 = 10 ms; 20 + 5 mJ. .75 * .6 - .25 * .5 = .325
    ((0, 1, 1), 2e6, 0.010, 0.025, 0.6, 0.325),
    # Feature of 4000 bits: 4 / .5 + 4000 / 2e6 + 2 + 2 / .5 = 8 + 2 + 2 + 4 = 16 ms; 20 + 2 W * 2
    # ms + 4 = 28 mJ; .75 * .7 - .25 * .8 = .325
    ((1, 1, 0), 2e6, 0.016, 0.028, 0.7, 0.325),
    # Input: 20,000 / 2e6 = 10, + 2, edge (1 + 2) / .5 = 6: 18 ms; 20 mJ + 20 mJ. .6 - .25 * .9 =
    # .375
    ((1, 0, 1), 2e6, 0.018, 0.040, 0.8, 0.375),
    # Input for the exit: 10 + 2 + (1 + .5) / .5 = 15 ms. .45 - .25 * .75 = .2625
    ((0, 0, 1), 2e6, 0.015, 0.040, 0.6, 0.2625),
    # Half the rate: 20 + 2 + 6 = 28 ms, a miss; 40 + 20 mJ. .6 - .25 * 1.4 - 3 = -2.75
    ((1, 0, 1), 1e6, 0.028, 0.060, 0.8, -2.75),
    # A dead link: given up after 5 deadlines, 100 ms; 2 W * .1 s + 20 mJ. .6 - .25 * 5 - 3 = -3.65
    ((1, 0, 1), 0.0, 0.100, 0.220, 0.8, -3.65),
    # A dead link does not touch what stays on the device
    ((0, 1, 1), 0.0, 0.010, 0.025, 0.6, 0.325),
]


@pytest.mark.parametrize(
    ("choice", "rate_bps", "latency_s", "energy_j", "accuracy", "reward"), EXAMPLES
)
def test_worked_numbers(choice, rate_bps, latency_s, energy_j, accuracy, reward):
    row = np.ones((1, 4))
    # One slot on, all is different: it must not count.
    rates, halves = row * [9e9, rate_bps, 9e9, 9e9], row * [9.0, 0.5, 9.0, 9.0]
    system = dataclasses.replace(
        SYSTEM, scenario=WORKED, draws=(rates, halves, halves, np.zeros((1, 4), int))
    )
    env, params = system.env, system.params()
    state, _ = env.reset_at(jnp.int32(0), jnp.int32(1), params)
    exit_, cut, width = choice
    _, timestep = step(env, state, jnp.int32((exit_ * 3 + cut) * 2 + width), params)
    task = reference.run_task(WORKED, system.draw(0), 1, *choice)
    for outcome in (timestep.outcome, task):
        np.testing.assert_allclose(outcome.latency_s, latency_s, rtol=1e-5)
        np.testing.assert_allclose(outcome.energy_j, energy_j, rtol=1e-5)
        np.testing.assert_allclose(outcome.accuracy, accuracy, rtol=1e-5)
    np.testing.assert_allclose([timestep.reward, task.reward], reward, rtol=1e-4)


@pytest.mark.parametrize("delay", [0, 1])
def test_rows_start_where_something_was_seen_and_end_with_the_record(delay):
    params = random_system(1, delay_slots=delay).params()
    actions = random_actions(params, 0, (SLOTS + 3, ROWS))
    (first, _), (last, (states, steps)) = play(ENV, params, actions, jnp.int32(0))
    assert (first.slot == delay).all() and (last.slot == SLOTS).all() and last.done.all()
    np.testing.assert_array_equal(steps.truncated[:, 0], np.arange(SLOTS + 3) + 1 + delay >= SLOTS)
    after = np.asarray(states.done[:, 0])
    assert (steps.reward[after] == 0).all() and not steps.outcome.finished[after].any()
    reset = jax.jit(jax.vmap(ENV.reset, (0, None)))
    begun, _ = reset(jax.random.split(jax.random.key(0), 500), params)
    assert set(np.asarray(begun.slot).tolist()) == set(range(delay, SLOTS))
    assert not begun.done.any()


def changed(bank, slot, columns):
    """The bank with other values in `columns` of every slot from `slot` on."""
    return bank.replace(slots=bank.slots.at[:, slot:, jnp.asarray(columns)].multiply(0.5))


@pytest.mark.parametrize("delay", [0, 1])
def test_an_observation_knows_nothing_of_the_slot_to_come(delay):
    params = random_system(3, delay_slots=delay).params()
    exogenous = (RATE, DEVICE_SPEED, EDGE_SPEED)
    spoilt = params.replace(bank=changed(params.bank, 7, exogenous))
    mixed = spoilt.bank.slots.at[:, 8:, CLASS].set(1.0 - params.bank.slots[:, 8:, CLASS])
    spoilt = spoilt.replace(bank=spoilt.bank.replace(slots=mixed))
    actions = random_actions(params, 0, (SLOTS, ROWS))
    (_, one), (_, (_, steps)) = play(ENV, params, actions, jnp.int32(0))
    (_, other), (_, (_, spoilt_steps)) = play(ENV, spoilt, actions, jnp.int32(0))
    seen, spoilt_seen = (
        np.concatenate([f.observation[None], s.observation])
        for f, s in ((one, steps), (other, spoilt_steps))
    )
    same = [bool((a == b).all()) for a, b in zip(seen, spoilt_seen, strict=True)]
    # Observation i is that of slot i + delay, which with a delay of 1 shows slot i, and the class
    # of slot i + 1.
    assert same[:7] == [True] * 7 and not any(same[8:-1])
    for policy in (baselines.greedy(ENV), baselines.neurosurgeon(ENV), baselines.edgent(ENV)):
        state, spoilt_state = (
            ENV.reset_at(jnp.int32(0), jnp.int32(6 + delay), p)[0] for p in (params, spoilt)
        )
        acts = [
            policy(jax.random.key(0), s, one.observation[0], params) for s in (state, spoilt_state)
        ]
        assert acts[0] == acts[1]


def test_an_observation_in_numbers():
    params = SYSTEM.params()
    _, timestep = ENV.reset_at(jnp.int32(1), jnp.int32(5), params)
    rates, device, edge, kinds = SYSTEM.draws
    kind = kinds[1, 5]
    # Half: the rate at which the largest upload of a valid choice takes the shortest deadline.
    grid = itertools.product(range(EXITS), range(CUTS), range(WIDTHS))
    sent = [
        c
        for c in grid
        if reference.is_valid(SYSTEM.scenario, *c) and c[1] < SYSTEM.scenario.exit_after[c[0]]
    ]
    features = SYSTEM.scenario.feature_elements
    largest = max(
        SYSTEM.scenario.bits[width] * features[cut - 1] if cut else SYSTEM.scenario.input_bits
        for _, cut, width in sent
    )
    typical = largest / min(SYSTEM.scenario.deadline_s)
    np.testing.assert_allclose(params.typical_bps, typical, rtol=1e-6)
    wanted = [
        rates[1, 4] / (rates[1, 4] + typical),
        device[1, 4] / (device[1, 4] + 1),
        edge[1, 4] / (edge[1, 4] + 1),
    ]
    wanted += [
        SYSTEM.scenario.deadline_s[kind] / max(SYSTEM.scenario.deadline_s),
        kind == 0,
        kind == 1,
    ]
    np.testing.assert_allclose(timestep.observation, wanted, rtol=1e-6)


def test_new_numbers_retrace_nothing():
    traces = 0

    @jax.jit
    def run(state, action, params):
        nonlocal traces
        traces += 1
        return ENV.step(state, action, params)

    for seed, delay in ((1, 0), (2, 1), (3, 1)):
        params = random_system(seed, delay_slots=delay).params()
        state, _ = ENV.reset(jax.random.key(seed), params)
        for _ in range(2):
            state, _ = run(state, jnp.int32(seed), params)
    assert traces == 1


def late(draw):
    """What a device sees a slot late: link and speeds of the slot before, the class of its own."""
    return reference.Draw(
        *(np.roll(values, 1) for values in (draw.rate_bps, draw.device_speed, draw.edge_speed)),
        draw.task_class,
    )


def numpy_policy(name, scenario, draw, slot):
    """The baselines again, from their descriptions, on what was seen a slot ago."""
    seen = late(draw)
    grid = [(e, p, q) for e in range(EXITS) for p in range(CUTS) for q in range(WIDTHS)]
    grid = [choice for choice in grid if reference.is_valid(scenario, *choice)]
    told = {choice: reference.run_task(scenario, seen, slot, *choice) for choice in grid}
    if name == "greedy":
        return max(grid, key=lambda c: told[c].reward)
    if name == "full_information":
        return max(grid, key=lambda c: reference.run_task(scenario, draw, slot, *c).reward)
    widest = [c for c in grid if c[2] == WIDTHS - 1]
    if name == "neurosurgeon":
        return min((c for c in widest if c[0] == EXITS - 1), key=lambda c: told[c].latency_s)
    meets = [c for c in widest if told[c].latency_s <= scenario.deadline_s[draw.task_class[slot]]]
    largest = [c for c in meets if c[0] == max(e for e, _, _ in meets)]
    return min(largest or widest, key=lambda c: told[c].latency_s)


@pytest.mark.parametrize("name", ["greedy", "full_information", "neurosurgeon", "edgent"])
def test_a_baseline_does_what_its_description_says(name):
    params, policy = SYSTEM.params(), getattr(baselines, name)(ENV)

    @jax.jit
    def decide(row, slot):
        state, timestep = ENV.reset_at(row, slot, params)
        return policy(jax.random.key(0), state, timestep.observation, params)

    slots = jnp.arange(1, SLOTS, dtype=jnp.int32)
    got = np.asarray(
        jax.vmap(jax.vmap(decide, (None, 0)), (0, None))(jnp.arange(ROWS, dtype=jnp.int32), slots)
    )
    assert got.dtype == np.int32 and len(set(got.flatten().tolist())) > 1
    for row in range(ROWS):
        for slot in range(1, SLOTS):
            wanted = numpy_policy(name, SYSTEM.scenario, SYSTEM.draw(row), slot)
            chosen = tuple(int(x) for x in ENV.unflatten(got[row, slot - 1]))
            # Where they differ it is a tie, as where every choice is given up: equally good by the
            # measure of the baseline.
            if chosen != wanted:
                draw = SYSTEM.draw(row) if name == "full_information" else late(SYSTEM.draw(row))
                a, b = (
                    reference.run_task(SYSTEM.scenario, draw, slot, *choice)
                    for choice in (chosen, wanted)
                )
                value = "reward" if name in ("greedy", "full_information") else "latency_s"
                np.testing.assert_allclose(getattr(a, value), getattr(b, value), rtol=1e-5)


def test_simple_baselines():
    params = SYSTEM.params()
    state, timestep = ENV.reset_at(jnp.int32(0), jnp.int32(3), params)

    def act(policy, key=0):
        return int(policy(jax.random.key(key), state, timestep.observation, params))

    assert ENV.unflatten(act(baselines.device_only(ENV))) == (EXITS - 1, CUTS - 1, WIDTHS - 1)
    assert ENV.unflatten(act(baselines.edge_only(ENV))) == (EXITS - 1, 0, WIDTHS - 1)
    assert act(baselines.fixed(4)) == 4
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = jax.vmap(
        lambda key: baselines.random_valid()(key, state, timestep.observation, params)
    )(keys)
    assert set(np.asarray(drawn).tolist()) == set(np.flatnonzero(np.asarray(params.valid)).tolist())


def test_the_best_fixed_action_is_the_best_on_the_bank():
    params = SYSTEM.params()
    best = baselines.best_fixed(ENV, params)
    valid = np.flatnonzero(np.asarray(params.valid))
    totals = {
        int(a): sum(
            reference.run_task(
                SYSTEM.scenario, SYSTEM.draw(row), t, *(int(x) for x in ENV.unflatten(a))
            ).reward
            for row in range(ROWS)
            for t in range(SLOTS)
        )
        for a in valid
    }
    assert best == max(totals, key=lambda a: totals[a])


def test_equal_environments_are_one_and_jit_is_eager():
    same = OnDemand(EXITS, CUTS, WIDTHS, 2)
    assert same == ENV and hash(same) == hash(ENV)
    params = SYSTEM.params()
    state, _ = ENV.reset_at(jnp.int32(0), jnp.int32(3), params)
    assert_trees_close(
        step(ENV, state, jnp.int32(7), params), ENV.step(state, jnp.int32(7), params)
    )
    assert_trees_equal(
        ENV.reset_at(jnp.int32(0), jnp.int32(0), params),
        ENV.reset_at(jnp.int32(0), jnp.int32(1), params),
    )


REFUSED = [  # what is changed, what the message says
    (dict(cut_device_s=[0, 1, 2]), "cut_device_s: shape (3,)"),
    (dict(cut_device_s=[0, 2, 1, 3]), "never fall"),
    (dict(cut_edge_s=[1, 2, 3, 4]), "begin with 0"),
    (dict(exit_cut=[2, 2]), "exit_cut"),
    (dict(exit_cut=[1.5, 3]), "exit_cut"),
    (dict(accuracy=np.full((2, 4, 2), 1.5)), "accuracy: 1.5"),
    (dict(accuracy=np.ones((2, 4))), "accuracy: shape (2, 4)"),
    (dict(upload_bits=np.full((4, 2), np.nan)), "upload_bits"),
    (dict(deadline_s=[0.0, 0.1]), "deadline_s"),
    (dict(deadline_s=[0.1]), "accuracy_weight: shape (2,)"),
    (dict(accuracy_weight=[0.5, 2.0]), "accuracy_weight: 2.0"),
    (dict(penalty=[-1.0, 2.0]), "penalty"),
    (dict(cap=1.0), "cap: 1.0"),
    (dict(delay_slots=2), "delay_slots: 2"),
]


@pytest.mark.parametrize(
    ("change", "says"), REFUSED, ids=[f"{next(iter(c))}-{i}" for i, (c, _) in enumerate(REFUSED)]
)
def test_numbers_that_cannot_be_are_refused(change, says):
    with pytest.raises(ValueError) as error:
        make_params(bank_of(SYSTEM), **numbers_of(SYSTEM) | change)
    assert says in str(error.value) and "\n" not in str(error.value).replace("\n ", "")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (RATE, -1.0, "rate_bps: -1.0"),
        (RATE, float("nan"), "not finite"),
        (DEVICE_SPEED, 0.0, "device_speed: 0.0"),
        (EDGE_SPEED, 0.0, "edge_speed: 0.0"),
        (CLASS, 2.0, "task_class"),
    ],
)
def test_a_bank_that_cannot_be_is_refused(column, value, says):
    bank = bank_of(SYSTEM)
    with pytest.raises(ValueError, match=says):
        make_params(
            bank.replace(slots=bank.slots.at[0, 3, column].set(value)), **numbers_of(SYSTEM)
        )
