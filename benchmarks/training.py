"""Environment steps per second of whole trainings, ours and those of other libraries on the same
environment, in one run.

    python -m benchmarks.training [--scenario on-demand-markov] [--steps 200000]
    python -m benchmarks.training --sb3 [--scenario reference] [--steps 200000] [--seeds 3]

Same network, environments, steps and batches; only learning is timed, on both sides. The other
trainer is rejax (python -m pip install 'jaxcoinfer[bench]') through `jaxcoinfer.adapters`; without
it only ours is timed.

`--sb3`: Stable-Baselines3's proximal policy optimisation instead, through the Gymnasium adapter
with rewards as they are by default: its deterministic policy on the test rows against one-time
waiting, from --seeds seeds, and its steps per second.
"""

import importlib
import importlib.util
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxcoinfer
from jaxcoinfer.adapters import GymnaxFive, gymnasium_env
from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.executor import HELD_OUT, PLAY, TRAIN_DRAW, key_of
from jaxcoinfer.learn import ppo, sac
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines
from training.common import make_world, measure, parser, record, rounded

HIDDEN, LEARNING_RATE = (64, 64), 1e-3


def ours(name: str, env: Any, params: Any, steps: int) -> tuple[Any, int]:
    """Returns a function key -> weights, and the steps it takes."""
    shared = {
        "hidden": HIDDEN,
        "twin": False,
        "n_evaluations": 1,
        "evaluation_envs": 1,
        "evaluation_steps": 1,
    }
    if name == "sac":
        config: Any = sac.Config(
            **shared, n_envs=64, n_steps=1, updates_per_evaluation=steps // 64, buffer_size=1 << 14
        )
        module: Any = sac
    else:
        config = ppo.Config(**shared, n_envs=256, n_steps=16, updates_per_evaluation=steps // 4096)
        module = ppo
    hyper = module.Hyper(learning_rate=LEARNING_RATE)
    taken = config.updates_per_evaluation * config.n_envs * config.n_steps
    return lambda key: module.train(key, params, hyper, env=env, config=config).weights, taken


def theirs(name: str, env: Any, params: Any, steps: int) -> tuple[Any, int]:
    """Returns the same of rejax: 16 batches of 256 for 64 steps (sac); 4 epochs of 8 batches for
    4,096 steps (ppo).
    """
    if name == "sac":
        shapes = {
            "num_envs": 64,
            "batch_size": 256,
            "buffer_size": 1 << 14,
            "fill_buffer": 256,
            "num_epochs": 16,
        }
        shapes |= {"gamma": 0.0, "target_entropy_ratio": 0.1}
        taken = steps // 64 * 64
    else:
        shapes = {
            "num_envs": 256,
            "num_steps": 16,
            "num_minibatches": 8,
            "num_epochs": 4,
            "gamma": 0.0,
        }
        taken = steps // 4096 * 4096
    network = {"hidden_layer_sizes": HIDDEN, "activation": "tanh"}
    trainer: Any = (
        importlib.import_module("rejax")
        .get_algo(name)
        .create(
            env=GymnaxFive(env),
            env_params=params,
            agent_kwargs=network,
            total_timesteps=taken,
            eval_freq=taken,
            learning_rate=LEARNING_RATE,
            **shapes,
        )
        .replace(eval_callback=lambda trainer, state, key: jnp.zeros(()))
    )
    return lambda key: trainer.train(key)[0].actor_ts.params, taken


def stable_baselines(scenario: str, steps: int, seeds: int) -> None:
    """Trains theirs for `steps` steps from each seed; records its utility on the test rows and the
    difference to one-time waiting.
    """
    env, params = make_world(registry.load_scenario(scenario), TRAIN_DRAW)
    _, world = make_world(registry.load_scenario(scenario), HELD_OUT)
    for seed in range(seeds):
        model: Any = importlib.import_module("stable_baselines3").PPO(
            "MlpPolicy",
            gymnasium_env(env, params),
            n_steps=1024,
            batch_size=256,
            gamma=0.9,
            seed=seed,
            device="cpu",
        )
        begin = time.perf_counter()
        model.learn(steps)
        facts = {
            "scenario": scenario,
            "algorithm": "ppo",
            "trainer": "stable-baselines3",
            "seed": seed,
            "steps": model.num_timesteps,
            "steps_per_s": model.num_timesteps / (time.perf_counter() - begin),
        }
        policies = {"theirs": _policy_of(model), "waiting": baselines.one_time_waiting(env)}
        played = evaluate.evaluate(env, world, policies, key_of(0, PLAY))
        compared = {
            name: evaluate.interval(evaluate.by_row(tasks, tasks.utility))
            for name, tasks in played.items()
        }
        compared["above_waiting"] = evaluate.difference(played["theirs"], played["waiting"])
        record("training", facts | rounded(compared, 4))


def _policy_of(model: Any) -> Policy:
    """Its deterministic policy: the largest logit of layers with tanh between them."""
    weights = {
        name: jnp.asarray(tensor.numpy()) for name, tensor in model.policy.state_dict().items()
    }
    layers = ("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net")

    def act(key: jax.Array, state: Any, observation: jax.Array, params: Any) -> jax.Array:
        x = observation
        for layer in layers[:-1]:
            x = jnp.tanh(weights[f"{layer}.weight"] @ x + weights[f"{layer}.bias"])
        logits = weights[f"{layers[-1]}.weight"] @ x + weights[f"{layers[-1]}.bias"]
        return jnp.argmax(logits).astype(jnp.int32)

    return act


def main() -> None:
    """Times both trainers of both algorithms."""
    command = parser(__doc__)
    command.add_argument("--scenario")
    command.add_argument("--steps", type=int, default=200_000)
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--sb3", action="store_true")
    options = command.parse_args()
    options.scenario = options.scenario or ("reference" if options.sb3 else "on-demand-markov")
    if options.sb3:
        stable_baselines(options.scenario, options.steps, options.seeds)
        return
    env, params = jaxcoinfer.make(options.scenario, jax.random.key(0))
    trainers = {"jaxcoinfer": ours} | (
        {"rejax": theirs} if importlib.util.find_spec("rejax") else {}
    )
    for name in ("sac", "ppo"):
        per_s = {}
        for trainer, build in trainers.items():
            train, taken = build(name, env, params, options.steps)
            timed = measure(f"{trainer} {name}", train, jax.random.key(1), repeats=3)
            per_s[trainer] = taken / timed["median_s"]
            line = {
                "scenario": options.scenario,
                "algorithm": name,
                "trainer": trainer,
                "steps": taken,
            }
            line |= {"steps_per_s": per_s[trainer], "compile_s": timed["compile_s"]}
            record("training", line | {"times_ours": per_s["jaxcoinfer"] / per_s[trainer]})


if __name__ == "__main__":
    main()
