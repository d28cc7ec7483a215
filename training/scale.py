"""Trains a system's learner on all devices of all hosts, as many environments as they hold.

    python -m training.scale stopping [--devices all] [--envs 16384] [--out FILE]
    python -m training.scale on-demand [--scenario on-demand-markov] [--devices 2] [--updates 20]
    [--seed 0] python -m training.scale fleet [--envs 4096] ..., python -m training.scale multi-user
    ... python -m training.scale stopping --hosts [ADDRESS:PORT PROCESSES PROCESS]

--devices: how many of each host. --hosts: this process is one of several; all run the same command,
alone under a cluster's scheduler, else with where process 0 listens, how many there are and which
this is, from 0. Process 0 alone prints, one JSON line, and writes the weights.
`training/CLUSTER.md` has scripts to start it with.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
from flax import serialization

import jaxcoinfer
from jaxcoinfer.core import sharding
from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.evaluation.resumable import TrainSpec
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems.on_demand import policies as contenders_on_demand
from jaxcoinfer.systems.stopping import differential_value
from training.long import USUAL, lesson_of

MAKE, LEARN = range(2)  # purposes of keys


def spec(system: str, env: Any, n_envs: int, n_updates: int) -> tuple[TrainSpec, Any]:
    """Returns what is learned on n_envs environments, and its hyper-parameters."""
    many: dict[str, Any] = {"n_evaluations": 1, "updates_per_evaluation": n_updates}
    if system == "stopping":
        pairs = n_envs // 2
        config: Any = differential_value.Config(**many, n_pairs=pairs, batch=max(4096, pairs))
        return TrainSpec(differential_value, env, config), differential_value.Hyper()
    if system == "on-demand":
        return TrainSpec(
            ppo, env, ppo.Config(**many, n_envs=n_envs), contenders_on_demand.outcomes
        ), ppo.Hyper()
    return lesson_of(system, env, many | {"n_envs": n_envs})


def train(
    system: str, scenario: str, n_envs: int, n_updates: int, seed: int
) -> tuple[Any, dict[str, Any]]:
    """Returns what was learned over the mesh of `jax.set_mesh`, and how fast: steps are tasks of
    `stopping`.
    """
    keys = [jax.random.fold_in(jax.random.key(seed), purpose) for purpose in range(2)]
    env, params = jaxcoinfer.make(scenario, keys[MAKE])
    asked, hyper = spec(system, env, n_envs, n_updates)
    given = {} if asked.outcomes is None else {"outcomes": asked.outcomes}
    begin = time.perf_counter()
    lowered = asked.learner.train.lower(
        keys[LEARN], params, hyper, env=asked.env, config=asked.config, **given
    )
    compiled = lowered.compile()
    compile_s, begin = time.perf_counter() - begin, time.perf_counter()
    learned = jax.block_until_ready(compiled(keys[LEARN], params, hyper))
    train_s, steps = time.perf_counter() - begin, int(learned.steps[-1])
    line = {"system": system, "scenario": scenario, "seed": seed, "envs": n_envs, "steps": steps}
    line |= {
        "steps_per_s": round(steps / train_s),
        "train_s": round(train_s, 2),
        "compile_s": round(compile_s, 1),
    }
    return learned, line | {"score": round(float(learned.curve[-1]), 4)}


def main() -> int:
    """Runs the recipe; 0, or 2 where what was asked for is at fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("system", choices=list(USUAL))
    parser.add_argument("--scenario")
    parser.add_argument("--devices", default="all")
    parser.add_argument("--hosts", nargs="*")
    parser.add_argument("--envs", type=int, default=16384)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, help="file for the weights, as `flax.serialization` writes them"
    )
    options = parser.parse_args()
    if options.hosts is not None and len(options.hosts) not in (0, 3):
        parser.error("--hosts: give nothing, or ADDRESS:PORT PROCESSES PROCESS")
    if options.devices != "all" and not options.devices.isdecimal():
        parser.error(f"--devices: {options.devices}; must be a number or all")
    try:
        if options.hosts:
            address, processes, process = options.hosts
            sharding.init_distributed(address, int(processes), int(process))
        elif options.hosts is not None:
            sharding.init_distributed()
        mesh = sharding.mesh(None if options.devices == "all" else int(options.devices))
        with jax.set_mesh(mesh):
            scenario = options.scenario or USUAL[options.system]
            learned, line = train(
                options.system, scenario, options.envs, options.updates, options.seed
            )
    except (ValueError, ProfileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if jax.process_index() == 0:
        print(
            json.dumps(line | {"devices": mesh.size, "processes": jax.process_count()}), flush=True
        )
        if options.out:
            weights = serialization.to_state_dict(jax.device_get(learned.weights))
            options.out.write_bytes(serialization.msgpack_serialize(weights))
    return 0


if __name__ == "__main__":
    sys.exit(main())
