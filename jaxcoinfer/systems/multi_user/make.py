"""The draw of `multi-user`'s initial states, and the environment and numbers made of it.

Axes: K rows, U users.
"""

import jax
import jax.numpy as jnp

from jaxcoinfer.data.processes import Split
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.exogenous import InitialStates
from jaxcoinfer.systems.multi_user.params import MultiUserParams, make_params
from jaxcoinfer.systems.multi_user.scenario import MultiUserScenario, multi_user_numbers


def make(
    scenario: MultiUserScenario, key: jax.Array, *, split: Split = "train"
) -> tuple[MultiUser, MultiUserParams]:
    """Returns environment and numbers of a scenario; consumes the key. Nothing is recorded, so that
    both splits are alike.

    Raises ProfileError, ValueError.
    """
    numbers = multi_user_numbers(scenario)
    n_splits = len(numbers["compute_s"])
    starts = draw(key, scenario, n_splits)
    return MultiUser(scenario.users, scenario.channels, n_splits), make_params(starts, **numbers)


def draw(key: jax.Array, scenario: MultiUserScenario, n_splits: int) -> InitialStates:
    """Returns drawn starts: distances uniform, numbers of tasks Poisson but at least 1, split and
    channel of the first task uniform.

    Consumes the key.
    """
    key_distance, key_tasks, key_split, key_channel = jax.random.split(key, 4)
    shape = (scenario.rows, scenario.users)
    nearest_m, farthest_m = scenario.radio.distances_m
    tasks = jax.random.poisson(key_tasks, scenario.tasks, shape, jnp.int32)
    return InitialStates(
        distance_m=jax.random.uniform(key_distance, shape, jnp.float32, nearest_m, farthest_m),
        tasks=jnp.maximum(tasks, 1),
        split=jax.random.randint(key_split, shape, 0, n_splits, jnp.int32),
        channel=jax.random.randint(key_channel, shape, 0, scenario.channels, jnp.int32),
    )
