"""Random `stopping` systems for the tests, one description for both the library and the reference
simulator.

All draws have the same shape, so that each jitted function compiles once a number of layers. Work
is whole ticks, bits are whole, speeds are sixteenths: the fixed-point numbers of a bank hold them
without rounding, so any difference between the library and the reference is an error and not a
matter of digits.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.contract import Env
from jaxcoinfer.systems.stopping import env as stopping
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping.params import Params, make_params
from tests.reference import stopping as reference

ROWS, SLOTS = 2, 320
# Decisions of an episode: each task that stops at 0 takes one and no time, each other decision
# takes a slot or more.
STEPS = 2 * SLOTS


@dataclasses.dataclass(frozen=True)
class System:
    """A system, and one draw of its world."""

    numbers: dict  # keywords of `make_params`
    arrivals: np.ndarray  # [K, T], tasks
    edge_work: np.ndarray  # [K, T], ticks
    slot_bits: np.ndarray  # [K, T]
    observed_bits: np.ndarray  # [K, T]
    speed: np.ndarray  # [K, T], 1 = nominal

    @property
    def n_layers(self) -> int:
        return len(self.numbers["layer_s"]) - 1

    @property
    def env(self) -> stopping.Stopping:
        return stopping.Stopping(self.n_layers)

    def params(self) -> Params:
        draw = exogenous.Draw(
            jnp.asarray(self.arrivals, jnp.int32),
            jnp.asarray(self.edge_work, jnp.int32),
            jnp.asarray(self.slot_bits, jnp.int32),
            jnp.asarray(self.observed_bits, jnp.int32),
            jnp.asarray(self.speed, jnp.float32),
        )
        return make_params(exogenous.make_bank(draw), draw.slot_bits, **self.numbers)

    def reference(self, row: int, beyond: int = 100) -> tuple[reference.Scenario, reference.Draw]:
        """One row for the reference, continued by `beyond` slots of another world.

        The reference can then finish every task that the library can. Whatever the library says
        about a task must not depend on the continuation: nothing is read past the end of a row. The
        reference has no round-trip time, which is a constant on each upload.
        """

        def continued(values: np.ndarray, filler: float):
            return np.concatenate([values[row], np.full(beyond, filler, values.dtype)])

        names = {"accuracy_weight": "alpha", "energy_weight": "beta"}
        numbers = {
            names.get(name, name): value for name, value in self.numbers.items() if name != "rtt_s"
        }
        scenario = reference.Scenario(**numbers)
        tick_s = self.numbers["slot_s"] / exogenous.TICKS
        draw = reference.Draw(
            arrivals=continued(self.arrivals, 0),
            edge_work_s=continued(self.edge_work * tick_s, 7.0),
            slot_bits=continued(self.slot_bits, 10**9).astype(np.float64),
            observed_bits=continued(self.observed_bits, 10**9).astype(np.float64),
            speed=continued(self.speed, 0.25),
        )
        return scenario, draw


def random_system(seed: int, n_layers: int, **changes: Any) -> System:
    """Returns a system whose regimes (load, link, arrivals, speed, free choices) are drawn from
    `seed`.
    """
    rng = np.random.default_rng([seed, n_layers])
    shape = (ROWS, SLOTS)
    # The last wraps an int32 within 108 slots.
    mean_bits = int(rng.choice([100, 12_345, 1_260_000, 20_000_000]))
    slot_s = float(rng.choice([0.001, 0.01, 0.1]))
    layers = rng.uniform(0.2, 12.0 / n_layers, n_layers)
    head = rng.choice([0.0, rng.uniform(0.2, 3.0)])
    # Slots at the mean rate; some 0.
    uploads = rng.uniform(0.0, 6.0, n_layers + 1) * (rng.random(n_layers + 1) > 0.2)
    system = System(
        numbers=dict(
            slot_s=slot_s,
            layer_s=tuple(slot_s * np.append(layers, head)),
            upload_bits=tuple(np.round(mean_bits * uploads)),
            server_s=tuple(slot_s * rng.uniform(0.0, 8.0, n_layers + 1)),
            device_energy_j=tuple(np.cumsum(rng.uniform(0.0, 0.05, n_layers + 2))),
            accuracy=tuple(rng.uniform(0.3, 1.0, n_layers + 2)),
            transmit_w=float(rng.uniform(0.0, 1.0)),
            transmit_j_per_bit=float(rng.choice([0.0, 0.05 / mean_bits])),
            rtt_s=float(rng.choice([0.0, 2.5 * slot_s])),
            accuracy_weight=float(rng.uniform(0.5, 3.0)),
            energy_weight=float(rng.uniform(0.0, 3.0)),
        ),
        arrivals=_arrivals(rng, shape),
        edge_work=_edge_work(rng, shape),
        slot_bits=(bits := _slot_bits(rng, shape, mean_bits)),
        # Late by a slot, and never what the link carries in the slot itself.
        observed_bits=np.concatenate([bits[:, :1], bits[:, :-1]], axis=1) + 1,
        speed=rng.choice([[1.0] * 5, [0.5, 0.75, 1.0, 1.25, 2.0]][rng.integers(2)], shape),
    )
    return dataclasses.replace(system, **changes)


def _arrivals(rng: np.random.Generator, shape: tuple[int, int]):
    """Single tasks, or bursts of up to six in a slot; from rarely one to more than the device can
    serve.
    """
    mean = rng.choice([0.03, 0.06, 0.15, 0.5])
    if rng.random() < 0.5:
        return (rng.random(shape) < mean).astype(np.int64)
    return rng.integers(1, 7, shape) * (rng.random(shape) < mean / 3.5)


def _edge_work(rng: np.random.Generator, shape: tuple[int, int]):
    """Jobs of up to 20 slots, load of the server 0 to 1.3; ticks."""
    load = rng.choice([0.0, 0.5, 0.9, 1.3])
    jobs = rng.random(shape) < load / 10.0
    return jobs * rng.integers(0, 20 * exogenous.TICKS, shape)


def _slot_bits(rng: np.random.Generator, shape: tuple[int, int], mean: int):
    """A constant link, one whose rate changes each slot, or one with outages of about 8 slots."""
    kind = rng.integers(3)
    if kind == 0:
        return np.full(shape, mean)
    bits = np.round(mean * rng.uniform(0.2, 1.8, shape)).astype(np.int64)
    if kind == 2:
        out = np.repeat(rng.random((shape[0], shape[1] // 8)) < 0.3, 8, axis=1)
        out[:, -16:] = False  # else the row could be too short for any upload
        bits[out] = 0
    return bits


def random_stops(seed: int, n_layers: int, probability: float) -> np.ndarray:
    """Returns [SLOTS * 2, Le+1] bool: whether task n stops at layer l."""
    return np.random.default_rng([seed, 77]).random((2 * SLOTS, n_layers + 1)) < probability


# One jitted function for all tests, so that a test file that asks for what another has compiled
# does not wait again.
reset_at = jax.jit(stopping.Stopping.reset_at, static_argnums=0)
step = jax.jit(stopping.Stopping.step, static_argnums=0)


@partial(jax.jit, static_argnums=(0,), static_argnames=("n_steps",))
def play(
    env: Env,
    params: Params,
    stops: jax.Array,
    rows: jax.Array,
    slots: jax.Array,
    n_steps: int = STEPS,
):
    """Plays `stops` [N, Le+1] from each of `rows` and `slots` [B].

    Returns first (state, time step) [B], states before each step and time steps after it [n_steps,
    B], and the last.
    """
    first = jax.jit(jax.vmap(env.reset_at, (0, 0, None)))(rows, slots, params)

    def move(carry: Any, _: None):
        state, _ = carry
        action = jnp.where(stops[state.task, state.layer], stopping.STOP, stopping.CONTINUE)
        after = jax.vmap(env.step, (0, 0, None))(state, action, params)
        return after, (state, after[1])

    last, (states, steps) = jax.lax.scan(move, first, length=n_steps)
    return first, states, steps, last


def played(system: System, params: Params, stops: np.ndarray, slots: Sequence[int] = (0, 0)):
    """As `play`, from `slots` of each row of the system, as NumPy arrays."""
    rows = jnp.arange(ROWS, dtype=jnp.int32)
    return jax.tree.map(
        np.asarray,
        play(system.env, params, jnp.asarray(stops), rows, jnp.asarray(slots, jnp.int32)),
    )


def flat(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_trees_equal(a: Any, b: Any):
    """Equal to the last bit, in structure, type and shape too."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(flat(a), flat(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_array_equal(x, y)


def assert_trees_close(a: Any, b: Any, rtol: float = 1e-6, atol: float = 1e-6):
    """Whole numbers and truths equal, floats close: compiled code may round a product and a sum
    once, not twice.
    """
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(flat(a), flat(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        if np.issubdtype(x.dtype, np.floating):
            np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(x, y)
