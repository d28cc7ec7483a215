"""Gymnasium's faces: its own checkers, the native transitions, its vectors' way to reset, seeds,
masks, SB3.
"""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from jaxcoinfer.adapters import gymnasium_env, gymnasium_vector
from jaxcoinfer.systems.multi_user.env import MultiUser
from tests.helpers import on_demand as on_demand_helpers
from tests.helpers import stopping as scenarios_helpers
from tests.helpers.fleets import random_fleet

SYSTEMS = {
    "stopping": scenarios_helpers.random_system(8, 3),
    "on-demand": on_demand_helpers.random_system(1),
}
WORLDS = {name: (system.env, system.params()) for name, system in SYSTEMS.items()}
MODES = ("NextStep", "SameStep")


@pytest.fixture(params=WORLDS)
def world(request):
    return WORLDS[request.param]


def start_of(world, generator):
    """What the native environment gives for the next start that a generator draws."""
    env, params = world
    return jax.jit(env.reset)(jax.random.key(np.uint32(generator.integers(1 << 32))), params)


def step_of(world):
    return jax.jit(
        lambda state, action: world[0].step(state, jnp.asarray(action, jnp.int32), world[1])
    )


@pytest.mark.parametrize("name", WORLDS)
def test_gymnasiums_checker_has_nothing_to_say(name):
    # Registered, so that it has a specification: without one the checker warns that it cannot make
    # a second.
    gymnasium.register(
        f"jaxcoinfer/{name}-v0", entry_point=lambda: gymnasium_env(*WORLDS[name], centred=False)
    )
    check_env(gymnasium.make(f"jaxcoinfer/{name}-v0").unwrapped)


def test_it_steps_as_the_environment_does(world):
    face, step, generator = (
        gymnasium_env(*world, centred=False),
        step_of(world),
        np.random.default_rng(3),
    )
    observation, info = face.reset(seed=3)
    state, timestep = start_of(world, generator)
    for i in range(400):
        np.testing.assert_allclose(observation, timestep.observation, rtol=1e-5)
        np.testing.assert_array_equal(info["action_mask"], world[0].mask(state, world[1]))
        np.testing.assert_array_equal(face.action_masks(), info["action_mask"].astype(bool))
        assert observation in face.observation_space
        action = i % 2
        observation, reward, terminated, truncated, info = face.step(action)
        state, timestep = step(state, action)
        assert reward == pytest.approx(float(timestep.reward), rel=1e-5)
        assert (terminated, truncated) == (bool(timestep.terminated), bool(timestep.truncated))
        if truncated:
            observation, info = face.reset()
            state, timestep = start_of(world, generator)
            return
    pytest.fail("it never ended")


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_resets_as_its_mode_says(world, mode):
    """Each replica against the native environment, whose starts are drawn beside it."""
    env, params = world
    n_envs, generator, step = 4, np.random.default_rng(5), step_of(world)
    vector = gymnasium_vector(env, params, n_envs, autoreset=mode, centred=False)
    draw = jax.jit(lambda seed: env.reset(jax.random.key(seed), params))

    def starts():
        return [draw(seed) for seed in generator.integers(1 << 32, size=n_envs, dtype=np.uint32)]

    observation, _ = vector.reset(seed=5)
    native, waits, n_ends = starts(), [False] * n_envs, 0
    for _ in range(300):
        np.testing.assert_allclose(
            observation, [timestep.observation for _, timestep in native], rtol=1e-5
        )
        action = np.arange(n_envs) % 2
        observation, reward, terminated, truncated, info = vector.step(action)
        native = [step(state, a) for (state, _), a in zip(native, action, strict=True)]
        over = [bool(t.terminated | t.truncated) for _, t in native]
        ended = [o and not w for o, w in zip(over, waits, strict=True)]
        np.testing.assert_allclose(
            reward, [t.reward for _, t in native], rtol=1e-5
        )  # nothing, where it had ended before
        np.testing.assert_array_equal(terminated | truncated, ended)
        n_ends += sum(ended)
        again = waits if mode == "NextStep" else ended
        if mode == "SameStep" and any(ended):
            np.testing.assert_array_equal(info["_final_obs"], ended)
            for last, o, (_, timestep) in zip(info["final_obs"], ended, native, strict=True):
                assert np.allclose(last, timestep.observation, rtol=1e-5) if o else last is None
        else:
            assert "final_obs" not in info
        if any(again):
            native = [
                new if a else old for new, old, a in zip(starts(), native, again, strict=True)
            ]
        waits = ended if mode == "NextStep" else waits
        assert observation in vector.observation_space
        if n_ends > 8:
            return
    pytest.fail(f"{n_ends} ends in 300 steps")


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_speaks_as_gymnasiums_own(mode):
    """Kinds of everything it returns, in every step, as `SyncVectorEnv` of the single face has
    them.
    """
    env, params = WORLDS["on-demand"]
    ours = gymnasium_vector(env, params, 2, autoreset=mode, centred=False)
    makers = [lambda: gymnasium_env(env, params, centred=False)] * 2
    theirs = gymnasium.vector.SyncVectorEnv(
        makers, autoreset_mode=gymnasium.vector.AutoresetMode(mode)
    )
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert (ours.observation_space, ours.action_space) == (
        theirs.observation_space,
        theirs.action_space,
    )

    def kinds(values):
        return jax.tree.map(
            lambda x: (type(x), getattr(x, "dtype", None), getattr(x, "shape", None)), values
        )

    said = []
    for vector in (ours, theirs):
        seen = {str(kinds(vector.reset(seed=0)))}
        for _ in range(90):
            *step, info = vector.step(np.zeros(2, np.int64))
            info.pop("final_obs", None)  # arrays and None, by which ended at once
            seen.add(str(kinds([*step, dict(sorted(info.items()))])))
        said.append(seen)
    assert said[0] == said[1]


