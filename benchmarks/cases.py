"""What `benchmarks.speed` times: every environment, twin, bound and learner, at a batch size.

Worlds are shipped scenarios on banks of up to 16 rows of 8,192 slots, which fit a cache.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxcoinfer
from benchmarks.harness import coins, unroll
from benchmarks.multi_user import action_of
from jaxcoinfer.learn import dqn, ppo, sac
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import bound as dual
from jaxcoinfer.systems.fleet import env as fleet
from jaxcoinfer.systems.fleet import network as fleet_network
from jaxcoinfer.systems.fleet import twin as fleet_twin
from jaxcoinfer.systems.multi_user import network as multi_user_network
from jaxcoinfer.systems.on_demand import bound as on_demand_bound
from jaxcoinfer.systems.on_demand import twin as on_demand_twin
from jaxcoinfer.systems.on_demand.policies import outcomes
from jaxcoinfer.systems.stopping import continuation_value, differential_value
from jaxcoinfer.systems.stopping.bounds import dynamic_program, isolated
from jaxcoinfer.systems.stopping.bounds import exact as stopping_bound
from jaxcoinfer.systems.stopping.twin import workload

STEPS, TURNS = 256, 16  # of a loop that is timed: of steps, and of what takes longer
SINGLE = ("reference", "wifi", "camera", "on-demand-markov")  # worlds of one device
MANY = ("fleet", "fleet-cloud")  # worlds of many devices that all decide


class Case(NamedTuple):
    """What is timed, and where it has no loop inside, what its operations are counted on."""

    name: str
    items: int  # that one call of `loop(*arguments)` makes
    loop: Callable
    arguments: tuple
    once: Callable | None = None  # one turn of the loop, whose bytes and FLOP are counted
    once_arguments: tuple = ()
    once_items: int = 1  # that one call of `once(*once_arguments)` makes
    turns: int = 1  # of the loop, in one call of `loop(*arguments)`


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
    """Steps under random actions that leave the observation in memory; no restarts, as a step costs
    the same when an environment is done.

    An item is a decision; in `multi-user`, the decisions of all users in a slot. Worlds of many
    devices are timed up to 16,384 replicas.
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
    """items: per step; 0 where a step has a loop inside, whose operations cannot be counted, and
    which is one item per replica.
    """
    state, first = starts(env, params, size)

    def once(state: Any, seeds: jax.Array, params: Any) -> tuple:
        seeds = coins(seeds)
        state, timestep = jax.vmap(env.step, (0, 0, None))(state, action(seeds), params)
        return state, seeds, timestep.observation, timestep.reward

    def loop(state: Any, seeds: jax.Array, params: Any) -> tuple:
        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            state, seeds, _, total = carry
            state, seeds, observation, reward = once(state, seeds, params)
            return (state, seeds, observation, total + reward), None

        begin = (state, seeds, first.observation, jnp.zeros(size))
        return jax.lax.scan(step, begin, None, length=n_steps, unroll=unroll() if items else 1)[0]

    n_steps = STEPS if items else TURNS
    arguments = (state, jax.random.bits(jax.random.key(2), shape), params)
    case = Case(f"{name} step", (items or size) * n_steps, loop, arguments, turns=n_steps)
    return case._replace(once=once, once_arguments=arguments, once_items=items) if items else case


def _null(size: int) -> Case:
    def once(state: tuple, seeds: jax.Array) -> tuple:
        seeds = coins(seeds)
        x = (seeds >> jnp.uint32(9)).astype(jnp.float32)
        return tuple(0.9 * leaf + x for leaf in state), seeds, state[0] + x

    def loop(state: tuple, seeds: jax.Array) -> tuple:
        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            state, seeds, total = carry
            state, seeds, reward = once(state, seeds)
            return (state, seeds, total + reward), None

        return jax.lax.scan(step, (state, seeds, jnp.zeros(size)), None, length=STEPS)[0]

    arguments = (tuple(jnp.zeros(size) for _ in range(8)), jnp.arange(size, dtype=jnp.uint32))
    return Case("null step", size * STEPS, loop, arguments, once, arguments, size, STEPS)


