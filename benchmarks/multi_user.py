"""How many slots a second: `multi-user` under random actions, beside the plain-Python reference, in
one run.

    python -m benchmarks.multi_user [--sizes 64 128 256 512 1024 4096] [--devices 2]

Both play episodes of the shipped scenario from drawn starts, with splits, channels and powers drawn
uniformly in every slot, look at every observation, and start afresh what has ended. The reference
(`tests/reference/multi_user.py`) runs in one process for two seconds before and after each size.
`--devices` divides the batch among as many CPU devices, in each of which the loop over events waits
for its own replicas only; on a GPU leave it at 1.
"""

import argparse
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

import jaxcoinfer
from benchmarks.harness import coins
from jaxcoinfer.core.rollout import restart_ended
from jaxcoinfer.systems.multi_user.env import MultiUser, UsersAction
from jaxcoinfer.systems.multi_user.params import MultiUserParams
from tests.reference import multi_user as reference
from training.common import measure, record

SLOTS_PER_CALL = 1 << 15
BLOCK = 16  # slots between restarts of ended episodes
PYTHON_S = 2.0


def action_of(seeds: jax.Array, env: MultiUser) -> UsersAction:
    """A split, a channel and a power of 2^-24 to 1 W from three parts of pseudo-random bits, uint32
    [U].
    """
    parts = (
        seeds >> jnp.uint32(29),
        (seeds >> jnp.uint32(20)) & jnp.uint32(511),
        (seeds >> jnp.uint32(8)) + 1,
    )
    split, channel, power = (part.astype(jnp.int32) for part in parts)
    return UsersAction(
        split % env.n_splits, channel % env.n_channels, power.astype(jnp.float32) * 2.0**-24
    )


def slots_loop(env: MultiUser, n_envs: int, n_blocks: int):
    """A function (key, params) -> sums over n_blocks × BLOCK slots of n_envs environments."""

    def loop(key, params):
        key_start, key_run = jax.random.split(key)
        start = jax.vmap(env.reset, (0, None))(jax.random.split(key_start, n_envs), params)
        seeds = jax.random.bits(key_run, (n_envs, env.n_users))

        def slot(carry, _):
            state, timestep, seeds, total = carry
            seeds = coins(seeds)
            actions = jax.vmap(action_of, (0, None))(seeds, env)
            state, timestep = jax.vmap(env.step, (0, 0, None))(state, actions, params)
            seen = timestep.reward + timestep.observation.sum(axis=(1, 2))
            return (state, timestep, seeds, total + jnp.stack([seen, _tasks(timestep)])), None

        def block(carry, key):
            (state, timestep, *rest), _ = jax.lax.scan(slot, carry, None, length=BLOCK)
            return (*restart_ended(env, params, key, state, timestep), *rest), None

        carry = (*start, seeds, jnp.zeros((2, n_envs)))
        return jax.lax.scan(block, carry, jax.random.split(key_run, n_blocks))[0][-1]

    return loop


def _tasks(timestep) -> jax.Array:
    return timestep.outcome.tasks.sum(axis=1).astype(jnp.float32)


def on_devices(loop, n_devices: int):
    """The same loop on every device, each with a key and a part of the batch of its own."""
    mesh = jax.make_mesh((n_devices,), ("replicas",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("replicas"), PartitionSpec()

    def part(keys, params):
        return loop(keys[0], params)[None]

    return jax.shard_map(part, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)


def python_slots_per_s(params: MultiUserParams, env: MultiUser, seconds: float, seed: int) -> float:
    """Slots a second of the plain-Python reference; as many episodes as the time allows."""
    numbers = {name: getattr(params, name) for name in ("compute_s", "compute_w", "upload_bits")}
    system = reference.System(
        **{name: np.asarray(value, np.float64).tolist() for name, value in numbers.items()}
    )
    starts = [np.asarray(x).tolist() for x in (params.bank.distance_m, params.bank.tasks)]
    firsts = [np.asarray(x).tolist() for x in (params.bank.split, params.bank.channel)]
    drawn, users = random.Random(seed), range(env.n_users)
    slots, over, world, begin_s = 0, True, None, time.perf_counter()
    while time.perf_counter() - begin_s < seconds:
        if over or world is None:
            row = drawn.randrange(params.bank.n_rows)
            world = reference.begin(system, *(x[row] for x in (*starts, *firsts)))
        splits = [drawn.randrange(env.n_splits) for _ in users]
        channels = [drawn.randrange(env.n_channels) for _ in users]
        _, over = reference.step(world, splits, channels, [1e-10 + drawn.random() for _ in users])
        reference.observe(world)
        slots += 1
    return slots / (time.perf_counter() - begin_s)


def main() -> None:
    """Measures every size and appends one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 4096])
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    env, params = jaxcoinfer.make("multi-user")
    for size in options.sizes:
        each = size // options.devices
        n_blocks = max(1, SLOTS_PER_CALL // (size * BLOCK))
        slots = each * options.devices * n_blocks * BLOCK
        loop = on_devices(slots_loop(env, each, n_blocks), options.devices)
        keys = jax.random.split(jax.random.key(1), options.devices)
        before = python_slots_per_s(params, env, PYTHON_S, seed=size)
        timed = measure("multi-user", loop, keys, params, repeats=options.repeats)
        after = python_slots_per_s(params, env, PYTHON_S, seed=size + 1)
        line = {
            "n_envs": size,
            "devices": options.devices,
            "slots": slots,
            "compile_s": timed["compile_s"],
        }
        line |= {
            "slots_per_s": slots / timed["median_s"],
            "python_slots_per_s": (before + after) / 2,
        }
        record(
            "multi_user", line | {"times_python": line["slots_per_s"] / line["python_slots_per_s"]}
        )


if __name__ == "__main__":
    main()
