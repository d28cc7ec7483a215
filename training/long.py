"""A long training of a system's best learner, which may be killed at any moment and started again.

    python -m training.long stopping --out FOLDER [--scenario wifi] [--seed 0] [--stages N]
    [--updates N] [--every 1] python -m training.long on-demand --out FOLDER ... python -m
    training.long fleet --out FOLDER ... python -m training.long multi-user --out FOLDER ...
    [--devices 2]

A stage is --updates updates and a look at the greedy policy; after every --every of them there is a
checkpoint. The same command again goes on from the latest one that is undamaged, to the same
numbers as if it had never been killed. At the end FOLDER holds `curve.csv`, what every look told,
and `weights.msgpack`, the network (`flax.serialization`). --devices: how many of this machine share
the work, or all; a run may go on with another number, with sums of floats in another order.
"""

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from jaxcoinfer.core import sharding
from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.data.traces import TraceError
from jaxcoinfer.evaluation import executor, resumable
from jaxcoinfer.evaluation.types import RunError
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.checkpoints import CheckpointError
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import network as fleet_actor
from jaxcoinfer.systems.fleet import policies as contenders_fleet
from jaxcoinfer.systems.fleet import run as fleet
from jaxcoinfer.systems.on_demand import policies as contenders_on_demand
from jaxcoinfer.systems.on_demand import run as on_demand
from jaxcoinfer.systems.stopping import policies as contenders
from jaxcoinfer.systems.stopping import run as stopping
from training import multi_user

USUAL = {
    "stopping": "wifi",
    "on-demand": "on-demand-markov",
    "fleet": "fleet",
    "multi-user": "multi-user",
}


def lesson_of(system: str, env: Any, sizes: dict[str, int]) -> tuple[resumable.TrainSpec, Any]:
    """Returns the lesson of a system's best learner and its hyper-parameters; sizes replace fields
    of its config.
    """
    if system == "stopping":
        learner = contenders.LEARNERS[contenders.BEST]
        config = dataclasses.replace(stopping.FULL.learners[contenders.BEST], **sizes)
        return resumable.TrainSpec(learner, env, config), learner.Hyper()
    if system == "on-demand":
        of = contenders_on_demand.LEARNERS[contenders_on_demand.BEST]
        config = dataclasses.replace(on_demand.FULL.learners[contenders_on_demand.BEST], **sizes)
        return resumable.TrainSpec(
            of.module, of.env(env), config, contenders_on_demand.outcomes
        ), of.module.Hyper()
    if system == "multi-user":
        return resumable.TrainSpec(
            ppo, env, dataclasses.replace(multi_user.CONFIG, **sizes)
        ), multi_user.HYPER
    of = contenders_fleet.LEARNERS[contenders_fleet.BEST]
    config = dataclasses.replace(fleet.FULL.config, twin=of.twin, **sizes)
    return resumable.TrainSpec(ppo, of.env(env), config, fleet_actor.outcomes), of.hyper


def train(
    system: str, scenario: str, seed: int, out: Path, sizes: dict[str, int], every: int
) -> None:
    """Trains, or goes on; writes what it came to."""
    world = registry.load_scenario(scenario)
    if world.system != system:
        raise RunError(f"scenario '{scenario}': of system {world.system}; give one of {system}")
    env, params = executor.make_world(
        registry.make, world, executor.key_of(seed, executor.TRAIN_DRAW), split="train"
    )
    spec, hyper = lesson_of(system, env, sizes)
    key = executor.key_of(seed, executor.LEARN)
    said = {"system": system, "scenario": scenario, "seed": seed}
    learned = resumable.train(
        out, key, params, hyper, spec=spec, said=said, every=every, events=_told()
    )
    _write(out, learned)
    _say(
        f"{out}: all {len(learned.curve)} stages are over; the last look told {float(learned.curve[-1]):.4f}"
    )


def _told() -> resumable.Events:
    begun_s = [time.perf_counter()]
    done = [0]

    def stage(train_state):
        done[0] += 1
        number, all_stages = int(train_state.stage), train_state.curve.shape[0]
        left_s = (time.perf_counter() - begun_s[0]) / done[0] * (all_stages - number)
        score = float(train_state.curve[number - 1])
        _say(f"stage {number} of {all_stages}: {score:.4f}, about {left_s:.0f} s left")

    return resumable.Events(
        lambda stage: _say(f"goes on after stage {stage}"),
        lambda line: _say(f"warning: {line}"),
        stage,
    )


def _write(out: Path, learned: TrainResult) -> None:
    looks = zip(np.asarray(learned.steps).tolist(), np.asarray(learned.curve).tolist(), strict=True)
    sheet = "steps,mean\n" + "".join(f"{steps},{mean!r}\n" for steps, mean in looks)
    weights = serialization.msgpack_serialize(
        serialization.to_state_dict(jax.device_get(learned.weights))
    )
    for name, content in (("curve.csv", sheet.encode()), ("weights.msgpack", weights)):
        partial = out / f".{name}.{os.getpid()}.partial"
        try:
            partial.write_bytes(content)
            partial.replace(out / name)
        except OSError as error:
            raise RunError(f"{out / name}: cannot be written: {error.strerror}") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Runs the recipe; 0, 1 where it failed, 2 where what was asked for is at fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("system", choices=list(USUAL))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", type=int, help="looks")
    parser.add_argument("--updates", type=int, help="before each look")
    parser.add_argument("--every", type=int, default=1, help="stages between checkpoints")
    parser.add_argument("--devices", type=int, help="of this machine; else all")
    options = parser.parse_args()
    given = {"n_evaluations": options.stages, "updates_per_evaluation": options.updates}
    sizes = {name: value for name, value in given.items() if value is not None}
    if min([options.every, *sizes.values()]) < 1:
        parser.error("--stages, --updates and --every must be at least 1")
    scenario = options.scenario or USUAL[options.system]
    try:
        mesh = sharding.mesh(options.devices)
    except ValueError as error:
        parser.error(f"--devices: {error}")
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
        _say("stopped; the same command goes on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
