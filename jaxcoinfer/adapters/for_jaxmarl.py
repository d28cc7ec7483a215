"""JaxMARL: the devices of a `fleet` as agents that share a reward."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.adapters.extras import needed
from jaxcoinfer.systems.fleet.env import Fleet, FleetState, observe


def jaxmarl_env(env: Fleet, params: Any) -> Any:
    """Returns a fleet as JaxMARL's `MultiAgentEnv`: each device is an agent that takes a choice,
    and all share one reward.

    Observations [F], masks [C] and actions are dicts by agent; the state is that of the fleet, with
    arrays [D]. A device without a task observes zeros and has one available action, which changes
    nothing. A step that ends resets, as JaxMARL's own do, and `dones` holds for both kinds of end.
    The params are constants of what is compiled. Raises TypeError for anything but a fleet without
    learned shares, ImportError where jaxmarl is not installed.
    """
    if not isinstance(env, Fleet) or env.learned_shares:
        raise TypeError(f"{env} has no JaxMARL face; allowed: a Fleet without learned_shares")
    return _team_class()(env, params)


@cache
def _team_class() -> Any:
    return type("JaxmarlEnv", (_Team, needed("jaxmarl.environments", "jaxmarl").MultiAgentEnv), {})


class _Team:
    """What a `MultiAgentEnv` leaves to its subclasses; its `step` is JaxMARL's own."""

    def __init__(self, env: Fleet, params: Any) -> None:
        base: Any = super()
        base.__init__(num_agents=env.n_devices)
        self.agents: list[str] = [f"agent_{i}" for i in range(env.n_devices)]
        spaces = needed("jaxmarl.environments.spaces", "jaxmarl")
        observations = spaces.Box(0.0, 1.0, env.observation_shape[1:])
        choices = spaces.Discrete(env.n_choices)
        self.observation_spaces = dict.fromkeys(self.agents, observations)
        self.action_spaces = dict.fromkeys(self.agents, choices)
        self._env, self._params = env, params

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        return {"device": self.agents}

    @partial(jax.jit, static_argnums=0)
    def reset(self, key: jax.Array) -> tuple[dict[str, jax.Array], FleetState]:
        state, timestep = self._env.reset(key, self._params)
        return self._by_agent(timestep.observation), state

    def step_env(
        self, key: jax.Array, state: FleetState, actions: dict[str, jax.Array]
    ) -> tuple[Any, ...]:
        choice = jnp.stack([jnp.asarray(actions[agent], jnp.int32) for agent in self.agents])
        state, timestep = self._env.step(state, choice, self._params)
        over = timestep.terminated | timestep.truncated
        rewards, dones = (dict.fromkeys(self.agents, value) for value in (timestep.reward, over))
        return self._by_agent(timestep.observation), state, rewards, dones | {"__all__": over}, {}

    def get_obs(self, state: FleetState) -> dict[str, jax.Array]:
        return self._by_agent(observe(self._env, state, self._params))

    @partial(jax.jit, static_argnums=0)
    def get_avail_actions(self, state: FleetState) -> dict[str, jax.Array]:
        return self._by_agent(self._env.mask(state, self._params))

    def _by_agent(self, values: jax.Array) -> dict[str, jax.Array]:
        return {agent: values[i] for i, agent in enumerate(self.agents)}
