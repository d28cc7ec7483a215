"""Law of the others' server backlog over many slots, on a grid of backlogs, in NumPy float64.

The backlog follows `Q[t+1] = max(Q[t] - D, 0) + W[t]`: D one slot of service, W a Poisson number of
independent jobs. A law on the grid spreads probability between neighbouring nodes so that the mean
is kept, which is to give node j the expectation of its hat function; a hat is a second difference
of `E (Q - x)+`, so these stop-loss values of the work that arrives are all that is needed. Axis
`X`: nodes of the grid.
"""

from collections.abc import Callable, Iterator

import numpy as np


def flows(
    nodes_s: np.ndarray,
    slot_s: float,
    jobs_per_slot: float,
    job_mean_s: float,
    job_law: str,
    slots: int,
) -> Iterator[np.ndarray]:
    """Yields the law of the backlog after n = 0, 1 ... `slots` slots: rows sum to 1, [X from, X to]
    each.

    From x >= n D the server never idles, `Q[n] = x - n D + work of n slots`: exact up to the final
    spread. Below, one slot is followed by the law of n - 1, exact as far as x - D falls on a node.

    nodes_s: seconds, increasing from 0, [X]; job_law: "uniform" on (0, 2 job_mean_s) or
    "exponential".
    """
    lattice_s = slot_s / 4
    losses_after = _work(
        lattice_s, int(1.5 * nodes_s[-1] / lattice_s), jobs_per_slot, job_mean_s, job_law
    )
    one_slot = _spread(nodes_s, np.maximum(nodes_s - slot_s, 0), lattice_s, losses_after(1))
    law = np.eye(nodes_s.size)
    yield law
    for count in range(1, slots + 1):
        longer = _spread(nodes_s, nodes_s - count * slot_s, lattice_s, losses_after(count))
        may_idle = int(np.searchsorted(nodes_s, count * slot_s * (1 - 1e-9)))
        longer[:may_idle] = one_slot[:may_idle] @ law
        law = longer
        yield law


def job_stop_loss(at_s: np.ndarray, job_mean_s: float, job_law: str) -> np.ndarray:
    """Returns `E (job - a)+` in seconds for a = `at_s` >= 0; ValueError for an unknown law."""
    if job_law == "uniform":
        return np.maximum(2 * job_mean_s - at_s, 0) ** 2 / (4 * job_mean_s)
    if job_law == "exponential":
        return job_mean_s * np.exp(-at_s / job_mean_s)
    raise ValueError(f"job_law is {job_law!r}, must be 'uniform' or 'exponential'")


def _work(
    lattice_s: float, size: int, jobs_per_slot: float, job_mean_s: float, job_law: str
) -> Callable[[int], np.ndarray]:
    """Returns n -> `E (S - a)+` at a = 0, d, 2 d ... [size], S the work of n slots, jobs rounded to
    the lattice d.

    The number of jobs is Poisson, so the transform of S is `exp(n * jobs_per_slot * (transform of a
    job - 1))`.
    """
    losses = job_stop_loss(lattice_s * np.arange(size), job_mean_s, job_law)
    losses = np.concatenate([[losses[0] + lattice_s], losses, [0.0]])
    job = np.maximum(np.diff(losses, 2), 0)
    transform = np.fft.rfft(job / job.sum(), 2 * size)

    def losses_after(slots: int) -> np.ndarray:
        law = np.fft.irfft(np.exp(slots * jobs_per_slot * (transform - 1)), 2 * size)[:size].clip(0)
        beyond = np.append(np.cumsum(law[::-1] / law.sum())[::-1][1:], 0.0)  # P(S > k d)
        return lattice_s * np.cumsum(beyond[::-1])[::-1]

    return losses_after


def _spread(
    nodes_s: np.ndarray, start_s: np.ndarray, lattice_s: float, losses_s: np.ndarray
) -> np.ndarray:
    """Law of start + S on the grid [rows, X], from `E (S - a)+` on the lattice; the last node takes
    all beyond it.
    """
    gap = nodes_s[None, :] - start_s[:, None]
    losses = np.interp(gap, lattice_s * np.arange(losses_s.size), losses_s) - np.minimum(gap, 0)
    # The share that lies beyond node j, in hats.
    passed = -np.diff(losses, axis=1) / np.diff(nodes_s)[None, :]
    return np.concatenate(
        [1 - passed[:, :1], passed[:, :-1] - passed[:, 1:], passed[:, -1:]], axis=1
    )
