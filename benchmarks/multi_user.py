"""How many slots per second: `multi-user` under random actions and the plain-Python simulator, in
one run.

    python -m benchmarks.multi_user [--sizes 64 128 256 512 1024 4096] [--devices 2]

Both play episodes of the shipped scenario from drawn starts, with splits, channels and powers drawn
uniformly in every slot, read every observation, and restart episodes that are done. The simulator
(`benchmarks/plain_multi_user.py`) runs in one process for two seconds before and after each size.
`--devices` divides the batch among as many CPU devices, in each of which the loop over events waits
for its own replicas only; on a GPU leave it at 1.
"""

import random
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

import jaxcoinfer
from benchmarks import plain_multi_user as plain
from benchmarks.harness import coins
from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.core.rollout import restart_ended
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.events import UsersAction, UsersState
from jaxcoinfer.systems.multi_user.params import MultiUserParams
from training.common import measure, parser, record

SLOTS_PER_CALL = 1 << 15
BLOCK = 16  # slots between restarts of ended episodes
PYTHON_S = 2.0  # of each measurement of the simulator

Loop = Callable[[jax.Array, MultiUserParams], jax.Array]
Carry = tuple[UsersState, TimeStep, jax.Array, jax.Array]  # and seeds, sums


def action_of(seeds: jax.Array, env: MultiUser) -> UsersAction:
    """Returns a split, a channel and a power of 2^-24 to 1 W from three parts of pseudo-random
    bits, uint32 [U].
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


def slots_loop(env: MultiUser, n_envs: int, n_blocks: int) -> Loop:
    """Returns a function (key, params) -> sums over n_blocks × BLOCK slots of n_envs
    environments.
    """

    def loop(key: jax.Array, params: MultiUserParams) -> jax.Array:
        key_start, key_run = jax.random.split(key)
        start = jax.vmap(env.reset, (0, None))(jax.random.split(key_start, n_envs), params)
        seeds = jax.random.bits(key_run, (n_envs, env.n_users))

        def slot(carry: Carry, _: None) -> tuple[Carry, None]:
            state, timestep, seeds, total = carry
            seeds = coins(seeds)
            actions = jax.vmap(action_of, (0, None))(seeds, env)
            state, timestep = jax.vmap(env.step, (0, 0, None))(state, actions, params)
            shown = timestep.reward + timestep.observation.sum(axis=(1, 2))
            return (state, timestep, seeds, total + jnp.stack([shown, _tasks(timestep)])), None

        def block(carry: Carry, key: jax.Array) -> tuple[Carry, None]:
            (state, timestep, seeds, total), _ = jax.lax.scan(slot, carry, None, length=BLOCK)
            return (*restart_ended(env, params, key, state, timestep), seeds, total), None

        carry = (*start, seeds, jnp.zeros((2, n_envs)))
        return jax.lax.scan(block, carry, jax.random.split(key_run, n_blocks))[0][-1]

    return loop


def _tasks(timestep: TimeStep) -> jax.Array:
    return timestep.outcome.tasks.sum(axis=1).astype(jnp.float32)


def on_devices(loop: Loop, n_devices: int) -> Loop:
    """Returns the same loop on every device, each with a key and a part of the batch of its own."""
    mesh = jax.make_mesh((n_devices,), ("replicas",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("replicas"), PartitionSpec()

    def part(keys: jax.Array, params: MultiUserParams) -> jax.Array:
        return loop(keys[0], params)[None]

    return jax.shard_map(part, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)


def python_slots_per_s(params: MultiUserParams, env: MultiUser, seconds: float, seed: int) -> float:
    """Returns slots per second of the plain-Python simulator, in as many episodes as the time
    allows.
    """
    numbers = {name: getattr(params, name) for name in ("compute_s", "compute_w", "upload_bits")}
    system = plain.System(
        **{name: np.asarray(value, np.float64).tolist() for name, value in numbers.items()}
    )
    starts = [np.asarray(x).tolist() for x in (params.bank.distance_m, params.bank.tasks)]
    firsts = [np.asarray(x).tolist() for x in (params.bank.split, params.bank.channel)]
    drawn, users = random.Random(seed), range(env.n_users)
    slots, over, world, begin_s = 0, True, None, time.perf_counter()
    while time.perf_counter() - begin_s < seconds:
        if over or world is None:
            row = drawn.randrange(params.bank.n_rows)
            world = plain.begin(system, *(x[row] for x in (*starts, *firsts)))
        splits = [drawn.randrange(env.n_splits) for _ in users]
        channels = [drawn.randrange(env.n_channels) for _ in users]
        _, over = plain.step(world, splits, channels, [1e-10 + drawn.random() for _ in users])
        plain.observe(world)
        slots += 1
    return slots / (time.perf_counter() - begin_s)


def main() -> None:
    """Measures every size and appends one line for each."""
    command = parser(__doc__)
    command.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 4096])
    command.add_argument("--devices", type=int, default=2)
    command.add_argument("--repeats", type=int, default=7)
    options = command.parse_args()
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
