"""Who is compared in `stopping`: learners and rivals by name."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.agents import contvalue, differential
from jaxcoinfer.envs.stopping import Stopping
from jaxcoinfer.envs.stopping_params import Params
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