def twins(size: int) -> Iterator[Case]:
    """Outcomes of every choice: of one task per device, or of every device in a slot."""

    def replayed(state: Any, params: Any, env: Any) -> tuple[Any, jax.Array]:
        replay = jax.vmap(workload.evaluate, (None, 0, None))(env, state, params)
        choice = jnp.argmax(replay.choices.value, axis=-1).astype(jnp.int32)
        return jax.vmap(workload.follow, (0, 0, None))(
            replay, choice, params
        ), replay.choices.utility.sum()

    yield _twin("workload twin", "camera", size, replayed, lambda env: env.n_choices)

    def priced(state: Any, params: Any, env: Any) -> tuple[Any, jax.Array]:
        choices = jax.vmap(on_demand_twin.evaluate, (None, 0, None))(env, state, params)
        best = jnp.argmax(choices.utility, axis=-1).astype(jnp.int32)
        return jax.vmap(env.step, (0, 0, None))(state, best, params)[0], choices.utility.sum()

    yield _twin("on-demand twin", "on-demand-markov", size, priced, lambda env: env.n_actions)

    def changed(state: Any, params: Any, env: Any) -> tuple[Any, jax.Array]:
        valid = jax.vmap(env.mask, (0, None))(state, params)
        choices = jnp.argmax(valid, -1).astype(jnp.int32)
        cost = jax.vmap(fleet_twin.evaluate, (None, 0, None, 0))(env, state, params, choices)
        best = jnp.argmin(cost, axis=-1).astype(jnp.int32)
        return jax.vmap(env.step, (0, 0, None))(state, best, params)[0], jnp.where(
            valid, cost, 0.0
        ).sum()

    yield _twin("fleet twin", "fleet", size, changed, lambda env: env.n_devices * env.n_choices)


def _twin(
    name: str, scenario: str, size: int, once: Callable, outcomes_of: Callable[[Any], int]
) -> Case:
    env, params = world(scenario)
    arguments = (starts(env, params, size)[0], params)
    items = size * outcomes_of(env)

    def one(state: Any, params: Any) -> tuple[Any, jax.Array]:
        return once(state, params, env)

    def loop(state: Any, params: Any) -> tuple:
        def task(carry: tuple, _: None) -> tuple[tuple, None]:
            state, total = carry
            state, utility = one(state, params)
            return (state, total + utility), None

        return jax.lax.scan(task, (state, jnp.float32(0)), None, length=TURNS)[0]

    return Case(name, TURNS * items, loop, arguments, one, arguments, items, TURNS)


def bounds(size: int) -> Iterator[Case]:
    """The isolated bound of every task of a world, at size 1, and the dual bound of fleet slots."""
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
    solve = jax.vmap(lambda state, params: dual.solve(fleet.tables(state.now, params)), (0, None))
    yield Case("dual bound", size, solve, (starts(env, params, size)[0], params))


def optima() -> dict[str, Callable[[], Any]]:
    """Functions that compute one exact optimum each."""
    model = stopping_bound.model_of(registry.load_scenario("reference-busy"))
    scenario: Any = registry.load_scenario("on-demand-markov")
    env, params = jaxcoinfer.make(scenario)
    assert model is not None
    return {
        "reference-busy optimum": lambda: dynamic_program.solve(model),
        "on-demand-markov optimum": lambda: on_demand_bound.solve(scenario, env, params),
    }


def learners(size: int) -> Iterator[Case]:
    """Whole trainings on `size` environments; an item is a step, slot or task."""
    of_tasks: dict[str, Any] = {"n_evaluations": 1, "evaluation_devices": 1, "evaluation_tasks": 1}
    config: Any = continuation_value.Config(**of_tasks, n_devices=size, updates_per_evaluation=50)
    yield _learner("continuation value", continuation_value, "camera", config, 50 * size)
    config = differential_value.Config(**of_tasks, n_pairs=size, updates_per_evaluation=2)
    yield _learner(
        "differential value", differential_value, "camera", config, 2 * config.block_tasks * size
    )
    shared: dict[str, Any] = {
        "n_evaluations": 1,
        "evaluation_envs": 1,
        "evaluation_steps": 1,
        "n_envs": size,
    }
    for name, module in (("soft actor-critic", sac), ("deep Q", dqn)):
        config = module.Config(
            **shared, n_steps=1, updates_per_evaluation=20, buffer_size=max(1 << 13, 2 * size)
        )
        yield _learner(name, module, "on-demand-markov", config, 20 * size, outcomes=outcomes)
    rolled = {**shared, "n_steps": 8, "updates_per_evaluation": 2}
    yield _learner(
        "proximal policy",
        ppo,
        "on-demand-markov",
        ppo.Config(**rolled),
        16 * size,
        outcomes=outcomes,
    )
    for name, module in (("fleet", fleet_network), ("multi-user", multi_user_network)):
        config = ppo.Config(**rolled, view=module.view, network=module.network, twin=False)
        yield _learner(f"{name} policy", ppo, name, config, 16 * size)


def _learner(name: str, module: Any, scenario: str, config: Any, items: int, **given: Any) -> Case:
    env, params = world(scenario)

    def train(key: jax.Array, params: Any) -> Any:
        return module.train(key, params, module.Hyper(), env=env, config=config, **given).weights

    return Case(name, items, train, (jax.random.key(3), params))
