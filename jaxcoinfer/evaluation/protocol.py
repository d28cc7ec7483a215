"""What every result of every system is counted by.

Learning sees the training links and the training part of arrival logs; what is chosen (the numbers
of a baseline, the best baseline, one of several seeds) is chosen on the validation links; results
are counted on the test links (`data.processes.Split`). A learner is trained from `N_SEEDS` seeds.
The headline of a run is the difference of its learner to the baseline that is best on the
validation links.

Units are links and seeds, never rows: several rows are windows of one recorded link, and lie in one
cluster. With m[s, c] the mean of a policy of seed s on the rows of cluster c,

    mean = mean of all m,   half = t_{.975, nu} sqrt(v_c + v_s),
    v_c = var_c(mean_s m) / C,   v_s = var_s(mean_c m) / S  (0 with one seed),
    nu = (v_c + v_s)^2 / (v_c^2 / (C - 1) + v_s^2 / (S - 1))  (Welch and Satterthwaite).

What seeds and links share of the noise is counted in both parts: the interval is a little too wide,
never too narrow. Without recorded links each row is a draw of its own, and a cluster.

Axes: S seeds, C clusters, K rows.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxcoinfer.data import traces
from jaxcoinfer.data.processes import RecordedRate, Split
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Interval, Tasks

N_SEEDS = 5  # that a learner trains from


def links(scenario: Any, split: Split, n_rows: int) -> tuple[str, ...]:
    """Returns the cluster of each row, [K]: the name of its recorded link, else its own number."""
    rate = getattr(scenario, "rate", None)
    if isinstance(rate, RecordedRate):
        return traces.of_rows(rate.of(split), n_rows)
    return tuple(str(row) for row in range(n_rows))


def by_cluster(values: np.ndarray, clusters: Sequence[str]) -> np.ndarray:
    """Returns the means of values [..., K] over the rows of each cluster, [..., C], in the order in
    which clusters first appear.
    """
    names = list(dict.fromkeys(clusters))
    place = np.array([names.index(name) for name in clusters])
    return np.stack([values[..., place == c].mean(axis=-1) for c in range(len(names))], axis=-1)


def interval(values: np.ndarray, clusters: Sequence[str]) -> Interval:
    """Returns mean and 95 % half width of values [S, K], as above; NaN for the width with fewer
    than two clusters.
    """
    means = by_cluster(np.asarray(values, np.float64), clusters)
    n_seeds, n_clusters = means.shape
    mean = float(means.mean())
    if n_clusters < 2:
        return Interval(mean, float("nan"))
    parts = [(means.mean(axis=0).var(ddof=1) / n_clusters, n_clusters - 1)]
    if n_seeds > 1:
        parts.append((means.mean(axis=1).var(ddof=1) / n_seeds, n_seeds - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0.0:
        return Interval(mean, 0.0)
    freedom = variance**2 / sum(part**2 / n for part, n in parts)
    return Interval(mean, float(stats.t.ppf(0.975, freedom) * np.sqrt(variance)))


def intervals(
    seeds: Sequence[Tasks],
    measures: Callable[[Tasks], Mapping[str, np.ndarray]],
    clusters: Sequence[str],
) -> dict[str, Interval]:
    """Returns every measure of a policy, by name; measures: tasks of one seed -> name -> [K]."""
    return of_seeds([measures(tasks) for tasks in seeds], clusters)


def of_seeds(
    by_seed: Sequence[Mapping[str, np.ndarray]], clusters: Sequence[str]
) -> dict[str, Interval]:
    """Returns every measure of a policy, by name, of what each seed has in each row [K]."""
    return {
        name: interval(np.stack([one[name] for one in by_seed]), clusters) for name in by_seed[0]
    }


def utility(seeds: Sequence[Tasks]) -> np.ndarray:
    """Returns the mean utility per task of each seed in each row, [S, K]."""
    return np.stack([evaluate.by_row(tasks, tasks.utility) for tasks in seeds])


def best(utilities: Mapping[str, np.ndarray], clusters: Sequence[str]) -> str:
    """Returns the policy of the most utility [S, K], clusters counted alike; to be asked on the
    validation links.
    """
    return max(utilities, key=lambda name: by_cluster(utilities[name], clusters).mean())


def best_rule(
    played: Mapping[str, Sequence[Tasks]], clusters: Sequence[str], others: Container[str]
) -> str:
    """Returns the best of the policies that are not among `others` (learners and references), by
    their tasks on the validation links.
    """
    rules = {name: utility(seeds) for name, seeds in played.items() if name not in others}
    return best(rules, clusters)


def best_seed(seeds: Sequence[Tasks], clusters: Sequence[str]) -> int:
    """Returns the seed whose policy is best, by its tasks on the validation links."""
    return int(np.argmax(by_cluster(utility(seeds), clusters).mean(axis=1)))
