"""`multi-user`: event by event as the plain-Python reference, hand-worked slots, batches, numbers
and the errors of invalid ones.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike

import jaxcoinfer
from benchmarks import plain_multi_user as reference
from jaxcoinfer.data.profiles import ProfileError
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.multi_user import baselines, events
from jaxcoinfer.systems.multi_user.env import MultiUser, observe, slot_reward
from jaxcoinfer.systems.multi_user.events import UsersAction, UsersState
from jaxcoinfer.systems.multi_user.exogenous import InitialStates, alike
from jaxcoinfer.systems.multi_user.params import MultiUserParams, make_params
from tests.helpers.stopping import assert_trees_close

# Hao et al., arXiv 2205.11854: seconds and watts up to a split, bits to send there; scale of the
# seconds.
NETWORKS = {
    "vgg11": (
        [0.0, 0.015589, 0.045, 0.100595, 0.136817, 0.1893],
        [0.0, 2.204, 2.6344, 2.8618, 3.0338, 2.5795],
        [1204224, 200704, 100352, 50176, 25088, 0],
        0.092876,
    ),
    "resnet18": (
        [0.0, 0.004359, 0.01647, 0.025477, 0.03678, 0.045887],
        [0.0, 2.2885, 2.6328, 2.8815, 3.013, 2.1454],
        [1204224, 100352, 50176, 25088, 25088, 0],
        0.045887,
    ),
    "mobilenetv2": (
        [0.0, 0.005392, 0.009008, 0.015418, 0.024955, 0.052676],
        [0.0, 1.8811, 2.4805, 2.5565, 2.2014, 1.4797],
        [1204224, 200704, 50176, 25088, 12544, 0],
        0.052676,
    ),
}
SPLITS = 6
# Users, tasks a user at max_tasks, episodes: 1,000 in all.
SHAPES = [(1, 12, 100), (3, 7, 300), (5, 5, 600)]
SLOTS = 8


def system(network: str) -> reference.System:
    compute_s, compute_w, upload_bits, scale_s = NETWORKS[network]
    return reference.System(compute_s, compute_w, upload_bits, scale_s=scale_s)


def numbers(plain: reference.System) -> dict:
    """Arguments of `make_params` but the starts."""
    fields = dataclasses.asdict(plain)
    fields["distances_m"] = [fields.pop("nearest_m"), fields.pop("farthest_m")]
    return fields | {"max_w": 1.0, "least_w": 1e-10}


def starts(
    distance_m: ArrayLike, tasks: ArrayLike, split: ArrayLike, channel: ArrayLike
) -> InitialStates:
    count = [jnp.asarray(np.atleast_2d(x), jnp.int32) for x in (tasks, split, channel)]
    return InitialStates(jnp.asarray(np.atleast_2d(distance_m), jnp.float32), *count)


def episodes(users: int, max_tasks: int, n: int):
    """Networks [n], starts [n, U] and actions [n, SLOTS, U] of random episodes, on one to three
    channels; powers over six decades.
    """
    rng = np.random.default_rng(users)
    names, channels = rng.choice(list(NETWORKS), n), rng.integers(1, 4, (n, 1))
    shape = (n, users)
    begun = (np.float32(rng.uniform(1, 100, shape)), rng.integers(1, max_tasks + 1, shape))
    begun = (*begun, rng.integers(0, SPLITS, shape), rng.integers(0, channels, shape))
    shape = (n, SLOTS, users)
    powers = np.where(rng.random(shape) < 0.7, rng.random(shape), 10.0 ** rng.uniform(-6, 0, shape))
    chosen = (rng.integers(0, SPLITS, shape), rng.integers(0, channels[..., None], shape))
    return names, begun, (*chosen, np.float32(np.maximum(powers, 1e-10)))


@partial(jax.jit, static_argnames=("n_events",))
def traced(
    state: UsersState, actions: UsersAction, params: MultiUserParams, n_events: int
) -> tuple[Any, ...]:
    """All slots of one episode, event by event: (phases [T, E+1, U], seconds left of the slot [T,
    E+1]), states and rewards [T].
    """

    def slot(state: UsersState, action: UsersAction) -> tuple[UsersState, Any]:
        plan, now = events.start_slot(state, action, params)

        def event(now: events.Now, _: None) -> tuple[events.Now, Any]:
            after = events.next_event(plan, now)
            return after, (after.phase, after.rest_s[0])

        last, (phases, rests) = jax.lax.scan(event, now, length=n_events)
        new, outcome = events.end_slot(state, plan, last)
        reward = slot_reward(outcome, params)
        shown = (jnp.concatenate([now.phase[None], phases]), jnp.concatenate([now.rest_s, rests]))
        return new, (shown, new, outcome, reward, observe(new, params))

    return jax.lax.scan(slot, state, actions)[1]


def events_of(phases: np.ndarray, rests: np.ndarray, slot_s: float) -> list[tuple[float, int, str]]:
    """(seconds into the slot, user, what ended) of one slot, as the reference lists them."""
    listed = []
    for before, after, rest in zip(phases[:-1], phases[1:], rests[1:], strict=True):
        ended = np.flatnonzero(before != after)
        listed += [(slot_s - rest, int(u), "sent" if before[u] % 2 else "computed") for u in ended]
    return listed


def batch(
    env: MultiUser, names: np.ndarray, begun: tuple[np.ndarray, ...], dtype: Any
) -> tuple[UsersState, MultiUserParams]:
    """(states, params) of many episodes, each with its own numbers and start, in one float type."""
    by_network = {name: numbers(system(name)) for name in NETWORKS}
    # The tables as they are written, not rounded to float32 first.
    params = {
        key: jnp.asarray(np.stack([np.asarray(by_network[name][key], dtype) for name in names]))
        for key in by_network["vgg11"]
    }
    begun = [jnp.asarray(x[:, None], dtype if x.dtype == np.float32 else jnp.int32) for x in begun]
    params = MultiUserParams(**params, bank=InitialStates(*begun))
    reset = jax.jit(jax.vmap(env.reset_at, (None, None, 0)))
    return reset(jnp.int32(0), jnp.int32(0), params)[0], params


@pytest.mark.parametrize(("users", "max_tasks", "n"), SHAPES)
def test_every_event_is_that_of_the_reference(users: int, max_tasks: int, n: int) -> None:
    # In float64, so that no rounding decides which of two events comes first.
    env = MultiUser(users, 3, SPLITS)
    names, begun, actions = episodes(users, max_tasks, n)
    with jax.enable_x64(True):
        states, params = batch(env, names, begun, np.float64)
        split, channel = (jnp.asarray(x, jnp.int32) for x in actions[:2])
        taken = UsersAction(split, channel, jnp.asarray(actions[2], jnp.float64))
        play = partial(traced, n_events=2 * users * max_tasks + 1)
        played = jax.tree.map(np.asarray, jax.vmap(play)(states, taken, params))
    (phases, rests), after, outcomes, rewards, observations = played
    assert (rests[:, :, -1] == 0).all()  # as many events as there were
    n_events = n_over = 0
    for i, name in enumerate(names):
        world = reference.begin(system(name), *(x[i] for x in begun))
        for t in range(SLOTS):
            reward, over = reference.step(world, *(x[i, t] for x in actions))
            mine = events_of(phases[i, t], rests[i, t], world.system.slot_s)
            assert [e[1:] for e in mine] == [e[1:] for e in world.events], (i, t)
            np.testing.assert_array_equal(
                outcomes.tasks[i, t], [user.finished for user in world.users]
            )
            shown = [
                *(e[0] for e in mine),
                *outcomes.energy_j[i, t],
                rewards[i, t],
                *observations[i, t].ravel(),
            ]
            joules = [user.energy_j for user in world.users]
            expected = [
                *(e[0] for e in world.events),
                *joules,
                reward,
                *np.ravel(reference.observe(world)),
            ]
            np.testing.assert_allclose(shown, expected, rtol=1e-9, atol=1e-9)
            assert bool(after.done[i, t]) == over
            n_events, n_over = n_events + len(mine), n_over + over
            if over:
                break
    assert n_events > 2 * n and n_over > n / 4  # the episodes show something, and some end


def synchronised(plain: reference.System, state: UsersState, i: int) -> reference.World:
    """The reference where the environment stands."""
    last, users = len(plain.compute_s) - 1, []
    for u in range(state.tasks.shape[1]):
        user = reference.User(
            float(state.distance_m[i, u]), int(state.all_tasks[i, u]), 1, int(state.channel[i, u])
        )
        user.tasks, user.watts = int(state.tasks[i, u]), float(state.watts[i, u])
        user.left_s, user.left_bits = float(state.compute_s[i, u]), float(state.upload_bits[i, u])
        user.split = last if user.left_bits == 0 else 1
        user.phase = "free" if not user.tasks else "computes" if user.left_s > 0 else "sends"
        users.append(user)
    return reference.World(plain, users)


def test_float32_slots_are_those_of_the_reference():
    # From the same state, so that what is compared is the error of one slot. Most are right to
    # float32's digits; where a slow upload waits for a fast one to end, an error of the one's time
    # grows by the ratio of the rates.
    env = MultiUser(5, 3, SPLITS)
    names, begun, actions = episodes(5, 30, 100)
    state, params = batch(env, names, begun, np.float32)
    step = jax.jit(jax.vmap(env.step))
    same_count, errors = [], []
    for t in range(SLOTS):
        before = jax.tree.map(np.asarray, state)
        chosen = (
            jnp.asarray(actions[0][:, t], jnp.int32),
            jnp.asarray(actions[1][:, t], jnp.int32),
        )
        state, shown = step(state, UsersAction(*chosen, jnp.asarray(actions[2][:, t])), params)
        shown = jax.tree.map(np.asarray, shown)
        for i in np.flatnonzero(~before.done):
            world = synchronised(system(names[i]), before, i)
            reward, _ = reference.step(world, *(x[i, t] for x in actions))
            joules = np.array([user.energy_j for user in world.users])
            same_count.append(
                list(shown.outcome.tasks[i]) == [user.finished for user in world.users]
            )
            errors.append(
                [
                    np.abs(shown.outcome.energy_j[i] - joules).max(),
                    abs(shown.reward[i] / reward - 1),
                ]
            )
    assert len(errors) > 400 and np.mean(same_count) > 0.99
    exact = np.array(errors)[same_count]
    assert (np.quantile(exact, 0.97, axis=0) < 1e-5).all() and (exact < 1e-2).all()


def alone(distances_m: list[float], tasks: list[int], splits: list[int], channels: list[int]):
    """ResNet18 from one start: (environment, params, state)."""
    params = make_params(
        starts(distances_m, tasks, splits, channels), **numbers(system("resnet18"))
    )
    env = MultiUser(len(distances_m), 2, SPLITS)
    return env, params, env.reset_at(jnp.int32(0), jnp.int32(0), params)[0]


def action(split: ArrayLike, channel: ArrayLike, power_w: ArrayLike) -> UsersAction:
    return UsersAction(
        jnp.asarray(split, jnp.int32),
        jnp.asarray(channel, jnp.int32),
        jnp.asarray(power_w, jnp.float32),
    )


def test_one_upload_by_hand():
    # At 10 m the gain is 1e-3, so 3 uW against 1 nW noise are a ratio of 3: log2(4) = 2 bit/s/Hz, 2
    # Mbit/s. Of the 1,204,224 bits of the input 1,000,000 are sent in the first slot, 204,224 in
    # .102112 s of the second.
    env, params, state = alone([10.0], [1], [0], [0])
    state, shown = env.step(state, action([5], [1], [3e-6]), params)
    assert int(shown.outcome.tasks[0]) == 0 and not bool(shown.terminated)
    np.testing.assert_allclose(state.upload_bits, [204_224], atol=0.5)
    np.testing.assert_allclose(shown.outcome.energy_j, [1.5e-6], rtol=1e-6)
    # Nothing finished counts as .8: -(.5 + 1.5e-6) / .8 = -.625001875.
    np.testing.assert_allclose(shown.reward, -0.625001875, rtol=1e-6)
    np.testing.assert_allclose(
        shown.observation, [[1.0, 0.0, 204_224 / 1_204_224, 9 / 99]], rtol=1e-5
    )
    state, shown = env.step(state, action([5], [1], [3e-6]), params)
    np.testing.assert_array_equal(shown.outcome.tasks, [1])
    np.testing.assert_allclose(shown.outcome.energy_j, [0.102112 * 3e-6], rtol=1e-5)
    np.testing.assert_allclose(shown.reward, -0.5 - 0.102112 * 3e-6, rtol=1e-6)
    assert bool(shown.terminated)
    np.testing.assert_allclose(shown.observation, [[0.0, 0.0, 0.0, 9 / 99]], rtol=1e-6)


def test_two_users_interfere_by_hand():
    # At 10 m, 6 and 1 uW are 6 and 1 times the noise: together log2(1 + 6 / 2) = 2 and log2(1 + 1 /
    # 7) = .1926451 bit/s/Hz. After the slot 1,204,224 - 1,000,000 = 204,224 and 1,204,224 -
    # 96,322.5 = 1,107,901.5 bits are left.
    env, params, state = alone([10.0, 10.0], [1, 1], [0, 0], [1, 1])
    both = action([0, 0], [0, 0], [6e-6, 1e-6])
    state, shown = env.step(state, both, params)
    np.testing.assert_allclose(state.upload_bits, [204_224.0, 1_107_901.5], rtol=1e-5)
    # The first is through after .102112 s, in which the second sends 19,671.4 bits; then it has the
    # channel for itself, 1 Mbit/s for .397888 s: 1,107,901.5 - 19,671.4 - 397,888 = 690,342.1 bits
    # are left.
    state, shown = env.step(state, both, params)
    np.testing.assert_array_equal(shown.outcome.tasks, [1, 0])
    np.testing.assert_allclose(state.upload_bits, [0.0, 690_342.1], rtol=1e-5)
    np.testing.assert_allclose(shown.outcome.energy_j, [0.102112 * 6e-6, 0.5e-6], rtol=1e-5)
    # Means of users: .5 tasks count as .8.
    np.testing.assert_allclose(shown.reward, -(0.5 + (0.612672e-6 + 0.5e-6) / 2) / 0.8, rtol=1e-6)
    # On channels of their own: log2(7) = 2.8073549 and log2(2) = 1 Mbit/s.
    env, params, state = alone([10.0, 10.0], [1, 1], [0, 0], [0, 1])
    state, _ = env.step(state, both, params)
    np.testing.assert_allclose(state.upload_bits, [0.0, 704_224.0], atol=0.5)


def test_tasks_follow_at_once_with_the_new_split_and_channel_by_hand():
    # The first task runs on the device, .045887 s at 2.1454 W; the new power and split 1 hold for
    # what follows: .004359 s at 2.2885 W, then 100,352 bits at 2 Mbit/s, .050176 s, .054535 s a
    # task. (.5 - .045887) / .054535 = 8.327: eight more are finished, and .017833 s into the ninth
    # it is sending for .013474 s, 26,948 bits of 100,352.
    env, params, state = alone([10.0], [200], [5], [0])
    state, shown = env.step(state, action([1], [1], [3e-6]), params)
    np.testing.assert_array_equal(shown.outcome.tasks, [9])
    np.testing.assert_allclose(state.upload_bits, [100_352 - 26_948], rtol=1e-4)
    energy_j = 0.045887 * 2.1454 + 9 * 0.004359 * 2.2885 + (8 * 0.050176 + 0.013474) * 3e-6
    np.testing.assert_allclose(shown.outcome.energy_j, [energy_j], rtol=1e-5)
    np.testing.assert_allclose(shown.reward, -(0.5 + energy_j) / 9, rtol=1e-5)
    assert int(state.channel[0]) == 1 and int(state.tasks[0]) == 191


def test_the_test_mode_of_the_authors():
    # 50 m, exactly 200 tasks, split 5: alone on the device 200 * .045887 s = 9.1774 s, 19 slots of
    # .5 s.
    env, params = jaxcoinfer.make("multi-user")
    params = params.replace(bank=alike(env.n_users, 50.0, 200, 5))
    state, shown = env.reset(jax.random.key(0), params)
    np.testing.assert_allclose(shown.observation, [[1.0, 1.0, 0.0, 49 / 99]] * 5, rtol=1e-6)
    step, local = jax.jit(env.step), action([5] * 5, [0] * 5, [1e-10] * 5)
    joules, slots = 0.0, 0
    while not bool(shown.terminated):
        state, shown = step(state, local, params)
        joules, slots = joules + float(shown.outcome.energy_j.sum()), slots + 1
    assert slots == 19
    np.testing.assert_allclose(joules, 5 * 200 * 0.045887 * 2.1454, rtol=1e-5)


def assert_stepped_alike(a, b):
    """Two (state, time step) are close; bits left, a difference of some 1e6 bits in float32, to
    one bit.
    """
    left = b[0].upload_bits
    np.testing.assert_allclose(a[0].upload_bits, left, rtol=1e-5, atol=1.0)
    assert_trees_close((a[0].replace(upload_bits=left), a[1]), b, rtol=1e-5)


def test_nested_batches_and_shared_numbers_change_nothing():
    env, params = jaxcoinfer.make("multi-user")
    keys = jax.random.split(jax.random.key(1), 6)
    states, _ = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)
    chosen = action(
        [[5, 1, 0, 2, 3]] * 6, [[0, 1, 0, 1, 0]] * 6, np.linspace(1e-3, 1, 30).reshape(6, 5)
    )
    step = jax.jit(env.step)
    one = [step(*jax.tree.map(lambda x, i=i: x[i], (states, chosen)), params) for i in range(6)]
    alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one)
    assert_stepped_alike(jax.jit(jax.vmap(env.step, (0, 0, None)))(states, chosen, params), alone)
    nested = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), (states, chosen))
    worlds = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    twice = jax.jit(jax.vmap(jax.vmap(env.step, (0, 0, None))))(*nested, worlds)
    assert_stepped_alike(jax.tree.map(lambda x: x.reshape(6, *x.shape[2:]), twice), alone)
    same = jax.tree.map(lambda x: x[0], chosen)  # an action shared by all
    shared = jax.jit(jax.vmap(env.step, (0, None, None)))(states, same, params)[1].reward
    np.testing.assert_allclose(shared[0], alone[1].reward[0], rtol=1e-5)


def test_blocks_of_replicas_change_nothing():
    env, params = jaxcoinfer.make("multi-user")
    n = 2 * events.BLOCK
    states, _ = jax.jit(jax.vmap(env.reset, (0, None)))(
        jax.random.split(jax.random.key(4), n), params
    )
    chosen = action(
        [[5, 1, 0, 2, 3]] * n, [[0, 1, 0, 1, 0]] * n, np.linspace(1e-3, 1, 5 * n).reshape(n, 5)
    )
    step = jax.jit(jax.vmap(env.step, (0, 0, None)))
    assert "case" in step.lower(states, chosen, params).as_text()
    whole = step(states, chosen, params)
    for few in (
        slice(0, n // 2),
        slice(n // 2, n),
        slice(5, n // 2 + 12),
    ):  # one block, the other, no blocks at all
        part = step(*jax.tree.map(lambda leaf, few=few: leaf[few], (states, chosen)), params)
        for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(a, b[few])


def test_the_order_of_users_changes_nothing():
    env, params, state = alone([3.0, 30.0, 80.0], [9, 7, 8], [0, 2, 5], [0, 0, 1])
    taken, order = action([1, 0, 2], [0, 0, 0], [0.3, 0.9, 0.01]), np.array([2, 0, 1])
    _, shown = env.step(state, taken, params)
    turned = jax.tree.map(lambda x: x[order] if x.ndim else x, (state, taken))
    _, turned_shown = env.step(*turned, params)
    np.testing.assert_array_equal(turned_shown.outcome.tasks, shown.outcome.tasks[order])
    np.testing.assert_allclose(
        turned_shown.outcome.energy_j, shown.outcome.energy_j[order], rtol=1e-5
    )
    np.testing.assert_allclose(turned_shown.reward, shown.reward, rtol=1e-5)


def test_powers_are_kept_within_what_a_radio_can():
    env, params, state = alone([10.0], [1], [0], [0])
    for power_w, kept_w in ((-1.0, 1e-10), (7.0, 1.0)):
        low, high = (
            env.step(state, action([0], [0], [p]), params)[0].upload_bits for p in (power_w, kept_w)
        )
        np.testing.assert_array_equal(low, high)


def test_new_numbers_do_not_retrace():
    env, params, state = alone([10.0, 20.0], [3, 3], [0, 1], [0, 1])
    traces = []

    @jax.jit
    def step(state: UsersState, params: MultiUserParams) -> tuple[UsersState, Any]:
        traces.append(1)
        return env.step(state, action([0, 0], [0, 0], [1.0, 1.0]), params)

    state, _ = step(state, params)
    step(state, params.replace(noise_w=jnp.float32(1e-8)))
    assert len(traces) == 1


def test_the_scenario_holds_the_published_numbers():
    env, params = jaxcoinfer.make("multi-user")
    assert (env.n_users, env.n_channels, env.n_splits) == (5, 2, SPLITS)
    compute_s, compute_w, upload_bits, _ = NETWORKS["resnet18"]
    np.testing.assert_allclose(params.compute_s, compute_s, rtol=1e-6)
    np.testing.assert_allclose(params.compute_w, compute_w, rtol=1e-6)
    np.testing.assert_array_equal(params.upload_bits, upload_bits)
    for name, value in numbers(system("resnet18")).items():
        if name not in ("compute_s", "compute_w", "upload_bits"):
            np.testing.assert_allclose(getattr(params, name), value, rtol=1e-6, err_msg=name)
    begun = jax.tree.map(np.asarray, params.bank)
    assert begun.distance_m.min() >= 1 and begun.distance_m.max() <= 100
    assert abs(begun.tasks.mean() - 200) < 1 and abs(begun.tasks.var() - 200) < 10  # Poisson
    assert set(begun.split.ravel()) == set(range(6)) and set(begun.channel.ravel()) == {0, 1}
    assert abs(begun.distance_m.mean() - 50.5) < 1


@pytest.mark.parametrize("network", NETWORKS)
def test_profiles_hold_the_published_tables(network: str) -> None:
    scenario = registry.load_scenario("multi-user")
    task = dataclasses.replace(scenario.task, dnn=network, compute_w=())
    _, params = jaxcoinfer.make(dataclasses.replace(scenario, task=task))
    compute_s, compute_w, upload_bits, _ = NETWORKS[network]
    np.testing.assert_allclose(params.compute_s, compute_s, rtol=1e-6)
    np.testing.assert_array_equal(params.upload_bits, upload_bits)
    np.testing.assert_allclose(
        params.compute_w, compute_w, rtol=1e-4
    )  # joules / seconds, not rounded


def test_invalid_numbers_are_reported():
    good = numbers(system("resnet18"))
    begun = starts([10.0], [1], [0], [0])
    for change, says in (
        ({"noise_w": 0.0}, "noise_w.*above 0"),
        ({"compute_w": [1.0]}, "compute_w: shape"),
        ({"compute_s": [0.0] * 6}, "split 5: 0 s and 0 bits"),
        ({"distances_m": [100.0, 1.0]}, "lesser first"),
    ):
        with pytest.raises(ValueError, match=says):
            make_params(begun, **(good | change))
    for start, says in (
        (([0.5], [1], [0], [0]), "distance_m"),
        (([10.0], [0], [0], [0]), "tasks"),
        (([10.0], [1], [6], [0]), "6 splits"),
        (([10.0], [1], [0], [-1]), "channel"),
        (([10.0, 10.0], [1], [0], [0]), "shape"),
    ):
        with pytest.raises(ValueError, match=says):
            make_params(starts(*start), **good)
    scenario = registry.load_scenario("multi-user")
    task = dataclasses.replace(scenario.task, compute_w=(1.0, 2.0))
    with pytest.raises(ProfileError, match="5 splits after the first"):
        jaxcoinfer.make(dataclasses.replace(scenario, task=task))
    assert isinstance(make_params(begun, **good), MultiUserParams)


def test_greedy_by_hand():
    # Three users with tasks on two channels: the first and the third share channel 0. At 10 m, 1 W
    # against 1 nW is a ratio of 1e6, 19.93157 Mbit/s: 100,352 bits of split 1 take .0050348 s.
    # Alone: .004359 (1 + 2.2885) + .0050348 (1 + 1) = .0244042; by turns of two one .0050348 more.
    # All on the device: .045887 (1 + 2.1454) = .1443330.
    env, params, state = alone([10.0, 10.0, 10.0], [1, 1, 1], [0, 0, 0], [0, 0, 0])
    costs = baselines.task_costs(env, state, params)
    np.testing.assert_allclose(costs[:, 1], [0.029439, 0.0244042, 0.029439], rtol=1e-4)
    np.testing.assert_allclose(costs[:, 5], [0.144333] * 3, rtol=1e-5)
    chosen = baselines.greedy(env)(jax.random.key(0), state, None, params)
    np.testing.assert_array_equal(chosen.split, [1, 1, 1])
    np.testing.assert_array_equal(chosen.channel, [0, 1, 0])
    np.testing.assert_array_equal(chosen.power_w, [1.0] * 3)


def test_baselines_are_valid_and_random_ones_differ():
    env, params, state = alone([10.0, 20.0, 90.0], [3, 3, 3], [0, 1, 5], [0, 1, 0])
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = jax.vmap(baselines.random_valid(env), (0, None, None, None))(keys, state, None, params)
    assert set(np.ravel(drawn.split)) == set(range(SPLITS)) and set(np.ravel(drawn.channel)) == {
        0,
        1,
    }
    assert (
        drawn.power_w.min() > 0
        and drawn.power_w.max() <= 1
        and abs(drawn.power_w.mean() - 0.5) < 0.05
    )
    held = baselines.fixed_split(env, 2)(keys[0], state, None, params)
    np.testing.assert_array_equal(held.split, [2, 2, 2])
