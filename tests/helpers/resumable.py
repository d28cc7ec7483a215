"""Tiny long trainings, one per learner, each in a process of its own, forked from a server that has
imported all this.
"""

import dataclasses
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint  # noqa: F401  once, here, and not in every life

from jaxcoinfer.evaluation import resumable
from jaxcoinfer.learn import checkpoints, dqn, loop, ppo, sac
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.registry import load_scenario, make
from jaxcoinfer.systems.stopping import continuation_value, differential_value
from jaxcoinfer.systems.stopping.env import Stopping
from tests.helpers import probes

STAGES = 20
_TINY: dict = {
    "hidden": (4,),
    "n_envs": 4,
    "n_evaluations": STAGES,
    "evaluation_envs": 2,
    "evaluation_steps": 3,
}
_MEMORY = {"n_steps": 2, "n_batches": 2, "batch": 8, "buffer_size": 32, "updates_per_evaluation": 2}
_ROLLED = {"n_steps": 4, "n_epochs": 2, "n_batches": 2, "updates_per_evaluation": 2}
_EVALUATED = {
    "hidden": (4,),
    "n_evaluations": STAGES,
    "evaluation_devices": 4,
    "evaluation_tasks": 3,
}
_TASKS: dict = _EVALUATED | {"updates_per_evaluation": 2}
_PAIRS = {"n_pairs": 4, "block_tasks": 3, "horizon": 4, "n_batches": 2}
_PAIRS |= {"buffer_size": 16, "batch": 8}
_STOPPING = Stopping(n_layers=2)
SPECS = {
    "dqn": resumable.TrainSpec(
        dqn, probes.Probe(), dqn.Config(**_TINY, **_MEMORY), probes.outcomes
    ),
    "sac": resumable.TrainSpec(
        sac, probes.Probe(), sac.Config(**_TINY, **_MEMORY), probes.outcomes
    ),
    "ppo": resumable.TrainSpec(
        ppo, probes.Probe(), ppo.Config(**_TINY, **_ROLLED), probes.outcomes
    ),
    "contvalue": resumable.TrainSpec(
        continuation_value, _STOPPING, continuation_value.Config(**_TASKS, n_devices=4)
    ),
    "differential": resumable.TrainSpec(
        differential_value, _STOPPING, differential_value.Config(**_TASKS, **_PAIRS)
    ),
}


def world(spec: resumable.TrainSpec) -> Any:
    """The params of the environment of a training."""
    if isinstance(spec.env, probes.Probe):
        return probes.World(jax.numpy.int32(4))
    env, params = make(dataclasses.replace(load_scenario("reference-busy"), rows=2, slots=2048))
    assert env == spec.env
    return params


def warm_up() -> None:
    """Traces what can be traced without a backend, which a fork would break."""

    def both(spec: resumable.TrainSpec, hyper: Any) -> loop.TrainState:
        key, params = jax.random.key(0), probes.World(jax.numpy.int32(4))
        return loop.advance(
            loop.init(key, params, hyper, build_loop=spec), params, hyper, build_loop=spec
        )

    for spec in SPECS.values():
        if isinstance(spec.env, probes.Probe):
            jax.eval_shape(lambda spec=spec: both(spec, spec.learner.Hyper()))


def train(
    folder: Path,
    seed: int = 0,
    spec: resumable.TrainSpec = SPECS["dqn"],
    hyper: Any = None,
    **options: Any,
) -> TrainResult:
    """Trains, or continues, as a user would: all is made anew."""
    key, hyper = jax.random.key(seed), hyper or spec.learner.Hyper()
    labels = {"seed": seed}
    return resumable.train(folder, key, world(spec), hyper, spec=spec, labels=labels, **options)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(checkpoints.as_numbers(leaf)) for leaf in jax.tree.leaves(tree)]


def live(name: str, folder: Path, cache: Path, pipe: Connection) -> None:
    """Trains to the end in this process, sends every event, and writes the result next to the
    folder.
    """
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    pipe.send(("born", 0))
    events = resumable.Events(
        resumed=lambda stage: pipe.send(("resumed", stage)),
        passed_over=lambda line: pipe.send(("passed over", line)),
        stage=lambda train_state: pipe.send(("stage", int(train_state.stage))),
    )
    np.savez(folder.with_suffix(".npz"), *leaves(train(folder, spec=SPECS[name], events=events)))
    pipe.send(("over", STAGES))


def fill(folder: Path, limit: int, pipe: Connection) -> None:
    """Saves a state, then one whose files may be no larger than `limit` bytes; sends the error."""
    tree = {"weights": jax.random.normal(jax.random.key(0), (4 * limit,))}
    checkpoints.save(folder, 1, tree)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        checkpoints.save(folder, 2, tree)
        pipe.send("no error")
    except checkpoints.CheckpointError as error:
        pipe.send(str(error))
