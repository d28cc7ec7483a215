"""Environment steps per second of whole trainings, ours and those of other libraries on the same
environment, in one run.

    python -m benchmarks.training [--scenario on-demand-markov] [--steps 200000]
    python -m benchmarks.training --sb3 [--scenario reference] [--steps 20000]

Same network, environments, steps and batches; only learning is timed, on both sides. The other
trainer is rejax (python -m pip install 'jaxcoinfer[bench]') through `jaxcoinfer.adapters`; without
it only ours is timed.

`--sb3`: Stable-Baselines3's proximal policy optimisation instead, through the Gymnasium adapter:
mean reward per step of its deterministic policy before and after, on the same held-out starts, and
its steps per second.
"""

import importlib
import importlib.util
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcoinfer
from jaxcoinfer.adapters import GymnaxFive, gymnasium_env, gymnasium_vector
from jaxcoinfer.learn import ppo, sac
from training.common import measure, parser, record

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


def stable_baselines(scenario: str, env: Any, params: Any, steps: int) -> None:
    """Trains theirs for `steps` steps and records its mean reward before and after."""
    model: Any = importlib.import_module("stable_baselines3").PPO(
        "MlpPolicy",
        gymnasium_env(env, params),
        n_steps=1024,
        batch_size=256,
        gamma=0.9,
        seed=0,
        device="cpu",
    )
    before = _mean_reward(model, env, params)
    begin = time.perf_counter()
    model.learn(steps)
    line = {
        "scenario": scenario,
        "algorithm": "ppo",
        "trainer": "stable-baselines3",
        "steps": model.num_timesteps,
    }
    line |= {"steps_per_s": model.num_timesteps / (time.perf_counter() - begin)}
    record(
        "training",
        line | {"reward_before": before, "reward_after": _mean_reward(model, env, params)},
    )


def _mean_reward(model: Any, env: Any, params: Any, n_envs: int = 64, n_steps: int = 500) -> float:
    """Mean reward per step of its deterministic policy, from starts that seed 1 draws."""
    vector = gymnasium_vector(env, params, n_envs, autoreset="SameStep")
    observation, _ = vector.reset(seed=1)
    rewards = []
    for _ in range(n_steps):
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, *_ = vector.step(action)
        rewards.append(reward)
    return float(np.mean(rewards))


def main() -> None:
    """Times both trainers of both algorithms."""
    command = parser(__doc__)
    command.add_argument("--scenario")
    command.add_argument("--steps", type=int)
    command.add_argument("--sb3", action="store_true")
    options = command.parse_args()
    options.scenario = options.scenario or ("reference" if options.sb3 else "on-demand-markov")
    options.steps = options.steps or (20_000 if options.sb3 else 200_000)
    env, params = jaxcoinfer.make(options.scenario, jax.random.key(0))
    if options.sb3:
        stable_baselines(options.scenario, env, params, options.steps)
        return
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
