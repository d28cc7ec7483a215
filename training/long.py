"""A long training of a system's best learner, which may be killed at any moment and started again.

    python -m training.long SYSTEM --out FOLDER [--scenario NAME] [--seed 0] [--stages N]
    [--updates N] [--every 1] [--devices 2]

A stage is --updates updates and an evaluation of the greedy policy; after every --every of them
there is a checkpoint. The same command again continues from the latest one that is undamaged, to
the same numbers as if it had never been killed. At the end FOLDER holds `curve.csv`, the result of
every evaluation, and `weights.msgpack`, the network (`flax.serialization`). --devices: how many of
this machine share the work; default: all. A run may continue with another number, with sums of
floats in another order.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from jaxcoinfer.core import sharding
from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.data.files import replace_file
from jaxcoinfer.data.traces import TraceError
from jaxcoinfer.evaluation import executor, resumable
from jaxcoinfer.evaluation.types import RunError
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.checkpoints import CheckpointError
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import network as fleet_network
from jaxcoinfer.systems.fleet import policies as fleet_policies
from jaxcoinfer.systems.fleet import run as fleet
from jaxcoinfer.systems.multi_user import policies as multi_user
from jaxcoinfer.systems.on_demand import policies as on_demand_policies
from jaxcoinfer.systems.on_demand import run as on_demand
from jaxcoinfer.systems.stopping import policies as stopping_policies
from jaxcoinfer.systems.stopping import run as stopping
from training.common import parser

Sizes = dict[str, int]  # fields of a learner's Config that are replaced


def best_learner(system: str, env: Any, sizes: Sizes) -> tuple[resumable.TrainSpec, Any]:
    """Returns what the best learner of a system is trained with, and its hyper-parameters."""
    return _BEST[system](env, sizes)


def _stopping(env: Any, sizes: Sizes) -> tuple[resumable.TrainSpec, Any]:
    learner = stopping_policies.LEARNERS[stopping_policies.BEST]
    config = dataclasses.replace(stopping.FULL.learners[stopping_policies.BEST], **sizes)
    return resumable.TrainSpec(learner.module, env, config), learner.module.Hyper()


def _on_demand(env: Any, sizes: Sizes) -> tuple[resumable.TrainSpec, Any]:
    # The one that starts from nothing: its weights are all there is of it.
    learner = on_demand_policies.LEARNERS[on_demand_policies.PUBLISHED]
    config = dataclasses.replace(on_demand.FULL.learners[on_demand_policies.PUBLISHED], **sizes)
    spec = resumable.TrainSpec(
        learner.module, learner.env(env), config, on_demand_policies.outcomes
    )
    return spec, learner.module.Hyper()


def _fleet(env: Any, sizes: Sizes) -> tuple[resumable.TrainSpec, Any]:
    learner = fleet_policies.LEARNERS[fleet_policies.BEST]
    config = dataclasses.replace(fleet.FULL.config, twin=learner.twin, **sizes)
    spec = resumable.TrainSpec(ppo, learner.env(env), config, fleet_network.outcomes)
    return spec, learner.hyper


def _multi_user(env: Any, sizes: Sizes) -> tuple[resumable.TrainSpec, Any]:
    config = dataclasses.replace(multi_user.CONFIG, **sizes)
    return resumable.TrainSpec(ppo, env, config), multi_user.HYPER


_BEST = {
    "stopping": _stopping,
    "on-demand": _on_demand,
    "fleet": _fleet,
    "multi-user": _multi_user,
}


def train(system: str, scenario: str, seed: int, out: Path, sizes: Sizes, every: int) -> None:
    """Trains or continues; writes the result."""
    world = registry.load_scenario(scenario)
    if world.system != system:
        raise RunError(f"scenario '{scenario}': of system {world.system}; give one of {system}")
    env, params = executor.make_world(
        registry.make, world, executor.key_of(seed, executor.TRAIN_DRAW), split="train"
    )
    spec, hyper = best_learner(system, env, sizes)
    key = executor.key_of(seed, executor.LEARN)
    labels = {"system": system, "scenario": scenario, "seed": seed}
    learned = resumable.train(
        out, key, params, hyper, spec=spec, labels=labels, every=every, events=_events()
    )
    _write(out, learned)
    _say(
        f"{out}: all {len(learned.curve)} stages are done; "
        f"the last evaluation gave {float(learned.curve[-1]):.4f}"
    )


def _events() -> resumable.Events:
    begin_s = time.perf_counter()
    done = [0]

    def stage(train_state: Any) -> None:
        done[0] += 1
        number, all_stages = int(train_state.stage), train_state.curve.shape[0]
        left_s = (time.perf_counter() - begin_s) / done[0] * (all_stages - number)
        score = float(train_state.curve[number - 1])
        _say(f"stage {number} of {all_stages}: {score:.4f}, about {left_s:.0f} s left")

    return resumable.Events(
        lambda stage: _say(f"continues after stage {stage}"),
        lambda line: _say(f"warning: {line}"),
        stage,
    )


def _write(out: Path, learned: TrainResult) -> None:
    curve = zip(np.asarray(learned.steps).tolist(), np.asarray(learned.curve).tolist(), strict=True)
    sheet = "steps,mean\n" + "".join(f"{steps},{mean!r}\n" for steps, mean in curve)
    weights = serialization.msgpack_serialize(
        serialization.to_state_dict(jax.device_get(learned.weights))
    )
    for name, content in (("curve.csv", sheet.encode()), ("weights.msgpack", weights)):
        try:
            replace_file(out / name, content)
        except OSError as error:
            raise RunError(f"{out / name}: cannot be written: {error.strerror}") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Runs the recipe; returns 0, 1 if it failed, 2 if its arguments or input are wrong."""
    command = parser(__doc__)
    command.add_argument("system", choices=list(registry.SYSTEMS))
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--scenario")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--stages", type=int, help="evaluations of the policy")
    command.add_argument("--updates", type=int, help="before each evaluation")
    command.add_argument("--every", type=int, default=1, help="stages between checkpoints")
    command.add_argument("--devices", type=int, help="of this machine; default: all")
    options = command.parse_args()
    given = {"n_evaluations": options.stages, "updates_per_evaluation": options.updates}
    sizes = {name: value for name, value in given.items() if value is not None}
    if min([options.every, *sizes.values()]) < 1:
        command.error("--stages, --updates and --every must be at least 1")
    scenario = options.scenario or registry.SYSTEMS[options.system].default_scenario
    try:
        mesh = sharding.mesh(options.devices)
    except ValueError as error:
        command.error(f"--devices: {error}")
    try:
        with jax.set_mesh(mesh):
            train(options.system, scenario, options.seed, options.out, sizes, options.every)
    except (RunError, ProfileError, TraceError) as error:
        _say(f"error: {error}")
        return 2
    except CheckpointError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("stopped; the same command continues")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
