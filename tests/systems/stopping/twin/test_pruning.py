"""Pruning of `stopping`: never the best choice, never a wrong stop, and not nothing."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcoinfer
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.exogenous import BACKLOG, TICKS, Draw, make_bank
from jaxcoinfer.systems.stopping.params import Params, make_params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import pruning, workload
from tests.reference import stopping as slow

SLOT_S = 0.01
SHAPE = (4, 4000)  # rows and slots of a world; one shape for all, as each costs seconds to compile
N_TASKS = 60  # of a row
TOLERANCE = 1e-5  # of `value`, relative to 1 + |value|: float32


# --- random worlds --------------------------------------------------------------------------------


def jobs(rng: np.random.Generator, shape: tuple[int, int], load: float, job_s: float):
    """Ticks of Poisson many jobs a slot, uniform on (0, job_s), that take the share `load` of the
    server.
    """
    where = np.repeat(
        np.arange(shape[0] * shape[1]), rng.poisson(load * SLOT_S / (job_s / 2), shape).ravel()
    )
    work_s = np.zeros(shape[0] * shape[1])
    np.add.at(work_s, where, rng.uniform(0, job_s, where.size))
    return np.round(work_s.reshape(shape) / SLOT_S * TICKS).astype(np.int32)


def blocks(rng: np.random.Generator, shape: tuple[int, int], length: int, values: list[float]):
    return np.repeat(rng.choice(values, (shape[0], -(-shape[1] // length))), length, axis=1)[
        :, : shape[1]
    ]


def random_draw(rng: np.random.Generator, shape: tuple[int, int]):
    """A rate that varies with outages or not at all, varying speed, light to heavy load; the row's
    end has a link.
    """
    rate = 10.0 ** rng.uniform(4, 6)
    bits = (
        rate
        * rng.uniform(0.3, 1.7, shape)
        * blocks(rng, shape, rng.integers(2, 30), [0, 1, 1, 1, 0.3])
    )
    bits[:, -shape[1] // 4 if rng.integers(3) else 0 :] = rate
    return Draw(
        arrivals=jnp.asarray(rng.poisson(rng.uniform(0.01, 0.1), shape), jnp.int32),
        edge_work=jnp.asarray(jobs(rng, shape, rng.uniform(0.0, 0.95), rng.uniform(0.02, 0.5))),
        slot_bits=jnp.asarray(bits, jnp.int32),
        observed_bits=jnp.asarray(bits, jnp.int32),
        speed=jnp.asarray(
            blocks(rng, shape, rng.integers(1, 40), [1.0, 1.0, 0.7, 1.4]), jnp.float32
        ),
    )


def random_numbers(rng: np.random.Generator, n_layers: int, mean_bits: float):
    """Numbers of a task: nothing need fall or rise with the layer."""
    n = n_layers + 1
    slots = rng.integers(0, 2, n) * rng.uniform(0, 12, n)
    if rng.integers(3):
        slots = np.sort(rng.uniform(0, 15, n))[::-1]
    accuracy = (
        np.append(np.full(n, 0.9), rng.uniform())
        if rng.integers(2)
        else np.sort(rng.uniform(0.5, 1, n + 1))
    )
    return {
        "slot_s": SLOT_S,
        "layer_s": rng.uniform(0.001, 0.06, n),
        "upload_bits": mean_bits * slots,
        "server_s": rng.uniform(0, 0.1, n) * rng.integers(0, 2),
        "device_energy_j": np.abs(np.cumsum(rng.uniform(-0.01, 0.05, n + 1))) * rng.integers(0, 2),
        "accuracy": accuracy if rng.integers(3) else rng.uniform(0.5, 1, n + 1),
        "transmit_w": rng.uniform(0, 1),
        "transmit_j_per_bit": rng.uniform(0, 1e-7) * rng.integers(0, 2),
        "rtt_s": rng.uniform(0, 0.05) * rng.integers(0, 2),
        "accuracy_weight": 10.0 ** rng.uniform(-2, 1),
        "energy_weight": rng.uniform(0, 5),
    }


def random_world(seed: int, n_layers: int):
    rng = np.random.default_rng(seed)
    draw = random_draw(rng, SHAPE)
    numbers = random_numbers(rng, n_layers, float(draw.slot_bits.astype(jnp.float32).mean()))
    return make_params(make_bank(draw), draw.slot_bits, **numbers)


def reference_world(arrivals: float, seed: int):
    """The `reference` scenario of design.md, section 6."""
    rng = np.random.default_rng(seed)
    draw = Draw(
        arrivals=jnp.asarray(rng.random(SHAPE) < arrivals, jnp.int32),
        edge_work=jnp.asarray(jobs(rng, SHAPE, 0.9, 0.5)),
        slot_bits=jnp.full(SHAPE, 1_260_000, jnp.int32),
        observed_bits=jnp.full(SHAPE, 1_260_000, jnp.int32),
        speed=jnp.ones(SHAPE, jnp.float32),
    )
    return make_params(
        make_bank(draw),
        draw.slot_bits,
        slot_s=SLOT_S,
        layer_s=[0.08, 0.23, 0.02],
        upload_bits=[1_204_224, 1_492_992, 1_038_336],
        server_s=[0.014308, 0.0129, 0.00842],
        device_energy_j=[0.0, 0.00704, 0.02944, 0.03144],
        accuracy=[0.9, 0.9, 0.9, 0.6],
        transmit_w=0.1,
        energy_weight=2.0,
    )


def most_work_s(params: Params):
    """The most the others bring in one slot, seconds: `W[t] = Q[t+1] - max(Q[t] - slot, 0)`."""
    q = params.bank.slots[:, :, BACKLOG]
    most = (q[:, 1:] - jnp.maximum(q[:, :-1] - TICKS, 0)).max()
    return most.astype(jnp.float32) * (params.slot_s * (1.0 / TICKS))


@functools.partial(jax.jit, static_argnums=0)
def play(env: Stopping, params: Params, play_best: bool, key: jax.Array):
    """Plays every row, at random or the best choice; what pruning says of each task, fields [K,
    N_TASKS, ...].

    `then` is by layer l of the decision: [K, N_TASKS, P, ...]; both have to be right where `live`.
    """
    limits, work_s = pruning.limits(params), most_work_s(params)

    def say(sure: pruning.Sure, value: jax.Array):
        return {
            "ordered": sure.ordered,
            "gain": pruning.most_gain(params, sure),
            "ceiling": pruning.ceiling(params, sure),
            "can_win": pruning.can_win(params, sure),
            "stop_now": pruning.stop_now(params, sure, value),
        }

    def decision(state: State, value: jax.Array):
        sure = pruning.at_decision(env, state, params, limits)
        told = jnp.where(jnp.arange(value.shape[0]) == state.layer, value, -jnp.inf)
        floor = pruning.floor_now(state, params, sure, work_s)
        return say(sure, told) | {
            "floor": floor,
            "stop_on_floor": pruning.stop_now(params, sure, floor),
        }

    def task(state: State, key_task: jax.Array):
        replay = workload.evaluate(env, state, params)
        value = replay.choices.value
        sure = pruning.after_replay(replay)
        told = {"live": ~state.done, "value": value, "busy": state.hidden.radio_free > state.start}
        told |= {"after": say(sure, value[:-1]), "strict": pruning.can_win(params, sure, value[-1])}
        told |= {"then": jax.vmap(decision, (0, None))(replay.states, value[:-1])}
        any_choice = jax.random.randint(key_task, (), 0, env.n_choices, jnp.int32)
        choice = jnp.where(play_best, jnp.argmax(value).astype(jnp.int32), any_choice)
        return workload.follow(replay, choice, params), told

    def row(row: jax.Array, key_row: jax.Array):
        state, _ = env.reset_at(row, jnp.int32(0), params)
        return jax.lax.scan(task, state, jax.random.split(key_row, N_TASKS))[1]

    n_rows = params.bank.n_rows
    return jax.vmap(row)(jnp.arange(n_rows, dtype=jnp.int32), jax.random.split(key, n_rows))


def played(n_layers: int, worlds: list[Params], play_best: bool = False):
    """`play` in every world, only the tasks that are live: NumPy, [N, ...]."""
    keys = jax.random.split(jax.random.key(0), len(worlds))
    told = [
        play(Stopping(n_layers), world, play_best, key)
        for world, key in zip(worlds, keys, strict=True)
    ]
    told = jax.tree.map(lambda *leaves: np.concatenate(leaves), *told)
    return jax.tree.map(lambda leaf: leaf[told["live"]], told)


# --- what must hold -------------------------------------------------------------------------------


def worst_errors(told: dict[str, Any]):
    """How far each claim is broken at worst, relative to 1 + |value|; every one must be at most
    TOLERANCE.
    """
    value = told["value"].astype(np.float64)
    n_points = value.shape[1] - 1
    scale = 1.0 + np.abs(value).max(axis=1)
    best = value.max(axis=1)
    difference = value[:, None, :-1] - value[:, :-1, None]  # value_m - value_l, row l, column m
    later = np.stack([value[:, layer + 1 :].max(axis=1) for layer in range(n_points)], axis=1)
    errors = {}

    def claim(name: str, error: np.ndarray):  # error [N, ...]; -inf where nothing is claimed
        errors[name] = float((error / scale.reshape((-1,) + (1,) * (error.ndim - 1))).max())

    def where(claimed: np.ndarray, error: np.ndarray | float):
        return np.where(claimed, error, -np.inf)

    after, then = told["after"], told["then"]
    claim("gain", difference - after["gain"])
    claim("ceiling", value - after["ceiling"])
    claim("can_win", best - where(after["can_win"], value).max(axis=1))
    claim("strict", best - where(told["strict"], value).max(axis=1))
    claim("stop_now", where(after["stop_now"], later - value[:, :-1]))
    for layer in range(n_points):
        at = {name: leaf[:, layer] for name, leaf in then.items()}
        still_best = value[:, layer:].max(axis=1)
        claim(f"gain at {layer}", difference - at["gain"])
        claim(f"ceiling at {layer}", value[:, layer:] - at["ceiling"][:, layer:])
        claim(f"can_win at {layer}", still_best - where(at["can_win"], value).max(axis=1))
        claim(
            f"passed at {layer}", where(at["can_win"][:, :layer], 1.0).max(axis=1, initial=-np.inf)
        )
        claim(
            f"order at {layer}",
            where(
                at["ordered"][:, layer:, layer:]
                & ~after["ordered"][:, layer:, layer:]
                & np.triu(np.ones((n_points - layer,) * 2, bool)),
                1.0,
            ),
        )
        claim(f"stop_now at {layer}", where(at["stop_now"], later - value[:, :-1]))
        claim(f"floor at {layer}", at["floor"] - value[:, :-1])
        claim(f"stop_on_floor at {layer}", where(at["stop_on_floor"], later - value[:, :-1]))
    return errors


def assert_right(told: dict[str, Any]):
    wrong = {name: error for name, error in worst_errors(told).items() if error > TOLERANCE}
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("n_layers", "n_worlds"), [(2, 25), pytest.param(4, 16, marks=pytest.mark.slow)]
)
def test_never_the_best_choice_over_thousands_of_tasks(n_layers: int, n_worlds: int):
    told = played(n_layers, [random_world(100 + seed, n_layers) for seed in range(n_worlds)])
    assert_right(told)
    # The worlds are not easy ones: every choice is best at times, the radio is busy, uploads
    # overtake.
    n_points, n_tasks = n_layers + 1, told["value"].shape[0]
    assert n_tasks > 100 * n_worlds
    assert np.bincount(told["value"].argmax(axis=1), minlength=n_points + 1).min() > 0.02 * n_tasks
    assert 0.1 < told["busy"].mean() < 0.9
    overtaken = ~told["after"]["ordered"][:, *np.triu_indices(n_points, 1)]
    assert overtaken.mean() > 0.05
    # Nor are the claims empty.
    assert 0.05 < float(pruning.saved(told["after"]["can_win"])) < 0.9
    assert float(pruning.saved(told["strict"])) > float(pruning.saved(told["after"]["can_win"]))
    assert (
        0.02
        < float(pruning.saved(told["then"]["can_win"][:, 0]))
        <= float(pruning.saved(told["after"]["can_win"]))
    )
    assert told["after"]["stop_now"].mean() > told["then"]["stop_now"].mean() > 0.01
    assert told["then"]["stop_on_floor"].mean() > 0.002


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    layer_s=st.lists(st.floats(1e-4, 0.2), min_size=3, max_size=3),
    slots=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, 20.0]), min_size=3, max_size=3),
    server_s=st.lists(st.sampled_from([0.0, 0.01, 0.011, 0.3]), min_size=3, max_size=3),
    energy_j=st.lists(st.sampled_from([0.0, 0.01, 0.5]), min_size=4, max_size=4),
    accuracy=st.lists(st.sampled_from([0.0, 0.6, 0.9, 1.0]), min_size=4, max_size=4),
    weights=st.tuples(st.sampled_from([0.0, 0.1, 1.0, 10.0]), st.sampled_from([0.0, 1.0, 20.0])),
)
def test_never_the_best_choice(
    seed: int,
    layer_s: list[float],
    slots: list[float],
    server_s: list[float],
    energy_j: list[float],
    accuracy: list[float],
    weights: tuple[float, float],
):
    rng = np.random.default_rng(seed)
    draw = random_draw(rng, SHAPE)
    mean_bits = float(draw.slot_bits.astype(jnp.float32).mean())
    numbers = random_numbers(rng, 2, mean_bits) | {
        "layer_s": layer_s,
        "upload_bits": mean_bits * np.asarray(slots),
        "server_s": server_s,
        "device_energy_j": energy_j,
        "accuracy": accuracy,
        "accuracy_weight": weights[0],
        "energy_weight": weights[1],
    }
    assert_right(played(2, [make_params(make_bank(draw), draw.slot_bits, **numbers)]))


lemma_bound = jax.jit(pruning.most_gain)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), history=st.lists(st.integers(0, 3), max_size=4))
def test_lemma_holds_in_the_slot_by_slot_reference(seed: int, history: list[int]):
    rng = np.random.default_rng(seed)
    draw = random_draw(rng, (1, 400))
    numbers = random_numbers(rng, 2, float(draw.slot_bits.astype(jnp.float32).mean())) | {
        "rtt_s": 0.0
    }
    params = make_params(make_bank(draw), draw.slot_bits, **numbers)
    others = {
        name: numbers[name]
        for name in ("slot_s", "layer_s", "server_s", "device_energy_j", "accuracy")
    }
    others |= {
        "transmit_w": numbers["transmit_w"],
        "transmit_j_per_bit": numbers["transmit_j_per_bit"],
    }
    scenario = slow.Scenario(
        **others,
        upload_bits=np.round(numbers["upload_bits"]),
        alpha=numbers["accuracy_weight"],
        beta=numbers["energy_weight"],
    )
    arrivals, ticks, bits, observed, speed = (
        np.asarray(leaf[0], np.float64) for leaf in jax.tree.leaves(draw)
    )
    world = slow.Draw(arrivals.astype(int), ticks * SLOT_S / TICKS, bits, observed, speed)
    try:
        tasks = [
            slow.counterfactual(scenario, world, history, len(history), choice)
            for choice in range(4)
        ]
    except IndexError:
        return  # the row was too short for this history
    uploads, start = tasks[:-1], tasks[0].start
    slots = np.array([task.free - start for task in tasks], np.int32)
    end, begin = (
        np.array([getattr(u, "upload_" + name) for u in uploads], np.int32)
        for name in ("end", "begin")
    )
    sure = pruning.Sure(
        first=jnp.int32(0),
        slots=jnp.stack([slots] * 2),
        air=jnp.stack([end - begin] * 2),
        end=jnp.asarray(end - start),
        waiting_s=jnp.asarray([task.waiting_cost_s for task in tasks], jnp.float32),
        ordered=jnp.asarray(end[:, None] <= end[None, :]),
        accuracy=params.accuracy,
    )
    value = np.array([task.value for task in tasks])
    scale = 1.0 + np.abs(value).max()
    gain = np.asarray(lemma_bound(params, sure))
    assert ((value[None, :-1] - value[:-1, None] - gain) / scale).max() <= TOLERANCE
    assert ((value - np.asarray(pruning.ceiling(params, sure))) / scale).max() <= TOLERANCE
    kept = np.asarray(pruning.can_win(params, sure, value[-1]))
    assert value.max() - value[kept].max() <= TOLERANCE * scale


# --- worked by hand -------------------------------------------------------------------------------

ONE_LAYER = {
    "slot_s": 1.0,
    "layer_s": [1.0, 1.0],
    "upload_bits": [10, 1],
    "server_s": [0.0, 0.0],
    "device_energy_j": [0.0, 0.0, 0.0],
    "accuracy": [0.5, 0.5, 0.0],
    "transmit_w": 0.0,
    "accuracy_weight": 4.0,
    "energy_weight": 3.0,
}


def one_task(**numbers: Any):
    """Replay and params of a task that arrives in slot 0: one bit per slot, an idle server."""
    zeros = jnp.zeros((1, 40), jnp.int32)
    ones = jnp.ones_like(zeros)
    speed = jnp.ones((1, 40), jnp.float32)
    draw = Draw(zeros.at[0, 0].set(1), zeros, ones, ones, speed)
    params = make_params(make_bank(draw), draw.slot_bits, **(ONE_LAYER | numbers))
    state, _ = Stopping(1).reset_at(jnp.int32(0), jnp.int32(0), params)
    return jax.jit(workload.evaluate, static_argnums=0)(Stopping(1), state, params), params


def test_a_smaller_upload_overtakes():
    # τ = 10 and 1 + 1 = 2: value 2 - 10, 2 - 2, 0 - 2. The right side of the lemma is 0, and yet 1
    # wins.
    replay, params = one_task()
    np.testing.assert_allclose(replay.choices.value, [-8.0, 0.0, -2.0])
    assert pruning.can_win(params, pruning.after_replay(replay)).tolist() == [True, True, True]
    # Its own value -2 shows that 0, whose ceiling is -8, is out.
    assert pruning.can_win(params, pruning.after_replay(replay), jnp.float32(-2.0)).tolist() == [
        False,
        True,
        True,
    ]


def test_bound_of_the_lemma():
    # τ = 2, 1 + 3 = 4. acc 4 (.75 - .5) = 1; e .5 - .25 = .25; air 2 W (2 - 3) s = -2 J, device .5
    # J: 3 (-2.5) = -7.5
    numbers = {
        "upload_bits": [2, 3],
        "server_s": [0.5, 0.25],
        "accuracy": [0.5, 0.75, 0.0],
        "transmit_w": 2.0,
    }
    replay, params = one_task(**numbers, device_energy_j=[0.0, 0.5, 0.5])
    sure = pruning.after_replay(replay)
    np.testing.assert_allclose(pruning.most_gain(params, sure), [[np.inf, -6.25], [np.inf, np.inf]])
    # value 0: 2 - 2 - .5 - 3 · 4 = -12.5; 1: 3 - 4 - .25 - 3 (.5 + 6) = -20.75; on the device: 0 -
    # 2 - 1.5
    np.testing.assert_allclose(pruning.ceiling(params, sure), [-12.5, -20.75, -3.5])
    np.testing.assert_allclose(replay.choices.value, [-12.5, -20.75, -3.5])
    assert pruning.can_win(params, sure).tolist() == [True, False, True]
    assert pruning.stop_now(params, sure, replay.choices.value[:-1]).tolist() == [False, False]
    assert pruning.stop_now(params, sure, jnp.asarray([-3.5, -jnp.inf])).tolist() == [True, False]
    # At t_0, with air times of 2 and 3 slots known (the rate never changes) the bound is the same.
    state = jax.tree.map(lambda leaf: leaf[0], replay.states)
    then = pruning.at_decision(Stopping(1), state, params, pruning.limits(params))
    np.testing.assert_allclose(pruning.most_gain(params, then), [[np.inf, -6.25], [np.inf, np.inf]])
    # Not sure of them: a_0 - a_1 <= t_1 - t_0 = 1 slot, so 2 W · 1 s = 2 J: 1 + .25 + 3 (2 - .5) =
    # 5.75
    unsure = replace(then, air=jnp.asarray([[1, 1], [9, 9]], jnp.int32))
    np.testing.assert_allclose(
        pruning.most_gain(params, unsure), [[np.inf, 5.75], [np.inf, np.inf]]
    )


def test_floor_counts_the_work_that_may_come():
    # a_0 = 2 slots with .25 s each of others' work: 4 (.5) - (2 + .5 + .5) - 3 (2 W · 2 s) = -13
    replay, params = one_task(upload_bits=[2, 3], server_s=[0.5, 0.25], transmit_w=2.0)
    state = jax.tree.map(lambda leaf: leaf[0], replay.states)
    sure = pruning.at_decision(Stopping(1), state, params, pruning.limits(params))
    np.testing.assert_allclose(
        pruning.floor_now(state, params, sure, jnp.float32(0.25)), [-13.0, -np.inf]
    )
    busy = state.replace(observed=state.observed.replace(radio_busy=jnp.bool_(True)))
    assert (pruning.floor_now(busy, params, sure, jnp.float32(0.25)) == -jnp.inf).all()


def test_saved():
    assert float(pruning.saved(jnp.asarray([[True, False], [False, False]]))) == 0.75


# --- known at the decision ------------------------------------------------------------------------


def test_a_decision_reads_nothing_after_its_slot():
    env, cut = Stopping(2), 300
    one, other = (random_draw(np.random.default_rng(seed), SHAPE) for seed in (1, 2))
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:, :cut], b[:, cut:]], axis=1), one, other)
    numbers = random_numbers(np.random.default_rng(3), 2, 1e5) | {"upload_bits": [3e5, 5e5, 1e5]}
    worlds = [make_params(make_bank(draw), draw.slot_bits, **numbers) for draw in (one, mixed)]
    limits = pruning.limits(worlds[0])

    @jax.jit
    def decisions(params: Params):
        def step(state: State, key: jax.Array):
            sure = pruning.at_decision(env, state, params, limits)
            told = (state.slot, sure, pruning.floor_now(state, params, sure, jnp.float32(0.1)))
            action = jnp.where(jax.random.bernoulli(key), STOP, CONTINUE)
            return env.step(state, action, params)[0], told

        start = jax.vmap(env.reset_at, (0, None, None))(
            jnp.arange(4, dtype=jnp.int32), jnp.int32(0), params
        )[0]
        keys = jax.random.split(jax.random.key(0), 60)
        return jax.vmap(lambda state: jax.lax.scan(step, state, keys)[1])(start)

    a, b = (jax.tree.map(np.asarray, decisions(params)) for params in worlds)
    seen = (a[0] < cut) & (b[0] < cut)
    assert seen.sum() > 30
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[seen], y[seen]), a, b)


# --- what it saves --------------------------------------------------------------------------------


@pytest.mark.parametrize("arrivals", [0.02, 0.03])
def test_saves_on_the_reference_scenario(arrivals: float):
    told = played(2, [reference_world(arrivals, seed) for seed in range(6)], play_best=True)
    assert_right(told)
    kept, stop = told["after"]["can_win"], told["after"]["stop_now"]
    # Stopping after one or two layers costs .014 or .059 of energy and saves at most .0014 or .0059
    # s on the server.
    assert (kept == np.array([True, False, False, True])).all()
    assert (told["then"]["can_win"][:, 0] == kept).all()
    assert float(pruning.saved(kept)) == 0.5
    # One choice after the other, up to the first at which it is right to stop.
    first = np.where(stop.any(axis=1), stop.argmax(axis=1), 3)
    needed = kept & (np.arange(4)[None, :] <= first[:, None])
    assert 0.5 < float(pruning.saved(needed)) < 0.75


def test_shares_over_many_tasks():
    env, params = jaxcoinfer.make("reference", jax.random.key(0))
    told, known = pruning.shares(jax.random.key(1), params, env=env, n_devices=8, n_tasks=10)
    # Two of four choices, as above. At the first decision the same two are known to lose; who goes
    # on has fewer left, of which fewer are.
    assert float(told) == 0.5 and 0.2 < float(known) < 0.5
