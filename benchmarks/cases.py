"""What `benchmarks.speed` times: every environment, twin, bound and learner, at a batch size.

Worlds are shipped scenarios on banks of at most 16 rows of 8,192 slots, which fit a cache.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxcoinfer
from benchmarks.harness import UNROLL, coins
from benchmarks.multi_user import action_of
from jaxcoinfer.learn import dqn, ppo, sac
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import bound as dual
from jaxcoinfer.systems.fleet import env as fleet
from jaxcoinfer.systems.fleet import network as fleet_actor
from jaxcoinfer.systems.fleet import twin as fleet_twin
from jaxcoinfer.systems.multi_user import network as multi_user_actor
from jaxcoinfer.systems.on_demand import bound as on_demand_bound
from jaxcoinfer.systems.on_demand import twin as on_demand_twin
from jaxcoinfer.systems.on_demand.policies import outcomes
from jaxcoinfer.systems.stopping import continuation_value, differential_value
from jaxcoinfer.systems.stopping.bounds import dynamic_program, isolated
from jaxcoinfer.systems.stopping.bounds import exact as stopping_bound
from jaxcoinfer.systems.stopping.twin import workload

STEPS = 256  # of a loop that is timed
SINGLE = ("reference", "wifi", "camera", "on-demand-markov")  # worlds of one device
MANY = ("fleet", "fleet-cloud")  # of many, each of which decides


class Case(NamedTuple):
    """What is timed: `loop(*arguments)` makes `items`; once: `once(*once_arguments)` makes
    once_items, counted.
    """

    name: str
    items: int
    loop: Callable
    arguments: tuple
    once: Callable | None = None
    once_arguments: tuple = ()
    once_items: int = 1


def world(name: str) -> tuple[Any, Any]:
    """Environment and numbers of a shipped scenario on a bank that fits a cache."""
    scenario: Any = registry.load_scenario(name)
    if hasattr(scenario, "slots"):
        scenario = dataclasses.replace(
            scenario, rows=min(scenario.rows, 16), slots=min(scenario.slots, 8192)
        )
    return jaxcoinfer.make(scenario)


def starts(env: Any, params: Any, size: int) -> tuple[Any, Any]:
    """State and time step of a batch."""
    return jax.jit(jax.vmap(env.reset, (0, None)))(
        jax.random.split(jax.random.key(1), size), params
    )


def environments(size: int) -> Iterator[Case]:
    """Steps under random actions that leave the observation in memory; no restarts, as ended ones
    cost the same.

    An item is a decision, in `multi-user` those of all users of a slot. Worlds of many devices end
    at 16,384 replicas.
    """
    yield _null(size)
    for name in SINGLE:
        env, params = world(name)
        yield _steps(name, env, params, size, (size,), _index(env), size)
    if size > 16384:
        return
    for name in MANY:
        env, params = world(name)
        yield _steps(
            name, env, params, size, (size, env.n_devices), _index(env), size * env.n_devices
        )
    env, params = world("multi-user")
    yield _steps(
        "multi-user",
        env,
        params,
        size,
        (size, env.n_users),
        lambda seeds: jax.vmap(action_of, (0, None))(seeds, env),
    )


def _index(env: Any) -> Callable:
    return lambda seeds: ((seeds >> jnp.uint32(16)) % jnp.uint32(env.n_actions)).astype(jnp.int32)


def _steps(
    name: str, env: Any, params: Any, size: int, shape: tuple, action: Callable, items: int = 0
) -> Case:
    """items: 0 where a step has a loop inside, whose operations cannot be counted; it then is one
    item.
    """
    state, first = starts(env, params, size)

    def once(state, seeds, params):
        seeds = coins(seeds)
        state, timestep = jax.vmap(env.step, (0, 0, None))(state, action(seeds), params)
        return state, seeds, timestep.observation, timestep.reward

    def loop(state, seeds, params):
        def step(carry, _):
            state, seeds, _, total = carry
            state, seeds, observation, reward = once(state, seeds, params)
            return (state, seeds, observation, total + reward), None

        begin = (state, seeds, first.observation, jnp.zeros(size))
        return jax.lax.scan(step, begin, None, length=n_steps, unroll=UNROLL if items else 1)[0]

    n_steps = STEPS if items else 16
    given = (state, jax.random.bits(jax.random.key(2), shape), params)
    whole = Case(f"{name} step", (items or size) * n_steps, loop, given)
    return whole._replace(once=once, once_arguments=given, once_items=items) if items else whole


def _null(size: int) -> Case:
    def once(state, seeds):
        seeds = coins(seeds)
        x = (seeds >> jnp.uint32(9)).astype(jnp.float32)
        return tuple(0.9 * leaf + x for leaf in state), seeds, state[0] + x

    def loop(state, seeds):
        def step(carry, _):
            state, seeds, total = carry
            state, seeds, seen = once(state, seeds)
            return (state, seeds, total + seen), None

        return jax.lax.scan(step, (state, seeds, jnp.zeros(size)), None, length=STEPS)[0]

    given = (tuple(jnp.zeros(size) for _ in range(8)), jnp.arange(size, dtype=jnp.uint32))
    return Case("null step", size * STEPS, loop, given, once, given, size)


def twins(size: int) -> Iterator[Case]:
    """Outcomes of every choice of a task a device, or of every device of a slot."""

    def replayed(state, params, env):
        replay = jax.vmap(workload.evaluate, (None, 0, None))(env, state, params)
        choice = jnp.argmax(replay.choices.value, axis=-1).astype(jnp.int32)
        return jax.vmap(workload.follow, (0, 0, None))(
            replay, choice, params
        ), replay.choices.utility.sum()

    yield _asked("workload twin", "camera", size, replayed, lambda env: env.n_choices)

    def priced(state, params, env):
        choices = jax.vmap(on_demand_twin.evaluate, (None, 0, None))(env, state, params)
        best = jnp.argmax(choices.utility, axis=-1).astype(jnp.int32)
        return jax.vmap(env.step, (0, 0, None))(state, best, params)[0], choices.utility.sum()

    yield _asked("on-demand twin", "on-demand-markov", size, priced, lambda env: env.n_actions)

    def changed(state, params, env):
        valid = jax.vmap(env.mask, (0, None))(state, params)
        cost = jax.vmap(fleet_twin.evaluate, (0, 0, None))(
            state, jnp.argmax(valid, -1).astype(jnp.int32), params
        )
        best = jnp.argmin(cost, axis=-1).astype(jnp.int32)
        return jax.vmap(env.step, (0, 0, None))(state, best, params)[0], jnp.where(
            valid, cost, 0.0
        ).sum()

    yield _asked("fleet twin", "fleet", size, changed, lambda env: env.n_devices * env.n_choices)


def _asked(
    name: str, scenario: str, size: int, once: Callable, outcomes_of: Callable[[Any], int]
) -> Case:
    env, params = world(scenario)
    given = (starts(env, params, size)[0], params)
    items = size * outcomes_of(env)

    def one(state, params):
        return once(state, params, env)

    def loop(state, params):
        def task(carry, _):
            state, total = carry
            state, seen = one(state, params)
            return (state, total + seen), None

        return jax.lax.scan(task, (state, jnp.float32(0)), None, length=16)[0]

    return Case(name, 16 * items, loop, given, one, given, items)


def bounds(size: int) -> Iterator[Case]:
    """The bound of every task of a world, whatever the size, and of slots of a fleet."""
    env, params = world("wifi")
    if size == 1:
        n_tasks = params.bank.arrival_slot.size
        yield Case(
            "isolated bound",
            n_tasks,
            lambda params, env=env: isolated.utility(env, params),
            (params,),
        )
    env, params = world("fleet")
    solve = jax.vmap(lambda state, params: dual.solve(fleet.tables(state, params)), (0, None))
    yield Case("dual bound", size, solve, (starts(env, params, size)[0], params))


def optima() -> dict[str, Callable[[], Any]]:
    """The exact optima: functions that find one each."""
    model = stopping_bound.model_of(registry.load_scenario("reference-busy"))
    scenario: Any = registry.load_scenario("on-demand-markov")
    env, params = jaxcoinfer.make(scenario)
    assert model is not None
    return {
        "reference-busy optimum": lambda: dynamic_program.solve(model),
        "on-demand-markov optimum": lambda: on_demand_bound.of(scenario, env, params),
    }


def learners(size: int) -> Iterator[Case]:
    """Whole training on `size` environments, steps, slots or tasks a second."""
    of_tasks: dict[str, Any] = {"n_evaluations": 1, "evaluation_devices": 1, "evaluation_tasks": 1}
    config: Any = continuation_value.Config(**of_tasks, n_devices=size, updates_per_evaluation=50)
    yield _learner("continuation value", continuation_value, "camera", config, 50 * size)
    config = differential_value.Config(**of_tasks, n_pairs=size, updates_per_evaluation=2)
    yield _learner(
        "differential value", differential_value, "camera", config, 2 * config.block_tasks * size
    )
    look: dict[str, Any] = {
        "n_evaluations": 1,
        "evaluation_envs": 1,
        "evaluation_steps": 1,
        "n_envs": size,
    }
    for name, module in (("soft actor-critic", sac), ("deep Q", dqn)):
        config = module.Config(
            **look, n_steps=1, updates_per_evaluation=20, buffer_size=max(1 << 13, 2 * size)
        )
        yield _learner(name, module, "on-demand-markov", config, 20 * size, outcomes=outcomes)
    rolled = {**look, "n_steps": 8, "updates_per_evaluation": 2}
    yield _learner(
        "proximal policy",
        ppo,
        "on-demand-markov",
        ppo.Config(**rolled),
        16 * size,
        outcomes=outcomes,
    )
    for name, module in (("fleet", fleet_actor), ("multi-user", multi_user_actor)):
        config = ppo.Config(**rolled, view=module.view, network=module.network, twin=False)
        yield _learner(f"{name} policy", ppo, name, config, 16 * size)


def _learner(name: str, module: Any, scenario: str, config: Any, items: int, **given: Any) -> Case:
    env, params = world(scenario)

    def train(key, params):
        return module.train(key, params, module.Hyper(), env=env, config=config, **given).weights

    return Case(name, items, train, (jax.random.key(3), params))