def test_gymnasiums_wrappers_take_it():
    vector = gymnasium_vector(*WORLDS["on-demand"], 3)
    logged = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector)
    logged.reset(seed=0)
    infos = [logged.step(np.zeros(3, np.int64))[4] for _ in range(45)]
    assert sum("episode" in info for info in infos) >= 1


def test_a_seed_says_all_and_what_is_returned_is_the_callers(world):
    faces = [gymnasium_vector(*world, 3, autoreset="SameStep") for _ in range(2)]
    runs = []
    for face in faces:
        seen = [face.reset(seed=11)[0], face.reset()[0]]
        for _ in range(50):
            observation = face.step(np.ones(3, np.int64))[0]
            seen.append(observation.copy())
            observation[:] = -1.0
        runs.append(np.stack(seen))
    np.testing.assert_array_equal(*runs)
    assert not np.array_equal(runs[0][0], runs[0][1])
    assert not np.array_equal(faces[0].reset(seed=12)[0], runs[0][0])


def test_what_it_cannot_do_is_an_error():
    env, params = WORLDS["stopping"]
    face, vector = gymnasium_env(env, params), gymnasium_vector(env, params, 2)
    for it, action in ((face, 0), (vector, np.zeros(2, int))):
        with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
            it.step(action)
        with pytest.raises(ValueError, match="options"):
            it.reset(options={"row": 1})
        it.reset(seed=0)
        with pytest.raises(ValueError, match="0 to 1"):
            it.step(action + 2)
    with pytest.raises(ValueError, match="2 numbers"):
        vector.step(np.zeros(3, int))
    with pytest.raises(ValueError, match="NextStep, SameStep"):
        gymnasium_vector(env, params, 2, autoreset="Disabled")
    for other in (random_fleet(0, 3).env(), MultiUser(2, 2, 2)):
        with pytest.raises(TypeError, match="no Gymnasium face"):
            gymnasium_env(other, None)


def test_stable_baselines_checks_it_and_learns_on_it():
    """Its checker, then a few updates of its own proximal policy optimisation, and masks as
    sb3-contrib asks.
    """
    reason = "it is not installed: python -m pip install 'jaxcoinfer[sb3]'"
    sb3 = pytest.importorskip("stable_baselines3", reason=reason)
    env_checker = pytest.importorskip("stable_baselines3.common.env_checker", reason=reason)
    face = gymnasium_env(*WORLDS["on-demand"])
    env_checker.check_env(face)
    with jax.numpy_dtype_promotion("standard"):
        trained = sb3.PPO("MlpPolicy", face, n_steps=32, batch_size=32, device="cpu").learn(64)
    assert trained.num_timesteps == 64


def test_rewards_are_centred_by_the_tasks_before():
    """A task that finishes is paid what it gives above the mean of all before it; a step in which
    none does keeps its reward.
    """
    env, params = WORLDS["stopping"]
    faces = [gymnasium_vector(env, params, 3, centred=centred) for centred in (True, False)]
    for face in faces:
        face.reset(seed=4)
    generator, utilities = np.random.default_rng(0), []
    state, finished_at_all = None, 0
    for _ in range(60):
        state = faces[1]._state
        actions = generator.integers(0, 2, 3)
        centred, plain = (face.step(actions)[1] for face in faces)
        outcome = jax.vmap(env.step, (0, 0, None))(state, jnp.asarray(actions), params)[1].outcome
        finished = np.asarray(outcome.finished)
        mean = np.mean(utilities) if utilities else 0.0
        np.testing.assert_allclose(centred, plain - finished * mean, atol=1e-4)
        utilities += np.asarray(outcome.utility)[finished].tolist()
        finished_at_all += finished.sum()
    assert finished_at_all > 20
