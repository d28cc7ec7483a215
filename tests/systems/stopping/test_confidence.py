"""An exit head whose confidence is observed: results image by image, in the environment, its twin,
the bound and a baseline.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer import make
from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.data.profiles import ProfileError
from jaxcoinfer.systems.registry import load_scenario
from jaxcoinfer.systems.stopping import baselines as policies
from jaxcoinfer.systems.stopping import run, status_reports, sweeps
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.bounds import exact as bounds
from jaxcoinfer.systems.stopping.bounds import isolated
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.policies import choose
from jaxcoinfer.systems.stopping.scenario import (
    FromProfiles,
    StoppingScenario,
    task_numbers,
    task_samples,
)
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import pruning, workload
from jaxcoinfer.systems.stopping.twin.status import StatusTwinEnv, watch

S = 400  # images
KEY = jax.random.key(0)

DNN = """
kind = "dnn"
name = "looked-at"
description = "three layers, an exit after the second"
input_bits = 24_000
full_accuracy = 0.75
bits = [4, 32]
[[layers]]
name = "a"
flop = 10e6
out_elements = 2000
[[layers]]
name = "b"
flop = 20e6
out_elements = 1000
[[layers]]
name = "c"
flop = 30e6
out_elements = 10
cut = false
[[exits]]
after_layer = 2
head_flop = 2e6
accuracy = 0.5
[source]
input_bits = "assumed: test"
full_accuracy = "assumed: test"
bits = "assumed: test"
layers = "assumed: test"
exits = "assumed: test"
samples = "assumed: test"
"""


def results():
    """correct [V=1, E=2, P=4, Q=2, S] and confidence [1, 2, S]: the head is right as often as it is
    sure.
    """
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1.0, (1, 2, S)).astype(np.float32)
    correct = rng.uniform(size=(1, 2, 4, 2, S)) < 0.75
    correct[0, 0] = rng.uniform(size=S) < confidence[0, 0]
    return correct, confidence


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("dnn")
    correct, confidence = results()
    (folder / "looked-at.toml").write_text(DNN)
    packed = np.packbits(correct, axis=-1)
    np.savez(
        folder / "looked-at.npz",
        samples=np.array(S),
        correct=packed,
        confidence=confidence,
        entropy=1 - confidence,
    )
    task = FromProfiles(
        dnn=str(folder / "looked-at.toml"),
        device="raspberry-pi-4",
        server="edge-cpu",
        link="wifi-5",
        exit=2,
        bits=4,
        observe_confidence=True,
    )
    base = load_scenario("reference")
    return dataclasses.replace(base, rows=4, slots=4096, slot_s=0.001, task=task)


@pytest.fixture(scope="module")
def world(scenario: StoppingScenario):
    return make(scenario, jax.random.key(3))


def test_the_head_counts_as_a_layer_after_which_the_last_feature_may_be_sent(
    scenario: StoppingScenario,
):
    numbers = task_numbers(scenario.task)
    # 3.3 ms a kernel, 22.7 GFLOP/s: a 3.3 + 10/22.7 = 3.7405 ms, b 3.3 + 20/22.7 = 4.1811 ms, head
    # 3.3 + 2/22.7
    np.testing.assert_allclose(
        numbers["layer_s"], [3.7405e-3, 4.1811e-3, 3.3881e-3, 0.0], rtol=1e-4
    )
    # input 24,000; 2000 and 1000 elements of 4 bits; after the head, b's output again
    np.testing.assert_allclose(numbers["upload_bits"], [24_000, 8_000, 4_000, 4_000])
    assert numbers["server_s"][2] == numbers["server_s"][3] < numbers["server_s"][1]
    # Computing adds 5.4 - 2.2 W: 3.2 * (3.7405 + 4.1811) ms = 25.349 mJ; with the head
    # 3.2 * 11.3097 = 36.191 mJ, whatever comes then
    np.testing.assert_allclose(
        numbers["device_energy_j"][2:], [0.025349, 0.036191, 0.036191], rtol=1e-4
    )
    correct, _ = results()
    uploads = [correct[0, 1, cut, 0].mean() for cut in (0, 1, 2, 2)]
    np.testing.assert_allclose(numbers["accuracy"], [*uploads, 0.5])


@pytest.mark.slow
def test_a_run_reads_the_results_of_the_images_once(
    scenario: StoppingScenario, monkeypatch: pytest.MonkeyPatch
):
    """All parts of a run that need the task: numbers, the two draws, sweeps and messages."""
    reads, read_bytes = [], Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    os.utime(Path(scenario.task.dnn).with_suffix(".npz"))  # as after a change: not known yet
    small = run.resolved(scenario, run.QUICK)
    assert bounds.model_of(small) is None
    worlds = [make(small, KEY, split=split)[1] for split in ("train", "test")]
    assert len(sweeps.plan(small, (1.0,), (0.3,), (2.0,), KEY).worlds) > 0
    make(status_reports.varied(small), KEY, split="test")
    assert all(world.samples is not None for world in worlds)
    assert reads.count("looked-at.npz") == 1
    os.utime(Path(scenario.task.dnn).with_suffix(".npz"))
    task_samples(scenario.task)
    assert reads.count("looked-at.npz") == 2  # a file that has changed is read again


def test_learning_and_evaluation_see_different_images(scenario: StoppingScenario):
    right, confidence = task_samples(scenario.task)
    learned, means = stopping_samples.make_samples(right, confidence, split="train")
    judged, same = stopping_samples.make_samples(right, confidence, split="test")
    chosen_by, _ = stopping_samples.make_samples(right, confidence, split="validation")
    quarter = S // 2 + S // 4
    for samples, part in (
        (learned, slice(None, S // 2)),
        (chosen_by, slice(S // 2, quarter)),
        (judged, slice(quarter, None)),
    ):
        np.testing.assert_array_equal(samples.records[:, :-1], np.asarray(right)[:, part].T)
        # A device sees the mean of the bin that a confidence falls in, and no more.
        shown, edges = np.asarray(samples.records[:, -1]), np.asarray(samples.edges)
        assert len(np.unique(shown)) <= 16 and abs(shown - confidence[part]).max() < 0.2
        np.testing.assert_array_equal(
            np.searchsorted(edges, shown, side="right"),
            np.searchsorted(edges, confidence[part], side="right"),
        )
    # What a device may expect it knows from the first half.
    np.testing.assert_array_equal(means, same)
    np.testing.assert_allclose(means, right[:, : S // 2].mean(axis=1), rtol=1e-6)
    jax.tree.map(
        np.testing.assert_array_equal,
        (learned.edges, learned.expected),
        (judged.edges, judged.expected),
    )


def test_what_to_expect_of_a_confidence_by_hand():
    # 64 + 64 images: the head's confidence is i / 64, and it is right on the upper half of them
    sure = np.tile(np.arange(64) / 64, 2)
    right = np.stack([np.ones(128), sure >= 0.5])
    samples, means = stopping_samples.make_samples(right, sure, split="test")
    np.testing.assert_allclose(means, [1.0, 0.5])
    assert samples.expected.shape == (16, 2)  # four images a bin
    for confidence, expected in ((0.0, 0.0), (0.49, 0.0), (0.51, 1.0), (1.0, 1.0)):
        np.testing.assert_allclose(
            stopping_samples.expected(samples, jnp.float32(confidence)), [1.0, expected]
        )


def play(env: Stopping, params: Params, key: jax.Array, n_steps: int = 600):
    """States and time steps of random decisions in four environments, [n_steps, 4]."""

    def move(carry: Any, key: jax.Array):
        state, timestep = carry
        action = jax.random.bernoulli(key, 0.3, (4,)).astype(jnp.int32)
        return jax.vmap(env.step, (0, 0, None))(state, action, params), (state, timestep, action)

    keys = jax.random.split(key, n_steps)
    start = jax.jit(jax.vmap(env.reset_at, (0, 0, None)))(
        jnp.arange(4, dtype=jnp.int32), jnp.zeros(4, jnp.int32), params
    )
    _, (states, timesteps, actions) = jax.lax.scan(move, start, keys)
    following = jax.tree.map(lambda leaf: leaf[1:], timesteps)
    return jax.tree.map(lambda leaf: np.asarray(leaf[:-1]), (states, timesteps, actions)), following


@pytest.fixture(scope="module")
def played(world: tuple[Stopping, Params]):
    return play(*world, jax.random.key(1))


def test_a_task_gets_right_what_its_image_says(
    world: tuple[Stopping, Params], played: tuple[Any, Any]
):
    env, params = world
    (states, _, _), following = played
    finished = np.asarray(following.outcome.finished)
    records = np.asarray(params.samples.records)
    image = (np.maximum(states.task, 0) + 911 * states.row) % len(records)
    right = records[image, np.asarray(following.outcome.choice)]
    assert (
        finished.sum() > 100
        and len(set(np.asarray(following.outcome.choice)[finished])) == env.n_choices
    )
    np.testing.assert_array_equal(np.asarray(following.outcome.accuracy)[finished], right[finished])
    assert 0.2 < right[finished].mean() < 0.95


def test_the_confidence_is_seen_once_the_head_ran_and_not_before(
    world: tuple[Stopping, Params], played: tuple[Any, Any]
):
    env, params = world
    (states, timesteps, _), _ = played
    seen = timesteps.observation[..., -1]
    ran = states.layer == env.n_layers
    image = (np.maximum(states.task, 0) + 911 * states.row) % len(params.samples.records)
    assert timesteps.observation.shape[-1] == env.observation_shape[0] == 8 and ran.any()
    np.testing.assert_array_equal(
        seen, np.where(ran, np.asarray(params.samples.records)[image, -1], 0.0)
    )


def test_the_twin_is_the_environment_for_every_choice(
    world: tuple[Stopping, Params], played: tuple[Any, Any]
):
    env, params = world
    (states, _, _), _ = played
    starts = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[(states.layer == 0) & ~states.done][:40]), states
    )

    @jax.jit
    def both(params: Params, state: State, choice: jax.Array):
        replay = workload.evaluate(env, state, params)

        def move(carry: Any, _: None):
            state, reward, _, over = carry
            after, timestep = env.step(
                state, jnp.where(state.layer == choice, STOP, CONTINUE), params
            )
            now = (after, reward + timestep.reward, timestep.outcome, timestep.outcome.finished)
            return jax.tree.map(lambda old, new: jnp.where(over, old, new), carry, now), None

        blank = env.reset_at(state.row, state.slot, params)[1].outcome
        start = (state, jnp.zeros(()), blank, jnp.zeros((), bool))
        (after, reward, outcome, over), _ = jax.lax.scan(move, start, length=env.n_layers + 1)
        expected = jax.tree.map(lambda leaf: leaf[choice], replay.choices)
        same = workload.follow(replay, choice, params).slot == after.slot
        return (
            (expected.value, expected.accuracy, expected.latency_s),
            (reward, outcome.accuracy, outcome.latency_s),
            same & over,
        )

    many = jax.vmap(jax.vmap(both, (None, None, 0)), (None, 0, None))
    said, found, same = many(params, starts, jnp.arange(env.n_choices, dtype=jnp.int32))
    assert np.asarray(same).all()
    for a, b in zip(said, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_the_forecast_believes_the_head_once_it_ran(
    world: tuple[Stopping, Params], played: tuple[Any, Any]
):
    env, params = world
    (states, _, _), _ = played
    ran = jax.tree.map(lambda leaf: jnp.asarray(leaf[states.layer == env.n_layers][:50]), states)
    expected = jax.vmap(workload.expected_accuracy, (None, 0, None))(env, ran, params)
    confidence = jax.vmap(known, (0, None))(ran, params).confidence
    assert np.corrcoef(np.asarray(expected[:, -1]), np.asarray(confidence))[0, 1] > 0.8
    begun = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0]), states)
    np.testing.assert_array_equal(workload.expected_accuracy(env, begun, params), params.accuracy)


@pytest.mark.slow
def test_pruning_keeps_the_best(world: tuple[Stopping, Params], played: tuple[Any, Any]):
    env, params = world
    (states, _, _), _ = played
    starts = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[(states.layer == 0) & ~states.done][:60]), states
    )
    replay = jax.vmap(workload.evaluate, (None, 0, None))(env, starts, params)
    sure = jax.vmap(pruning.after_replay)(replay)
    kept = np.asarray(
        jax.vmap(pruning.can_win, (None, 0, 0))(params, sure, replay.choices.value[:, -1])
    )
    value = np.asarray(replay.choices.value)
    assert (
        np.where(kept, value, -np.inf).max(axis=1) >= value.max(axis=1) - 1e-5
    ).all() and not kept.all()


def test_the_bound_of_like_images_is_above_every_policy(world: tuple[Stopping, Params]):
    env, params = world
    each = np.asarray(isolated.utility(env, params))
    for policy in (
        policies.adaptive_waiting(env),
        policies.threshold_exit(env, 0.6),
        policies.fixed(env.n_layers),
    ):
        start = jax.jit(jax.vmap(env.reset_at, (0, 0, None)))(
            jnp.arange(4, dtype=jnp.int32), jnp.zeros(4, jnp.int32), params
        )

        def move(carry: Any, _: None, policy: Policy = policy):
            state, timestep = carry
            action = jax.vmap(policy, (None, 0, 0, None))(
                jax.random.key(0), state, timestep.observation, params
            )
            state, timestep = jax.vmap(env.step, (0, 0, None))(state, action, params)
            return (state, timestep), timestep.outcome

        _, outcome = jax.lax.scan(move, start, length=800)
        finished = np.asarray(outcome.finished)
        assert finished.sum() > 100
        utility = np.where(finished, np.asarray(outcome.utility), 0.0).sum(axis=0) / finished.sum(
            axis=0
        )
        bound = isolated.by_row(each, finished.sum(axis=0))
        assert (bound.mean() - utility.mean()) > 0


def test_a_threshold_settles_where_the_head_is_sure(
    world: tuple[Stopping, Params], played: tuple[Any, Any]
):
    env, params = world
    (states, timesteps, _), _ = played
    flat = jax.tree.map(
        lambda leaf: jnp.asarray(leaf.reshape(-1, *leaf.shape[2:])), (states, timesteps.observation)
    )
    act = jax.vmap(policies.threshold_exit(env, 0.6), (None, 0, 0, None))
    action = np.asarray(act(jax.random.key(0), *flat, params))
    layer, confidence = np.asarray(flat[0].layer), np.asarray(flat[1][:, -1])
    np.testing.assert_array_equal(action == STOP, (layer == env.n_layers) & (confidence < 0.6))


@pytest.mark.slow
def test_the_threshold_is_chosen_by_what_it_gains(world: tuple[Stopping, Params]):
    env, params = world
    found = choose(env, params, KEY, n_tasks=100)
    assert found.threshold is not None and 0.0 < found.threshold <= 1.001
    # Where accuracy is all, the head is believed where it is right more often than the whole
    # network, .75.
    dear = params.replace(accuracy_weight=jnp.float32(1e5))
    assert 0.6 < choose(env, dear, KEY, n_tasks=100).threshold < 0.95


def test_the_server_is_told_how_sure_the_head_is(scenario: StoppingScenario):
    env, params = make(scenario, jax.random.key(3))
    watched, never = StatusTwinEnv(env), watch(params, 10**6)
    state, _ = watched.reset_at(jnp.int32(0), jnp.int32(0), never)
    told = [int(state.reports)]
    for _ in range(env.n_layers):
        state, _ = watched.step(state, jnp.int32(CONTINUE), never)
        told.append(int(state.reports))
    assert told == [1, 1, 1, 2] and int(state.slot) == int(state.truth.slot)


def test_a_world_with_samples_has_no_exact_optimum(scenario: StoppingScenario):
    assert bounds.model_of(load_scenario("reference")) is not None
    assert bounds.model_of(scenario) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "bits = 8: 'looked-at' is known at 4, 32"),
        ({"exit": 1}, "task.exit = 1: 'looked-at' has no exit there; allowed: 2"),
        (
            {"dnn": "alexnet", "exit": 4, "bits": 32},
            "task.observe_confidence = true: 'alexnet' has no results image by image",
        ),
        (
            {"dnn": "alexnet", "exit": 4, "bits": 8, "observe_confidence": False},
            "bits = 8: what 'alexnet' loses by it",
        ),
    ],
)
def test_what_cannot_be_observed_is_refused(
    scenario: StoppingScenario, change: dict[str, Any], message: str
):
    with pytest.raises(ProfileError, match=message):
        make(dataclasses.replace(scenario, task=dataclasses.replace(scenario.task, **change)))


def test_samples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="10 confidences; allowed: 64 or more"):
        stopping_samples.make_samples(np.ones((3, 10)), np.ones(10), split="train")
