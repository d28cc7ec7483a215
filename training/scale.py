"""Trains a system's learner on all devices of all hosts, as many environments as they hold.

    python -m training.scale SYSTEM [--scenario NAME] [--devices all] [--envs 16384] [--updates 20]
    [--seed 0] [--out FILE] [--hosts [ADDRESS:PORT PROCESSES PROCESS]]

--devices: how many of each host. --hosts: this process is one of several; all run the same command,
alone under a cluster's scheduler, else with where process 0 listens, how many there are and which
this is, from 0. Process 0 alone prints, one JSON line, and writes the weights.
`training/CLUSTER.md` has scripts to start it with.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
from flax import serialization

from jaxcoinfer.core import sharding
from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.evaluation.executor import LEARN, TRAIN_DRAW, key_of
from jaxcoinfer.evaluation.resumable import TrainSpec
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand import policies as on_demand_policies
from jaxcoinfer.systems.stopping import differential_value
from training.common import make_world, parser
from training.long import best_learner


def spec(system: str, env: Any, n_envs: int, n_updates: int) -> tuple[TrainSpec, Any]:
    """Returns what is learned on n_envs environments, and its hyper-parameters."""
    many: dict[str, Any] = {"n_evaluations": 1, "updates_per_evaluation": n_updates}
    if system == "stopping":
        pairs = n_envs // 2
        config: Any = differential_value.Config(**many, n_pairs=pairs, batch=max(4096, pairs))
        return TrainSpec(differential_value, env, config), differential_value.Hyper()
    if system == "on-demand":
        return TrainSpec(
            ppo, env, ppo.Config(**many, n_envs=n_envs), on_demand_policies.outcomes
        ), ppo.Hyper()
    return best_learner(system, env, many | {"n_envs": n_envs})


def train(
    system: str, scenario: str, n_envs: int, n_updates: int, seed: int
) -> tuple[Any, dict[str, Any]]:
    """Returns what was learned over the mesh of `jax.set_mesh`, and how fast: steps are tasks of
    `stopping`.
    """
    env, params = make_world(scenario, TRAIN_DRAW, seed)
    key = key_of(seed, LEARN)
    trained, hyper = spec(system, env, n_envs, n_updates)
    twin = {} if trained.outcomes is None else {"outcomes": trained.outcomes}
    begin = time.perf_counter()
    lowered = trained.learner.train.lower(
        key, params, hyper, env=trained.env, config=trained.config, **twin
    )
    compiled = lowered.compile()
    compile_s, begin = time.perf_counter() - begin, time.perf_counter()
    learned = jax.block_until_ready(compiled(key, params, hyper))
    train_s, steps = time.perf_counter() - begin, int(learned.steps[-1])
    line = {"system": system, "scenario": scenario, "seed": seed, "envs": n_envs, "steps": steps}
    line |= {
        "steps_per_s": round(steps / train_s),
        "train_s": round(train_s, 2),
        "compile_s": round(compile_s, 1),
    }
    return learned, line | {"score": round(float(learned.curve[-1]), 4)}


def main() -> int:
    """Runs the recipe; returns 0, or 2 if its arguments or input are wrong."""
    command = parser(__doc__)
    command.add_argument("system", choices=list(registry.SYSTEMS))
    command.add_argument("--scenario")
    command.add_argument("--devices", default="all")
    command.add_argument("--hosts", nargs="*")
    command.add_argument("--envs", type=int, default=16384)
    command.add_argument("--updates", type=int, default=20)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--out", type=Path, help="file for the weights, as `flax.serialization` writes them"
    )
    options = command.parse_args()
    if options.hosts is not None and len(options.hosts) not in (0, 3):
        command.error("--hosts: give nothing, or ADDRESS:PORT PROCESSES PROCESS")
    if options.devices != "all" and not options.devices.isdecimal():
        command.error(f"--devices: {options.devices}; must be a number or all")
    try:
        if options.hosts:
            address, processes, process = options.hosts
            sharding.init_distributed(address, int(processes), int(process))
        elif options.hosts is not None:
            sharding.init_distributed()
        mesh = sharding.mesh(None if options.devices == "all" else int(options.devices))
        with jax.set_mesh(mesh):
            system = registry.SYSTEMS[options.system]
            scenario = options.scenario or system.default_scenario
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
