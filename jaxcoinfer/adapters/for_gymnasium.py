"""Gymnasium 1.x: one environment as its `Env`, a batch of them as its `VectorEnv`. NumPy in, NumPy
out.

Rewards are centred by default: a task that finishes is paid what it gives above the running mean of
those before it. How many tasks come is not for a policy to decide, so the ranking of policies
stays, and a trainer's discount, which counts decisions, does not favour whoever takes few of them.

`info["action_mask"]` says which actions are valid, int8, as `Discrete.sample(mask)` takes it;
`action_masks()` returns the same as bool, as sb3-contrib's `MaskablePPO` wants it. Starts are drawn
from `np_random`.
"""

from functools import cache, partial
from typing import Any

import jax
import numpy as np

from jaxcoinfer.adapters.extras import needed
from jaxcoinfer.core.contract import Env, select

_SEEDS = 1 << 32


def gymnasium_env(env: Env, params: Any, *, centred: bool = True) -> Any:
    """Returns `env` as a `gymnasium.Env`. Where a record ends the world would go on, so its end is
    a truncation. centred: whether rewards are.

    Raises TypeError where an action is not one number, ImportError where gymnasium is not
    installed.
    """
    return _classes()[0](_one_number(env), params, centred)


def gymnasium_vector(
    env: Env, params: Any, n_envs: int, *, autoreset: str = "NextStep", centred: bool = True
) -> Any:
    """Returns n_envs of `env` as a `gymnasium.vector.VectorEnv`, stepped in one call. centred:
    whether rewards are, with one mean for all.

    autoreset: a value of `gymnasium.vector.AutoresetMode`. "NextStep": the step after an end
    ignores the action and returns the first observation of a new start with reward 0. "SameStep":
    the step that ends returns it already, and the last one in `info["final_obs"]`. "Disabled"
    raises ValueError. Else raises as `gymnasium_env`.
    """
    return _classes()[1](_one_number(env), params, n_envs, autoreset, centred)


@cache
def _classes() -> tuple[Any, Any]:
    gymnasium = needed("gymnasium", "gymnasium")
    one = type("GymnasiumEnv", (_One, gymnasium.Env), {})
    return one, type("GymnasiumVector", (_Many, gymnasium.vector.VectorEnv), {})


def _one_number(env: Env) -> Env:
    if len(env.observation_shape) != 1:
        what = (
            "allowed: an environment with one device, whose action is a number; jaxmarl_env takes "
            "a fleet"
        )
        raise TypeError(f"{env} has no Gymnasium face; {what}")
    return env


