"""What a process of the tests on several devices does: runs everything once over its mesh, and
writes the results.

    python -m tests.helpers.devices FOLDER DEVICES [ADDRESS PROCESSES PROCESS]

FOLDER/world holds (env, params), pickled. Of several processes each uses DEVICES of its own, and
all write.
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core import sharding
from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.core.rollout import unroll
from jaxcoinfer.learn import ppo, sac
from jaxcoinfer.learn.networks import Mlp
from jaxcoinfer.systems.stopping import baselines as policies
from jaxcoinfer.systems.stopping import differential_value
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from tests.helpers import probes

N_ENVS, N_STEPS = 56, 40  # a multiple of 8, and 7, 14, 28 occur nowhere else
SMALL = {
    "hidden": (16,),
    "n_envs": N_ENVS,
    "n_evaluations": 3,
    "evaluation_envs": 16,
    "evaluation_steps": 2,
}
SMALL |= {"updates_per_evaluation": 4, "n_batches": 4}
PPO = ppo.Config(**SMALL, n_steps=4, n_epochs=2)
SAC = sac.Config(**SMALL, n_steps=2, batch=64, buffer_size=448)
DIFFERENTIAL = differential_value.Config(
    hidden=(16,),
    n_pairs=N_ENVS,
    n_evaluations=2,
    updates_per_evaluation=2,
    block_tasks=8,
    horizon=8,
    buffer_size=1024,
    batch=64,
    n_batches=4,
    evaluation_devices=16,
    evaluation_tasks=8,
)
SENT = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def play(key: jax.Array, params: Params, env: Stopping) -> tuple[Any, TimeStep, jax.Array]:
    """Last state and time step of N_ENVS environments under random choices, and all rewards
    [N_STEPS, N_ENVS].
    """
    key_start, key_play = jax.random.split(key)
    start = jax.vmap(env.reset, (0, None))(jax.random.split(key_start, N_ENVS), params)
    state, timestep, steps = unroll(
        env, params, policies.random_choice(), key_play, *start, N_STEPS
    )
    return state, timestep, steps.reward


def played(env: Stopping, params: Params) -> tuple[dict, dict]:
    """The results of `play`; and how they were sharded and what was sent."""
    compiled = (
        jax.jit(play, static_argnames="env").lower(jax.random.key(3), params, env=env).compile()
    )
    state, timestep, rewards = compiled(jax.random.key(3), params)
    shards = {
        str([shard.data.shape for shard in leaf.addressable_shards])
        for leaf in jax.tree.leaves(timestep.reward)
    }
    facts = {
        "sent": [what for what in SENT if what in compiled.as_text()],
        "shards": sorted(shards),
    }
    facts["states"] = all(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    whole = jax.jit(sharding.replicate)((state, timestep, rewards))
    return {f"play{i}": leaf for i, leaf in enumerate(jax.tree.leaves(whole))}, facts


def learned(params: Params, env: Stopping, several: bool) -> tuple[dict, dict]:
    """Weights and curve of every learner, and what was sent for them; several processes try one
    learner only.
    """
    world = probes.World(jnp.int32(4))
    probe = {"env": probes.Probe(), "outcomes": probes.outcomes}
    tried = {"ppo": (ppo, world, {**probe, "config": PPO})}
    if not several:
        tried["sac"] = (sac, world, {**probe, "config": SAC})
        tried["differential"] = (differential_value, params, {"env": env, "config": DIFFERENTIAL})
    values, facts = {}, {}
    for name, (module, world, static) in tried.items():
        hyper = module.Hyper(learning_rate=1e-2)
        compiled = module.train.lower(jax.random.key(5), world, hyper, **static).compile()
        result = compiled(jax.random.key(5), world, hyper)
        values |= {
            f"{name}{i}": leaf
            for i, leaf in enumerate(jax.tree.leaves((result.weights, result.curve)))
        }
        facts[name] = [what for what in SENT if what in compiled.as_text()]
    return values, facts


def begun() -> dict:
    """First weights of a network and of two side by side, wide enough to be drawn in threads that
    could all wait.
    """

    def begin(key: jax.Array) -> tuple:
        net, seen = Mlp((128, 128), 2), jnp.zeros(4)
        return net.init(key, seen), jax.vmap(net.init, (0, None))(jax.random.split(key), seen)

    weights = jax.jit(lambda key: sharding.replicate(begin(key)))(jax.random.key(7))
    return {f"play-net{i}": leaf for i, leaf in enumerate(jax.tree.leaves(weights))}


def main() -> None:
    folder, n_devices, *group = sys.argv[1:]
    if group:
        sharding.init_distributed(group[0], int(group[1]), int(group[2]))
    assert len(jax.local_devices()) == int(n_devices)
    env, params = pickle.loads((Path(folder) / "world").read_bytes())
    with jax.set_mesh(sharding.mesh()):
        values, facts = played(env, params)
        more, sent = learned(params, env, bool(group))
        first = begun()
    name = "-".join([n_devices, *group[2:]])
    values |= more | first
    np.savez(
        Path(folder) / f"{name}.npz", **{key: np.asarray(leaf) for key, leaf in values.items()}
    )
    (Path(folder) / f"{name}.json").write_text(json.dumps(facts | {"learned": sent}))


if __name__ == "__main__":
    main()
