"""Who is compared: learners and rivals by name, and how all of them play in the same worlds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer import evaluate
from jaxcoinfer.agents import contvalue, differential
from jaxcoinfer.envs.stopping import Stopping
from jaxcoinfer.envs.stopping_params import Params
from jaxcoinfer.evaluate import Tasks
from jaxcoinfer.policies import stopping as rivals
from jaxcoinfer.rollout import Policy
from jaxcoinfer.twin import workload

# What learns: a module with `Config`, `Hyper`, `train` and `policy`. METHOD, the published one, is compared with itself
# without the twin; BEST is looked at and, by its `interface`, exported.
METHOD, BEST = "continuation value", "differential value"
LEARNERS: dict[str, Any] = {METHOD: contvalue, BEST: differential}
WITHOUT_TWIN = f"{METHOD}, no twin"  # of the learning curves
# What needs no learning, beside the best fixed point, for which the training draw is asked.
RIVALS: dict[str, Callable[[Stopping], Policy]] = {
    "one-time greedy": rivals.one_time_greedy,
    "one-time waiting": rivals.one_time_waiting,
    "adaptive waiting": rivals.adaptive_waiting,
    "neurosurgeon": rivals.neurosurgeon,
    "device only": lambda env: rivals.fixed(env.n_layers + 1),
    "edge only": lambda env: rivals.fixed(0),
    "random": lambda env: rivals.random_choice(),
    "clairvoyant": rivals.clairvoyant,
}
COMPARED = "one-time greedy"  # gains are differences to this one
EXACT = "exact optimum"
NOT_DEPLOYABLE = frozenset({"clairvoyant", EXACT})  # one knows the future, the other the law of the world


def rival_policies(env: Stopping, fixed: int) -> dict[str, Policy]:
    """Returns the policies that need no learning, by name; fixed: the choice of the best fixed point."""
    return {name: build(env) for name, build in RIVALS.items()} | {"best fixed point": rivals.fixed(fixed)}


def best_fixed(env: Stopping, params: Params, n_tasks: int = 512) -> int:
    """Returns the choice that, always taken, gives the most utility over the first n_tasks tasks of every row."""

    def play(params, row, choice):
        def task(state, _):
            replay = workload.evaluate(env, state, params)
            utility = jnp.where(state.done, 0.0, replay.choices.utility[choice])
            return workload.follow(replay, choice, params), (utility, ~state.done)

        state, _ = env.begin(row, jnp.int32(0), params)
        utility, counted = jax.lax.scan(task, state, length=n_tasks)[1]
        return utility.sum(), counted.sum()

    rows = jnp.arange(params.bank.n_rows, dtype=jnp.int32)
    choices = jnp.arange(env.n_choices, dtype=jnp.int32)
    each = jax.jit(jax.vmap(jax.vmap(play, (None, 0, None)), (None, None, 0)))
    total, count = (np.asarray(sums, np.float64).sum(axis=1) for sums in each(params, rows, choices))
    return int(np.argmax(total / np.maximum(count, 1)))


class World(struct.PyTreeNode):
    """Numbers of an environment, and which policy acts in it."""

    params: Params
    policy: jax.Array

    bank = property(lambda self: self.params.bank)


@dataclasses.dataclass(frozen=True)
class Shared:
    """An environment in which several policies act, one a world: the environment is compiled once for all of them."""

    env: Any  # whatever has the contract of `envs.types`
    policies: tuple[Policy, ...]

    def begin(self, row: jax.Array, slot: jax.Array, world: World) -> tuple[Any, Any]:
        return self.env.begin(row, slot, world.params)

    def step(self, state: Any, action: jax.Array, world: World) -> tuple[Any, Any]:
        return self.env.step(state, action, world.params)

    def act(self, key: jax.Array, state: Any, observation: jax.Array, world: World) -> jax.Array:
        """The policy of the world."""
        return jax.lax.switch(world.policy, self.policies, key, state, observation, world.params)


def play(
    env: Stopping, policies: Mapping[str, Policy], worlds: Sequence[Params], key: jax.Array
) -> dict[str, list[Tasks]]:
    """Returns by policy its tasks in each world (of equal shapes); consumes the key."""
    shared = Shared(env, tuple(policies.values()))
    all_worlds = [World(params, jnp.int32(i)) for i in range(len(policies)) for params in worlds]
    tasks = evaluate.run(shared, all_worlds, shared.act, key)
    return {name: tasks[i * len(worlds) :][: len(worlds)] for i, name in enumerate(policies)}
