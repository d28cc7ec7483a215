"""How fast every environment, twin, bound and learner is, and how far from what the machine could do at most.

    python -m benchmarks.speed [environments twins bounds learners] [--sizes 1 64 1024 16384] [--only NAME]

A line for each and size: items a second (decisions, outcomes, bounds, learned steps), seconds to compile, memory of the
program, and for what has no loop inside bytes and FLOP of an item with the shares of the machine's limits they reach.
`null` is a step that does next to nothing: the ceiling of any environment here. The same on CPU and GPU.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxcoinfer
from benchmarks import limits
from benchmarks.harness import measure, record
from jaxcoinfer import scenarios
from jaxcoinfer.agents import contvalue, differential, dqn, ppo, sac
from jaxcoinfer.bounds import alone, dual, dynamic_program
from jaxcoinfer.bounds import stopping as exact
from jaxcoinfer.envs import fleet
from jaxcoinfer.runs.contenders_on_demand import outcomes
from jaxcoinfer.twin import on_demand as on_demand_twin
from jaxcoinfer.twin import workload

STEPS = 256  # of a loop that is timed
UNROLL = 2  # steps a turn of it: every other step then need not copy what it carries
STEPPED = ("reference", "wifi", "camera", "on-demand-markov", "fleet")


class Work(NamedTuple):
    """What is timed: `loop(*arguments)` makes `items`; once: `once(*once_arguments)` makes once_items, counted."""

    name: str
    items: int
    loop: Callable
    arguments: tuple
    once: Callable | None = None
    once_arguments: tuple = ()
    once_items: int = 1


def coins(seeds: jax.Array) -> jax.Array:
    """One step of a 32-bit linear congruential generator, uint32."""
    return seeds * jnp.uint32(1664525) + jnp.uint32(1013904223)


def world(name: str) -> tuple[Any, Any]:
    """A shipped scenario on a bank of at most 16 rows of 8,192 slots, which fits a cache."""
    scenario = scenarios.load_scenario(name)
    rows, slots = min(scenario.rows, 16), min(scenario.slots, 8192)
    return jaxcoinfer.make(dataclasses.replace(scenario, rows=rows, slots=slots))


def environments(size: int) -> Iterator[Work]:
    """Steps under random actions that leave the observation in memory; no restarts, as ended ones cost the same."""
    yield _null(size)
    for name in STEPPED:
        env, params = world(name)
        state, first = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(1), size), params)
        devices = env.n_devices if name == "fleet" else 0
        seeds = jax.random.bits(jax.random.key(2), (size, devices) if devices else (size,))

        def once(state, seeds, params, env=env):
            seeds = coins(seeds)
            action = ((seeds >> jnp.uint32(16)) % jnp.uint32(env.n_actions)).astype(jnp.int32)
            state, timestep = jax.vmap(env.step, (0, 0, None))(state, action, params)
            return state, seeds, timestep.observation, timestep.reward

        def loop(state, seeds, params, observation=first.observation, once=once):
            def step(carry, _):
                state, seeds, _, total = carry
                state, seeds, observation, reward = once(state, seeds, params)
                return (state, seeds, observation, total + reward), None

            start = (state, seeds, observation, jnp.zeros(size))
            return jax.lax.scan(step, start, None, length=STEPS, unroll=UNROLL)[0]

        items = size * max(devices, 1)
        given = (state, seeds, params)
        yield Work(f"{name} step", items * STEPS, loop, given, once, given, items)


def _null(size: int) -> Work:
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
    return Work("null step", size * STEPS, loop, given, once, given, size)


def twins(size: int) -> Iterator[Work]:
    """Outcomes of every choice of a task a device."""
    env, params = world("camera")
    state, _ = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(1), size), params)

    def replayed(state, params, env=env):
        replay = jax.vmap(workload.evaluate, (None, 0, None))(env, state, params)
        choice = jnp.argmax(replay.choices.value, axis=-1).astype(jnp.int32)
        return jax.vmap(workload.follow, (0, 0, None))(replay, choice, params), replay.choices.utility.sum()

    items = size * env.n_choices
    yield Work("workload twin", items * 16, _repeated(replayed, 16), (state, params), replayed, (state, params), items)

    env, params = world("on-demand-markov")
    state, _ = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(1), size), params)

    def priced(state, params, env=env):
        choices = jax.vmap(on_demand_twin.evaluate, (None, 0, None))(env, state, params)
        best = jnp.argmax(choices.utility, axis=-1).astype(jnp.int32)
        return jax.vmap(env.step, (0, 0, None))(state, best, params)[0], choices.utility.sum()

    items = size * env.n_actions
    yield Work("on-demand twin", items * 16, _repeated(priced, 16), (state, params), priced, (state, params), items)


def _repeated(once: Callable, times: int) -> Callable:
    def loop(state, params):
        def task(carry, _):
            state, total = carry
            state, seen = once(state, params)
            return (state, total + seen), None

        return jax.lax.scan(task, (state, jnp.float32(0)), None, length=times)[0]

    return loop


def bounds(size: int) -> Iterator[Work]:
    """Bounds of all tasks of a world, and of slots of a fleet."""
    env, params = world("wifi")
    yield Work(
        "alone bound", params.bank.arrival_slot.size, lambda params, env=env: alone.utility(env, params), (params,)
    )
    env, params = world("fleet")
    state, _ = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(1), size), params)
    solve = jax.vmap(lambda state, params: dual.solve(fleet.tables(state, params)), (0, None))
    yield Work("dual bound", size, solve, (state, params))


def learners(size: int) -> Iterator[Work]:
    """Whole training on `size` environments, steps or tasks a second; fleets and users have recipes of their own."""
    key = jax.random.key(3)
    env, params = world("camera")
    look: dict[str, Any] = {"n_evaluations": 1, "evaluation_devices": 1, "evaluation_tasks": 1}
    config: Any = contvalue.Config(**look, n_devices=size, updates_per_evaluation=50)
    yield _learner("continuation value", contvalue, env, params, key, config, 50 * size)
    config = differential.Config(**look, n_pairs=size, updates_per_evaluation=2)
    yield _learner("differential value", differential, env, params, key, config, 2 * config.block_tasks * size)
    env, params = world("on-demand-markov")
    look = {"n_evaluations": 1, "evaluation_envs": 1, "evaluation_steps": 1, "n_envs": size}
    for name, module in (("soft actor-critic", sac), ("deep Q", dqn)):
        config = module.Config(**look, n_steps=1, updates_per_evaluation=20, memory=max(1 << 13, 2 * size))
        yield _learner(name, module, env, params, key, config, 20 * size, outcomes=outcomes)
    config = ppo.Config(**look, n_steps=16, updates_per_evaluation=2)
    yield _learner("proximal policy", ppo, env, params, key, config, 32 * size, outcomes=outcomes)


def _learner(name: str, module: Any, env: Any, params: Any, key: jax.Array, config: Any, items: int, **given) -> Work:
    def train(key, params):
        return module.train(key, params, module.Hyper(), env=env, config=config, **given).weights

    return Work(name, items, train, (key, params))


def optimum() -> None:
    """Appends one line: seconds of the exact optimum of `reference-busy`, states and sweeps."""
    model = exact.model_of(scenarios.load_scenario("reference-busy"))
    assert model is not None
    timed = measure_call(lambda: dynamic_program.solve(model))
    record("speed", {"kind": "bounds", "name": "dynamic program", "size": 1, "items_per_s": 1.0 / timed})


def measure_call(function: Callable) -> float:
    """Seconds of the second of two calls."""
    import time

    function()
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


KINDS = {"environments": environments, "twins": twins, "bounds": bounds, "learners": learners}


def main() -> None:
    """Measures what is asked for and appends a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 64, 1024, 16384])
    parser.add_argument("--only", metavar="NAME")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    limit = limits.limits()
    record("speed", {"kind": "limits", **limit})
    for kind in options.kinds:
        sizes = [size for size in options.sizes if kind != "learners" or 64 <= size <= 4096]
        for size in sizes:
            for work in KINDS[kind](size):
                if options.only in (None, work.name):
                    line = {"kind": kind, "name": work.name, "size": size}
                    record("speed", line | _line(work, size, limit, options.repeats))
    if "bounds" in options.kinds and options.only in (None, "dynamic program"):
        optimum()


def _line(work: Work, size: int, limit: dict[str, float], repeats: int) -> dict[str, Any]:
    timed = measure(work.name, work.loop, *work.arguments, repeats=repeats)
    per_s = work.items / timed["median_s"]
    line = {"items_per_s": per_s, "compile_s": timed["compile_s"], "memory_mib": timed["memory_mib"]}
    if work.once is None:
        return line
    counted = limits.count(work.once, work.once_items, size, *work.once_arguments)
    return line | limits.against(limit, per_s, counted)


if __name__ == "__main__":
    main()
