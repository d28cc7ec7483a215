"""A tiny long training and its life in a process of its own, which a fork server that has imported all this begins."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import resource
import signal
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint  # noqa: F401  once, here, and not in every life

from jaxcoinfer import checkpoints
from jaxcoinfer.agents import dqn, stages
from jaxcoinfer.runs import long
from tests import probes

STAGES = 40
SIZES = {"hidden": (4,), "n_envs": 4, "n_evaluations": STAGES, "evaluation_envs": 2, "evaluation_steps": 2}
CONFIG = dqn.Config(**SIZES, n_steps=2, n_batches=1, batch=8, memory=64, updates_per_evaluation=2)
LESSON = long.Lesson(dqn, probes.Probe(), CONFIG, probes.outcomes)


def warm_up() -> None:
    """Traces the training, which starts no backend and so may be done before a fork."""

    def both(hyper):
        key, params = jax.random.key(0), probes.World(jax.numpy.int32(4))
        return stages.advance(stages.begin(key, params, hyper, outline=LESSON), params, hyper, outline=LESSON)

    jax.eval_shape(lambda: both(dqn.Hyper()))


def train(folder: Path, seed: int = 0, lesson: long.Lesson = LESSON, hyper=None, **options):
    """Trains, or goes on, as a user would: all is made anew."""
    key, params = jax.random.key(seed), probes.World(jax.numpy.int32(4))
    said = {"seed": seed}
    return long.train(folder, key, params, hyper or lesson.learner.Hyper(), lesson=lesson, said=said, **options)


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(checkpoints.as_numbers(leaf)) for leaf in jax.tree.leaves(tree)]


def live(folder: Path, cache: Path, pipe) -> None:
    """Trains to the end in this process, tells every stage, and leaves what it learned beside the folder."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    pipe.send(("born", 0))
    tell = {"resumed": "resumed", "passed_over": "passed over"}
    told = {name: lambda value, what=what: pipe.send((what, value)) for name, what in tell.items()}
    events = long.Events(**told, stage=lambda standing: pipe.send(("stage", int(standing.stage))))
    np.savez(folder.with_suffix(".npz"), *leaves(train(folder, events=events)))
    pipe.send(("over", STAGES))


def fill(folder: Path, limit: int, pipe) -> None:
    """Saves a state, then one whose files may be no larger than `limit` bytes; tells the error."""
    tree = {"weights": jax.random.normal(jax.random.key(0), (4 * limit,))}
    checkpoints.save(folder, 1, tree)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        checkpoints.save(folder, 2, tree)
        pipe.send("no error")
    except checkpoints.CheckpointError as error:
        pipe.send(str(error))
