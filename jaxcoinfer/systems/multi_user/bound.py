"""A certified upper bound on the reward of every episode of `multi-user`, whatever the policy.

An episode of K slots in which the users finish F tasks and spend E joules, both means over users,
costs `sum_k (D + beta e_k) / max(f_k, f0)` with slots of D seconds, `sum f_k = F`, `sum e_k = E`.
By Cauchy and Schwarz, and with `max(f_k, f0) <= f_k + f0` in the first part and `f_k <= f_max` in
the second,

    cost >= D K^2 / (F + f0 K) + beta E / max(f_max, f0).

A user that sends at full power and alone needs `t = c_l + bits_l / R` seconds for a task at split
l, one after another, and no interference makes it faster; so it finishes at most `D / min t + 1`
tasks in a slot: their mean is f_max. K and E are those of a linear program over how many tasks
n_ul of user u take split l:

    E(K) = min  mean_u sum_l n_ul w_l c_l            joules of computing; those of sending are >= 0
           s.t. sum_l n_ul = tasks_u,   sum_l n_ul t_ul <= K D for every user,
                sum_ul n_ul bits_l / R_u <= kappa C K D,

and the last line holds for C channels with kappa what users that interfere can send at once, in
solo rates: rates of users that treat each other as noise lie in the region of a multiple access
channel, `sum_{A} r_u <= W log2(1 + sum_{A} s_u)` for every set A with s_u the signal-to-noise ratio
at full power, and over this polymatroid `sum_u r_u / R_u` is largest in the corner that takes the
weakest first (Edmonds), which is kappa. The bound is the least cost over whole numbers K for which
the program has an answer; the first task of a user may choose its split here, which only helps.

Axes: K episodes of a bank, U users, S splits.
"""

import numpy as np
from scipy.optimize import linprog

from jaxcoinfer.systems.multi_user.params import MultiUserParams


def reward(params: MultiUserParams, n_channels: int) -> np.ndarray:
    """Returns what the reward of no policy exceeds, of the episode from each start of the bank,
    [K].
    """
    distance_m = np.asarray(params.bank.distance_m, np.float64)
    tasks = np.asarray(params.bank.tasks, np.float64)
    return np.array(
        [
            -_least_cost(params, n_channels, distance, number)
            for distance, number in zip(distance_m, tasks, strict=True)
        ]
    )


def _least_cost(
    params: MultiUserParams, n_channels: int, distance_m: np.ndarray, tasks: np.ndarray
) -> float:
    """The least cost of an episode; distance_m, tasks [U]."""
    slot_s, beta = float(params.slot_s), float(params.energy_weight)
    floor = float(params.tasks_floor)
    snr = float(params.max_w) * distance_m ** -float(params.path_loss) / float(params.noise_w)
    rate_bps = float(params.bandwidth_hz) * np.log2(1.0 + snr)
    compute_s, bits = (np.asarray(x, np.float64) for x in (params.compute_s, params.upload_bits))
    joules = np.asarray(params.compute_w, np.float64) * compute_s
    air_s = bits[None] / rate_bps[:, None]
    each_s = compute_s[None] + air_s
    most = max(float((slot_s / each_s.min(axis=1) + 1.0).mean()), floor)
    capacity = at_once(snr) * n_channels
    total = tasks.mean()
    least = np.inf
    n_slots = max(int(np.floor((tasks * each_s.min(axis=1)).max() / slot_s)), 1)
    while True:
        waiting = slot_s * n_slots**2 / (total + floor * n_slots)
        if waiting >= least:
            return float(least)
        energy_j = least_energy_j(joules, each_s, air_s, tasks, slot_s * n_slots, capacity)
        least = min(least, waiting + beta * energy_j / most)
        n_slots += 1


def least_energy_j(
    joules: np.ndarray,
    each_s: np.ndarray,
    air_s: np.ndarray,
    tasks: np.ndarray,
    length_s: float,
    capacity: float,
) -> float:
    """E of an episode of length_s seconds, infinite where the tasks do not fit in."""
    n_users, n_splits = each_s.shape
    of_user = np.kron(np.eye(n_users), np.ones(n_splits))
    uses = np.vstack([of_user * each_s.reshape(-1), air_s.reshape(1, -1)])
    limits = np.append(np.full(n_users, length_s), capacity * length_s)
    cost = np.tile(joules, n_users) / n_users
    found = linprog(cost, A_ub=uses, b_ub=limits, A_eq=of_user, b_eq=tasks)
    return float(found.fun) if found.success else np.inf


def at_once(snr: np.ndarray) -> float:
    """kappa, what the users can send at once on a channel, in solo rates."""
    weakest_first = np.sort(snr)
    together = np.log2(1.0 + np.cumsum(weakest_first))
    return float((np.diff(together, prepend=0.0) / np.log2(1.0 + weakest_first)).sum())