def _start(env: Env, seed: jax.Array, params: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    state, timestep = env.reset(jax.random.key(seed), params)
    return state, (timestep.observation, env.mask(state, params))


def _move(
    env: Env, state: Any, action: jax.Array, params: Any
) -> tuple[Any, tuple[jax.Array, ...]]:
    state, timestep = env.step(state, action, params)
    view = (timestep.observation, env.mask(state, params))
    task = (timestep.outcome.finished, timestep.outcome.utility)
    return state, (*view, timestep.reward, timestep.terminated, timestep.truncated, *task)


_start_one, _move_one = (jax.jit(function, static_argnums=0) for function in (_start, _move))


@partial(jax.jit, static_argnums=0)
def _start_many(env: Env, seeds: jax.Array, params: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    return jax.vmap(partial(_start, env), (0, None))(seeds, params)


@partial(jax.jit, static_argnums=0)
def _move_many(
    env: Env, state: Any, action: jax.Array, params: Any
) -> tuple[Any, tuple[jax.Array, ...]]:
    return jax.vmap(partial(_move, env), (0, 0, None))(state, action, params)


@partial(jax.jit, static_argnums=0)
def _restart_many(env: Env, seeds: jax.Array, over: jax.Array, kept: Any, params: Any) -> Any:
    """Returns `kept`, as `_start_many` returns it, with fresh starts where `over`, [B] bool."""
    return select(over, _start_many(env, seeds, params), kept)


def _owned(arrays: Any) -> Any:
    """Copies to NumPy: arrays of JAX cannot be written to, and torch warns of that."""
    return jax.tree.map(np.array, jax.device_get(arrays))


def _require_no_options(options: dict[str, Any] | None) -> None:
    if options:
        raise ValueError(
            f"reset: options = {options}; allowed: none, what there is to choose is in params"
        )


class _Mean:
    """The running mean of the utilities of finished tasks."""

    def __init__(self, centred: bool) -> None:
        self._centred, self._mean, self._count = centred, 0.0, 0

    def centre(self, reward: Any, finished: Any, utility: Any) -> Any:
        """Returns the rewards less the mean for each task that finished, then counts these."""
        if not self._centred:
            return reward
        paid = reward - np.where(finished, self._mean, 0.0)
        number = int(np.sum(finished))
        if number:
            self._count += number
            total = float(np.sum(np.where(finished, utility, 0.0)))
            self._mean += (total - number * self._mean) / self._count
        return paid


class _One:
    """What a `gymnasium.Env` leaves to its subclasses."""

    np_random: np.random.Generator

    def __init__(self, env: Env, params: Any, centred: bool) -> None:
        spaces = needed("gymnasium.spaces", "gymnasium")
        self.observation_space = spaces.Box(0.0, 1.0, env.observation_shape, np.float32)
        self.action_space = spaces.Discrete(env.n_actions)
        self._env, self._params, self._state = env, params, None
        self._mask, self._mean = np.ones(env.n_actions, bool), _Mean(centred)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        base: Any = super()
        base.reset(seed=seed)
        _require_no_options(options)
        start = np.uint32(self.np_random.integers(_SEEDS))
        self._state, view = _start_one(self._env, start, self._params)
        observation, self._mask = _owned(view)
        return observation, {"action_mask": self._mask.astype(np.int8)}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self._state is None:
            raise needed("gymnasium.error", "gymnasium").ResetNeeded(
                "step before reset; call reset() first"
            )
        if not 0 <= action < self._env.n_actions:
            raise ValueError(f"step: action = {action}; allowed: 0 to {self._env.n_actions - 1}")
        self._state, view = _move_one(self._env, self._state, np.int32(action), self._params)
        observation, self._mask, reward, terminated, truncated, *task = _owned(view)
        reward = self._mean.centre(reward, *task)
        info = {"action_mask": self._mask.astype(np.int8)}
        return observation, float(reward), bool(terminated), bool(truncated), info

    def action_masks(self) -> np.ndarray:
        return self._mask


class _Many:
    """What a `gymnasium.vector.VectorEnv` leaves to its subclasses."""

    np_random: np.random.Generator

    def __init__(self, env: Env, params: Any, n_envs: int, autoreset: str, centred: bool) -> None:
        spaces = needed("gymnasium.spaces", "gymnasium")
        vector = needed("gymnasium.vector", "gymnasium")
        if autoreset not in ("NextStep", "SameStep"):
            raise ValueError(
                f"gymnasium_vector: autoreset = {autoreset!r}; allowed: NextStep, SameStep"
            )
        self.num_envs, self._same_step = n_envs, autoreset == "SameStep"
        self.metadata = {"autoreset_mode": vector.AutoresetMode(autoreset), "render_modes": []}
        self.single_observation_space = spaces.Box(0.0, 1.0, env.observation_shape, np.float32)
        self.single_action_space = spaces.Discrete(env.n_actions)
        batched = needed("gymnasium.vector.utils", "gymnasium").batch_space
        self.observation_space = batched(self.single_observation_space, n_envs)
        self.action_space = batched(self.single_action_space, n_envs)
        self._env, self._params, self._state, self._mean = env, params, None, _Mean(centred)
        self._mask, self._over = np.ones((n_envs, env.n_actions), bool), np.zeros(n_envs, bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        base: Any = super()
        base.reset(seed=seed)
        _require_no_options(options)
        self._state, view = _start_many(self._env, self._seeds(), self._params)
        observation, self._mask = _owned(view)
        self._over = np.zeros(self.num_envs, bool)
        return observation, self._info(self._mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        if self._state is None:
            raise needed("gymnasium.error", "gymnasium").ResetNeeded(
                "step before reset; call reset() first"
            )
        actions = np.asarray(actions)
        if (
            actions.shape != (self.num_envs,)
            or not ((actions >= 0) & (actions < self._env.n_actions)).all()
        ):
            allowed = f"{self.num_envs} numbers from 0 to {self._env.n_actions - 1}"
            raise ValueError(
                f"step: actions = {actions} of shape {actions.shape}; allowed: {allowed}"
            )
        self._state, view = _move_many(
            self._env, self._state, actions.astype(np.int32), self._params
        )
        observation, self._mask, reward, terminated, truncated, *task = _owned(view)
        reward = self._mean.centre(reward, *task)
        if self._same_step:
            over, final = terminated | truncated, self._final(observation, terminated | truncated)
            observation = self._restart(over, view[:2]) if final else observation
            return (
                observation,
                reward.astype(float),
                terminated,
                truncated,
                final | self._info(self._mask),
            )
        if self._over.any():
            observation = self._restart(self._over, view[:2])
            for array in (reward, terminated, truncated):
                array[self._over] = 0
        self._over = terminated | truncated
        return observation, reward.astype(float), terminated, truncated, self._info(self._mask)

    def action_masks(self) -> np.ndarray:
        return self._mask

    def _seeds(self) -> np.ndarray:
        return self.np_random.integers(_SEEDS, size=self.num_envs, dtype=np.uint32)

    def _restart(self, over: np.ndarray, view: Any) -> np.ndarray:
        """Starts those that are over anew; returns the observations. view: observations, masks."""
        self._state, view = _restart_many(
            self._env, self._seeds(), over, (self._state, view), self._params
        )
        observation, self._mask = _owned(view)
        return observation

    def _info(self, mask: np.ndarray) -> dict[str, Any]:
        """Each entry has another with an underscore: the environments that it is of."""
        return {"action_mask": mask.astype(np.int8), "_action_mask": np.ones(self.num_envs, bool)}

    def _final(self, observation: np.ndarray, over: np.ndarray) -> dict[str, Any]:
        """What Gymnasium's own vectors report of environments that ended in this step; empty where
        none did.
        """
        if not over.any():
            return {}
        last = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(over):
            last[i] = observation[i]
        mask = np.where(over[:, None], self._mask, False).astype(np.int8)
        final_info = {"action_mask": mask, "_action_mask": over.copy()}
        return {
            "final_obs": last,
            "_final_obs": over.copy(),
            "final_info": final_info,
            "_final_info": over.copy(),
        }
