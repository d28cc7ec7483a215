"""The environment `fleet`: against the reference, its twin, its policies, its scenarios."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcoinfer
from jaxcoinfer.core.contract import Outcome
from jaxcoinfer.data.profiles import ProfileError, profiles_root
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import baselines, twin
from jaxcoinfer.systems.fleet import env as fleet
from jaxcoinfer.systems.fleet.bound import solve
from jaxcoinfer.systems.fleet.env import Fleet, FleetAction
from jaxcoinfer.systems.fleet.make import distance_m, processes
from tests.helpers.fleets import CUTS, POLICIES, ROWS, SLOTS, VERSIONS, random_fleet, step, step_all
from tests.reference import fleet as reference

KEY = jax.random.key(0)
evaluate = jax.jit(twin.evaluate, static_argnums=0)


def random_choices(rng, env, shape):
    """Valid choices."""
    _, cut, second = env.parts(np.arange(env.n_choices))
    return rng.choice(np.flatnonzero(second >= cut), shape).astype(np.int32)


def compare(env, system, row, slot, timestep, x, y):
    """One time step against the reference, whose devices get shares x and y."""
    of, devices, bandwidth, server = system.reference(row, slot)
    outcome = jax.tree.map(np.asarray, timestep.outcome)
    chosen = [of.choices()[c] for c in outcome.choice]
    tasks = reference.serve(of, devices, chosen, x, y, bandwidth, server, capped=env.learned_shares)
    here = [device.active for device in devices]
    np.testing.assert_array_equal(outcome.finished, here)
    for name in ("latency_s", "energy_j", "accuracy"):
        wanted = np.array([getattr(task, name) for task in tasks])
        np.testing.assert_allclose(
            getattr(outcome, name)[here], wanted[here], rtol=1e-4, err_msg=name
        )
    costs = np.array([task.cost for task in tasks])[here]
    np.testing.assert_allclose(-outcome.utility[here], costs, rtol=1e-4)
    np.testing.assert_allclose(-timestep.reward, costs.mean() if any(here) else 0.0, rtol=1e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), cloud=st.booleans())
def test_the_environment_is_the_reference(seed, cloud):
    system, rng = random_fleet(seed, 5, cloud), np.random.default_rng(seed)
    env, params = system.env(), system.params()
    state = system.state(1, 0)
    for slot in range(SLOTS):
        choice = random_choices(rng, env, 5)
        of, *rest = system.reference(1, slot)
        x, y = reference.best_shares(of, rest[0], [of.choices()[c] for c in choice], *rest[1:])
        state, timestep = step(env, state, jnp.asarray(choice), params)
        compare(env, system, 1, slot, timestep, x, y)
    assert bool(timestep.truncated) and not bool(timestep.terminated)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), cloud=st.booleans())
def test_the_environment_with_given_shares_is_the_reference(seed, cloud):
    system, rng = random_fleet(seed, 5, cloud), np.random.default_rng(seed)
    env, params = system.env(learned_shares=True), system.params()
    choice = random_choices(rng, env, 5)
    weights = rng.normal(0.5, 1.0, (2, 5)) * (rng.random((2, 5)) < 0.8)
    action = FleetAction(jnp.asarray(choice), *jnp.asarray(weights, jnp.float32))
    _, timestep = step(env, system.state(0, 2), action, params)
    of, devices, *rest = system.reference(0, 2)
    shares = []
    for part, weight in zip((1, 2), weights, strict=True):
        seconds = [
            reference.parts(of, d, of.choices()[c], *rest)[part]
            for d, c in zip(devices, choice, strict=True)
        ]
        asked = [
            max(w, 0.0) * (s > 0) * d.active
            for w, s, d in zip(weight, seconds, devices, strict=True)
        ]
        shares.append([a / sum(asked) if sum(asked) > 0 else 0.0 for a in asked])
    compare(env, system, 0, 2, timestep, *shares)


def test_a_slot_by_hand():
    # Device 0 sends 1e6 bits at 2 bit/s/Hz over 1e6 Hz, of which others leave half: 1 s with all.
    # Its 3e9 FLOP take 1 s of a server of 6e9 FLOP/s, half of it left. Device 1 sends 4e6 bits, 4
    # s, and runs the same. Both w are .5. Roots 1 and 2 of the band, 1 and 1 of the server: x = 1/3
    # and 2/3, so 3 and 6 s; y = 1/2 and 1/2, so 2 and 2 s. With .25 s of overheads and .05 s there
    # and back T = 5.3 and 8.3 s. Cost, with reference 1 s and accuracy .8: .5 * .2 + .5 * 5.3 =
    # 2.75 and .1 + 4.15 = 4.25, mean 3.5. Radio: 2 W * 3 and 6 s + 1e-6 J/bit * 1e6 and 4e6.
    system = random_fleet(0, 2, everybody=True)
    numbers = {
        "device_s": np.array([[[0.0, 9.0]] * 2]),
        "device_energy_j": np.array([[[0.0, 5.0]] * 2]),
        "work_flop": np.array([[0.0, 3e9]] * 2),
        "upload_bits": np.array([[1e6, 0.0], [4e6, 0.0]]),
        "overhead_s": np.array([0.0, 0.25]),
        "accuracy": np.full((2, 2), 0.8),
        "bandwidth_hz": 1e6,
        "server_flops": 6e9,
        "reference_s": 1.0,
        "cap_s": 100.0,
        "rtt_s": 0.05,
        "transmit_w": 2.0,
        "transmit_j_per_bit": 1e-6,
    }
    shape = system.bank["active"].shape
    bank = {
        "efficiency": np.full(shape, 2.0),
        "weight": np.full(shape, 0.5),
        "speed": np.ones(shape),
    }
    bank |= {"bandwidth": np.full(shape[:2], 0.5), "server": np.full(shape[:2], 0.5)}
    bank |= {"active": system.bank["active"], "kind": np.zeros((ROWS, 2))}
    system = dataclasses.replace(system, numbers=numbers, bank=bank)
    env, params = Fleet(2, 2, 2), system.params()
    choice = jnp.array([0, 2], jnp.int32)
    state = env.reset_at(jnp.int32(0), jnp.int32(0), params)[0]
    _, timestep = step(env, state, choice, params)
    np.testing.assert_allclose(timestep.outcome.latency_s, [5.3, 8.3], rtol=1e-6)
    np.testing.assert_allclose(timestep.outcome.energy_j, [7.0, 16.0], rtol=1e-6)
    np.testing.assert_allclose(timestep.reward, -3.5, rtol=1e-6)
    # On the device instead: 9 s, 5 J, cost .1 + 4.5 = 4.6; the other has all it wants: .3 + 4 + 1
    # s, cost 2.75.
    of = evaluate(env, state, params, choice)
    np.testing.assert_allclose(
        of, [[7.0, 4.6 + 2.75, *of[0, 2:]], [*of[1, :2], 7.0, 4.6 + 1.25]], rtol=1e-6
    )


@pytest.mark.parametrize("cloud", [False, True])
def test_the_twin_is_the_environment_for_every_device_and_choice(cloud):
    system, rng = random_fleet(11, 6, cloud), np.random.default_rng(0)
    env, params, state = system.env(), system.params(), system.state(1, 3)
    choice = random_choices(rng, env, 6)
    costs = np.asarray(evaluate(env, state, params, jnp.asarray(choice)))
    changed = np.tile(choice, (6, env.n_choices, 1))
    for device in range(6):
        changed[device, :, device] = np.arange(env.n_choices)
    steps = step_all(env, state, jnp.asarray(changed.reshape(-1, 6)), params)
    here = np.asarray(state.now.active)
    tasks = here.sum()
    mask = (
        np.asarray(params.valid)[None] | ~here[:, None]
    )  # an absent device's tables are zeros, whatever it chooses
    alone = np.asarray(env.mask(state, params))
    assert (alone[here] == mask[here]).all() and (alone[~here].sum(axis=1) == 1).all()
    assert mask.any() and (cloud != mask.all())
    played = -np.asarray(steps.reward).reshape(costs.shape) * tasks
    np.testing.assert_allclose(costs[mask], played[mask], rtol=2e-5)
    assert np.isinf(costs[~mask]).all() and np.isfinite(played).all()
    # A choice that is not valid gives nothing, at the latency of the cap.
    outcome = jax.tree.map(lambda x: np.asarray(x).reshape(6, env.n_choices, 6), steps.outcome)
    for device, c in zip(*np.nonzero(~mask), strict=True):
        assert (
            outcome.accuracy[device, c, device] == 0
            and outcome.latency_s[device, c, device] == 40.0
        )


@partial(jax.jit, static_argnums=0)
def costs_and_bound(env, state, params):
    """Cost of every policy with the best shares for its choices, of the exhaustive one and of equal
    shares played.
    """
    given = dataclasses.replace(env, learned_shares=True)
    pairs = [(env, policy) for policy in (*POLICIES, baselines.exhaustive)]
    pairs += [(given, baselines.exhaustive), (given, baselines.equal_shares)]
    costs = [
        -of.step(state, policy(of)(KEY, state, None, params), params)[1].reward
        for of, policy in pairs
    ]
    return jnp.stack(costs), solve(fleet.tables(state.now, params)).bound


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_no_policy_beats_the_exhaustive_one_nor_that_one_the_bound(seed):
    system = random_fleet(seed, 3, everybody=True)
    costs, bound = (
        np.asarray(x) for x in costs_and_bound(system.env(), system.state(0, 1), system.params())
    )
    best = costs[len(POLICIES)]
    np.testing.assert_allclose(best * 3, reference.optimum(*system.reference(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(costs[len(POLICIES) + 1], best, rtol=1e-5)
    assert bound <= 3 * best * (1 + 1e-6)
    assert (costs >= best * (1 - 1e-5)).all(), costs


def with_devices(system, change):
    of_all = ("bandwidth", "server")
    return dataclasses.replace(
        system, bank={k: v if k in of_all else change(v) for k, v in system.bank.items()}
    )


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_the_order_of_devices_changes_no_decision(policy):
    system = random_fleet(5, 6, cloud=True)
    order = np.random.default_rng(3).permutation(6)
    moved = with_devices(system, lambda v: v[..., order])
    plan = jax.jit(policy(system.env()))
    before, after = (
        np.asarray(plan(KEY, of.state(0, 0), None, of.params())) for of in (system, moved)
    )
    here = system.bank["active"][0, 0][order]
    np.testing.assert_array_equal(after[here], before[order][here])


@pytest.mark.parametrize(
    "policy", [baselines.equal_shares, baselines.greedy, baselines.alternating]
)
def test_absent_devices_change_nothing(policy):
    system = random_fleet(5, 6)
    padded = with_devices(
        system, lambda v: np.concatenate([v, v[..., :2] * (v.dtype != bool)], axis=-1)
    )
    assert not padded.bank["active"][..., 6:].any()
    choices = [
        np.asarray(jax.jit(policy(of.env()))(KEY, of.state(0, 0), None, of.params()))
        for of in (system, padded)
    ]
    here = system.bank["active"][0, 0]
    np.testing.assert_array_equal(choices[1][:6][here], choices[0][here])
    played = zip((system, padded), choices, strict=True)
    steps = [
        step(of.env(), of.state(0, 0), jnp.asarray(choice), of.params())[1] for of, choice in played
    ]
    np.testing.assert_allclose(steps[0].reward, steps[1].reward, rtol=1e-5)
    np.testing.assert_allclose(
        steps[1].outcome.latency_s[:6][here], steps[0].outcome.latency_s[here], rtol=1e-5
    )
    assert not np.asarray(steps[1].outcome.finished)[6:].any()


def test_the_twin_moves_with_the_devices():
    system, order = random_fleet(6, 5), np.array([3, 0, 4, 1, 2])
    moved = with_devices(system, lambda v: v[..., order])
    choice = jnp.array([0, 1, 2, 3, 4], jnp.int32)
    env, params = system.env(), system.params()
    np.testing.assert_allclose(
        evaluate(env, moved.state(0, 0), moved.params(), choice[order]),
        np.asarray(evaluate(env, system.state(0, 0), params, choice))[order],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        fleet.observe(env, moved.state(0, 0), moved.params()),
        fleet.observe(env, system.state(0, 0), params)[order],
        rtol=1e-6,
    )


def test_one_trace_for_new_numbers_and_any_devices_present():
    traces, env = [], Fleet(5, VERSIONS, CUTS)

    @jax.jit
    def move(state, choice, params):
        traces.append(1)
        return env.step(state, choice, params)

    for seed in range(3):
        params = random_fleet(seed, 5).params()
        state, _ = jax.jit(env.reset)(jax.random.key(seed), params)
        for _ in range(2):
            state, _ = move(state, jnp.zeros(5, jnp.int32), params)
    assert len(traces) == 1


def test_the_contract():
    system = random_fleet(2, 4, cloud=True)
    env, params = system.env(), system.params()
    assert hash(env) == hash(dataclasses.replace(env)) and env.n_choices == VERSIONS * CUTS * CUTS
    state, first = env.reset(KEY, params)
    after, timestep = env.step(state, jnp.zeros(4, jnp.int32), params)
    for a, b in zip(
        jax.tree.leaves((state, first)), jax.tree.leaves((after, timestep)), strict=True
    ):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
    assert not any(
        jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)
    )
    names = [field.name for field in dataclasses.fields(timestep.outcome)]
    assert names == [*(field.name for field in dataclasses.fields(Outcome)), "latency_sensitive"]
    # The end is for ever and pays nothing.
    ended, last = env.step(system.state(0, SLOTS - 1), jnp.zeros(4, jnp.int32), params)
    assert bool(last.truncated) and np.asarray(last.outcome.finished).any()
    again, paid = env.step(ended, jnp.zeros(4, jnp.int32), params)
    assert (
        bool(paid.truncated)
        and float(paid.reward) == 0.0
        and not np.asarray(paid.outcome.finished).any()
    )
    jax.tree.map(np.testing.assert_array_equal, ended, again)
    for observation in (first.observation, timestep.observation, last.observation):
        assert observation.shape == env.observation_shape
        assert (np.asarray(observation) >= 0).all() and (np.asarray(observation) <= 1).all()
    for version in range(VERSIONS):
        assert env.parts(env.on_device(version)) == (version, CUTS - 1, CUTS - 1)


def test_sums_by_class():
    system = random_fleet(4, 6)
    _, timestep = step(system.env(), system.state(0, 0), jnp.zeros(6, jnp.int32), system.params())
    sums = jax.tree.map(np.asarray, fleet.by_class(timestep.outcome))
    outcome = jax.tree.map(np.asarray, timestep.outcome)
    urgent = system.bank["weight"][0, 0] > 0.5
    for i, these in enumerate((~urgent & outcome.finished, urgent & outcome.finished)):
        assert sums["tasks"][i] == these.sum()
        np.testing.assert_allclose(sums["latency_s"][i], outcome.latency_s[these].sum(), rtol=1e-5)
    np.testing.assert_allclose(
        -sums["cost"].sum() / sums["tasks"].sum(), timestep.reward, rtol=1e-5
    )


@cache
def small_world(name):
    """A shipped scenario, fewer rows and more devices of it: (record, environment, params)."""
    scenario = dataclasses.replace(registry.load_scenario(name), rows=4, slots=64, devices=64)
    return scenario, *jaxcoinfer.make(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fleet", "fleet-cloud"])
def test_shipped_scenarios_mix_versions_and_cuts(name):
    scenario, env, params = small_world(name)
    first = jax.vmap(env.reset_at, (None, 0, None))
    states, _ = first(jnp.int32(0), jnp.arange(16, dtype=jnp.int32), params)
    found = jax.jit(jax.vmap(lambda state: solve(fleet.tables(state.now, params))))(states)
    gap = np.asarray((found.cost - found.bound) / found.cost)
    assert (gap >= 0).all() and gap.mean() < 0.005
    here = np.asarray(params.bank.active[0, :16])
    version, cut, second = env.parts(np.asarray(found.choice)[here])
    assert len(set(version)) >= 3 and len(set(cut)) >= 3
    assert (len(set(second)) > 1) == env.with_cloud
    assert (
        np.isfinite(params.bank.efficiency).all()
        and params.bank.kind.max() == len(scenario.kinds) - 1
    )


def test_the_drawn_processes_have_their_laws():
    scenario, _, params = small_world("fleet")
    bank = jax.tree.map(np.asarray, params.bank)
    # .15 / (.05 + .15) = .75 of the time a device has tasks; half of the tasks are urgent; kinds as
    # the file says.
    np.testing.assert_allclose(bank.active.mean(), 0.75, atol=0.04)
    np.testing.assert_allclose((bank.weight > 0.5).mean(), 0.5, atol=0.015)
    np.testing.assert_allclose(
        np.bincount(bank.kind.ravel()) / bank.kind.size, [0.3, 0.5, 0.2], atol=0.1
    )
    assert bank.efficiency.min() >= np.float32(0.1523) and bank.efficiency.max() <= np.float32(
        5.5547
    )
    radio = dataclasses.replace(scenario.radio, half_side_m=100.0)
    start = jnp.asarray(np.random.default_rng(0).uniform(0, 200, (2, 4000)), jnp.float32)
    metres = distance_m(start, jnp.zeros((2, 4000, 3)), 0.5, radio)
    # Mean distance from the middle of a square of side 200 m: 200 (sqrt 2 + ln(1 + sqrt 2)) / 6 =
    # 76.52 m.
    np.testing.assert_allclose(metres.mean(), 76.52, rtol=0.03)
    # From (150, 100) at 40 m/s along the first axis: 190, 230, 270. 30 m past the border at 200 is
    # 30 m before it.
    walk = jnp.zeros((2, 1, 3)).at[0].set(40.0)
    metres = distance_m(jnp.array([[150.0], [100.0]]), walk, 1.0, radio)
    np.testing.assert_allclose(metres, [[90.0, 70.0, 30.0]], rtol=1e-5)
    one, other = processes(KEY, (200, 500), [(0.5, 0.5**0.5), (0.5, 0.5**0.5)])
    power = np.asarray(one**2 + other**2)
    np.testing.assert_allclose([power.mean(), power.var()], [1.0, 1.0], rtol=0.03)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accuracy": [0.5, 1.2]}, "accuracy"),
        ({"cap_s": 0.001}, "cap_s"),
        ({"bandwidth_hz": 0.0}, "bandwidth_hz"),
        ({"upload_bits": np.ones((VERSIONS, CUTS))}, "upload_bits"),
        ({"overhead_s": [0.0, 1.0]}, "overhead_s"),
        ({"work_flop": np.array([[0.0, 2.0, 1.0]] * VERSIONS)}, "work_flop"),
        ({"rtt_s": float("nan")}, "rtt_s"),
        ({"cloud_flops": 1e9}, "a cloud without"),
        (
            {
                "device_s": np.ones((1, VERSIONS, CUTS)),
                "device_energy_j": np.ones((1, VERSIONS, CUTS)),
            },
            "bank.kind",
        ),
    ],
)
def test_bad_numbers_are_refused(change, says):
    system = random_fleet(1, 4)
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(system, numbers=system.numbers | change).params()


@pytest.mark.parametrize("name", ["efficiency", "weight", "speed", "server"])
def test_a_bad_bank_is_refused(name):
    system = random_fleet(1, 4)
    for bad in (
        np.full_like(system.bank[name], -1.0),
        system.bank[name] * np.nan,
        system.bank[name][..., :1],
    ):
        with pytest.raises(ValueError, match=f"bank.{name}"):
            dataclasses.replace(system, bank=system.bank | {name: bad}).params()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("share = 0.5", "share = 0.6", "kinds"),
        ("devices = 16", "devices = 0", "devices"),
        ("[0.1523, 5.5547]", "[5.5547, 0.1523]", "radio.efficiency"),
        ('system = "fleet"', 'system = "fleets"', "did you mean 'fleet'"),
        ("memory = 0.9\nwithin", "memory = 1.9\nwithin", "speed.memory"),
    ],
)
def test_a_bad_scenario_is_refused(old, new, says, tmp_path):
    text = (profiles_root() / "scenarios" / "fleet.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ProfileError) as refused:
        registry.load_scenario(path)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_too_many_answers_to_try_are_refused():
    with pytest.raises(ValueError, match="dual_recovery"):
        baselines.exhaustive(Fleet(16, 4, 6))
    with pytest.raises(AssertionError):  # actions of another number of devices
        system = random_fleet(1, 4)
        system.env().step(system.state(0, 0), jnp.zeros(3, jnp.int32), system.params())
