"""What the checkpoint of a run is good for: its policies evaluated again, one of them exported."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.evaluation import executor, seeds
from jaxcoinfer.evaluation.executor import Executor, Learned, key_of, make_world, play
from jaxcoinfer.evaluation.types import Checkpoint, Portable, Progress, Table
from jaxcoinfer.systems.stopping import differential_value, report
from jaxcoinfer.systems.stopping.bounds import dynamic_program
from jaxcoinfer.systems.stopping.bounds import exact as bounds
from jaxcoinfer.systems.stopping.bounds.dynamic_program import Solution
from jaxcoinfer.systems.stopping.bounds.tables import Model
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.make import make
from jaxcoinfer.systems.stopping.policies import BEST, EXACT, LEARNERS, Chosen, baseline_policies
from jaxcoinfer.systems.stopping.price_rule import Prices
from jaxcoinfer.systems.stopping.scenario import task_numbers, task_samples


def start_solving(work: Executor, model: Model | None) -> Future[Solution] | None:
    """Starts to compute the exact optimum, where it can be."""
    if model is None:
        return None
    return work.start("computed the exact optimum", 12, dynamic_program.solve, model)


def evaluate_again(
    checkpoint: Checkpoint,
    seed: int,
    progress: Progress = lambda *_: None,
) -> Table:
    """Returns the table of the trained policies and their baselines on fresh rows. Raises like
    `run`.
    """
    scenario, chosen = checkpoint.scenario, checkpoint.chosen
    model = bounds.model_of(scenario)
    with Executor(progress, 40 + 12 * (model is not None)) as work:
        env, params = make_world(make, scenario, key_of(seed, executor.FRESH), split="test")
        work.over("drew fresh rows", 20)
        taken = Chosen(
            chosen["fixed"], chosen["threshold"], executor.record_of(Prices, chosen["prices"])
        )
        policies = trained_policies(checkpoint, env) | baseline_policies(env, taken)
        solving = start_solving(work, model)
        solution = solving.result() if solving else None
        if solution:
            policies[EXACT] = bounds.policy(solution)
        (tasks,) = work.start(
            f"evaluated {len(policies)} policies",
            20,
            play,
            env,
            policies,
            [params],
            key_of(seed, executor.FRESH_PLAY),
            tasks_in=executor.n_played,
        ).result()
        bound = report.bound_of(tasks, env, params, scenario, solution)
    return report.table(tasks, chosen["compared"], bound, env, scenario)


def trained_policies(checkpoint: Checkpoint, env: Stopping) -> dict[str, Learned]:
    """Returns the learned policies of a checkpoint, by name."""
    return {
        name: LEARNERS[name].learned(
            env, config_of(name, hidden), weights_of(name, checkpoint.weights[name])
        )
        for name, hidden in checkpoint.hidden.items()
    }


def config_of(name: str, hidden: tuple[int, ...]) -> Any:
    """Returns the configuration of a learner's policy."""
    return dataclasses.replace(LEARNERS[name].config, hidden=hidden)


def weights_of(name: str, stored: Any) -> Any:
    """Returns the weights of a learner as its policy takes them."""
    fields = stored if isinstance(stored, Mapping) else vars(stored)
    prices = executor.record_of(Prices, fields["prices"])
    return LEARNERS[name].module.Weights(fields["net"], prices)


def portable(checkpoint: Checkpoint) -> Portable:
    """Returns the network of the best learner as a function."""
    task = checkpoint.scenario.task
    env = Stopping(
        len(task_numbers(task)["layer_s"]) - 1, observes_confidence=task_samples(task) is not None
    )
    every = weights_of(BEST, checkpoint.weights[BEST])
    weights = jax.tree.map(jnp.asarray, seeds.pick(every, checkpoint.chosen["seed_of_best"]))
    config = config_of(BEST, checkpoint.hidden[BEST])
    return Portable(BEST, *differential_value.interface(env, config, weights))
