"""Random fleets for the tests, one description for both the library and the reference."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.systems.fleet import baselines
from jaxcoinfer.systems.fleet.allocation import FleetTables
from jaxcoinfer.systems.fleet.env import Fleet, FleetState
from jaxcoinfer.systems.fleet.exogenous import FleetBank
from jaxcoinfer.systems.fleet.params import FleetParams, make_params
from tests.reference import fleet as reference

KINDS, VERSIONS, CUTS = 3, 2, 3
ROWS, SLOTS = 2, 4
POLICIES = (
    baselines.device_only,
    baselines.edge_only,
    baselines.one_version,
    baselines.equal_shares,
    baselines.greedy,
    baselines.alternating,
    baselines.dual_recovery,
)


@dataclasses.dataclass(frozen=True)
class System:
    """numbers: keywords of `make_params`. bank: fields of a `FleetBank`, NumPy arrays."""

    numbers: dict
    bank: dict
    delay_slots: int = 0

    @property
    def with_cloud(self) -> bool:
        return "backhaul_bps" in self.numbers

    @property
    def n_devices(self) -> int:
        return self.bank["active"].shape[2]

    def env(self, learned_shares: bool = False) -> Fleet:
        return Fleet(self.n_devices, VERSIONS, CUTS, self.with_cloud, learned_shares)

    def params(self) -> FleetParams:
        whole = {"active": bool, "kind": np.int32}
        bank = {
            name: jnp.asarray(value, whole.get(name, np.float32))
            for name, value in self.bank.items()
        }
        return make_params(FleetBank(**bank), **self.numbers, delay_slots=self.delay_slots)

    def state(self, row: int, slot: int) -> FleetState:
        return reset_at(self.env(), jnp.int32(row), jnp.int32(slot), self.params())[0]

    def reference(self, row: int, slot: int) -> tuple:
        """(system, devices, share of the band, share of the server) of one slot."""
        names = ("active", "weight", "efficiency", "speed")
        devices = [
            reference.Device(
                kind=int(self.bank["kind"][row, d]),
                **{name: self.bank[name][row, slot, d].item() for name in names},
            )
            for d in range(self.n_devices)
        ]
        shares = [float(self.bank[name][row, slot]) for name in ("bandwidth", "server")]
        return reference.System(**self.numbers), devices, *shares


def random_fleet(seed: int, n_devices: int, cloud: bool = False, everybody: bool = False) -> System:
    """Returns a fleet whose regime (links, servers, machines, weights) is drawn from `seed`."""
    rng = np.random.default_rng([seed, n_devices, cloud])
    shape = (ROWS, SLOTS + 1, n_devices)

    def sums(*sizes):
        return np.concatenate(
            [np.zeros((*sizes, 1)), np.cumsum(rng.uniform(0.1, 1.0, (*sizes, CUTS - 1)), -1)], -1
        )

    slowness = 10.0 ** rng.uniform(-2.0, 0.5, (KINDS, 1, 1))
    upload = rng.uniform(0.05, 1.0, (VERSIONS, CUTS)) * 1e6
    upload[:, -1] = 0.0
    numbers = {
        "device_s": slowness * sums(KINDS, VERSIONS),
        "device_energy_j": sums(KINDS, VERSIONS),
        "work_flop": sums(VERSIONS) * 1e9,
        "upload_bits": np.round(upload),
        "overhead_s": 0.003 * sums(),
        "accuracy": rng.uniform(0.4, 0.9, (VERSIONS, CUTS)),
        "bandwidth_hz": 10.0 ** rng.uniform(5.5, 7.5),
        "server_flops": 10.0 ** rng.uniform(9.5, 11.5),
        "reference_s": float(rng.choice([0.1, 0.5])),
        "cap_s": 40.0,
        "rtt_s": float(rng.choice([0.0, 0.02])),
        "transmit_w": float(rng.choice([0.0, 0.7])),
        "transmit_j_per_bit": 1e-8,
    }
    if cloud:
        numbers |= {
            "cloud_flops": 2e12,
            "cloud_overhead_s": 0.001 * sums(),
            "cloud_rtt_s": 0.03,
            "backhaul_bps": 2e7,
        }
    bank = {
        "efficiency": rng.uniform(0.2, 5.0, shape),
        "weight": rng.uniform(0.0, 1.0, shape),
        "speed": rng.uniform(0.5, 1.5, shape),
        "active": (rng.random(shape) < 0.8) | everybody,
        "kind": rng.integers(0, KINDS, (ROWS, n_devices)),
        "bandwidth": rng.uniform(0.3, 1.0, shape[:2]),
        "server": rng.uniform(0.1, 1.0, shape[:2]),
    }
    # As float32 holds them, so that both sides compute on the same numbers.
    single = {
        name: v.astype(np.float32).astype(float) if v.dtype == float else v
        for name, v in bank.items()
    }
    return System(numbers, single)


def random_tables(seed: int, n_devices: int, n_versions: int = 4, n_cuts: int = 6) -> FleetTables:
    """Costs of a fleet that mixes versions and cuts: thinner versions cost accuracy, later cuts
    device time.
    """
    rng = np.random.default_rng([seed, n_devices])
    shape = (n_devices, n_versions, n_cuts)

    def one(low, high):
        return rng.uniform(low, high, (n_devices, 1, 1))

    width = np.linspace(1.0, 0.25, n_versions)[None, :, None]
    done = np.linspace(0.0, 1.0, n_cuts)[None, None]
    sent = (
        np.append(1.2, np.linspace(0.1, 0.02, n_cuts - 1))[None, None]
        * np.where(done == 0, 1.0, width)
        * (done < 1)
    )
    weight = one(0.05, 0.95)
    crowd = 16.0 / n_devices * rng.uniform(0.1, 3.0, 2)
    alone = (1 - weight) * 0.4 * (1 - 0.5 * width) + weight * 5.0 * np.exp(
        one(-3.0, 1.5)
    ) * done * (0.1 + width**2)
    bandwidth = weight * sent / np.exp(one(-1.8, 1.7)) * 0.5 * crowd[0]
    compute = weight * (1 - done) * width**2 * 0.13 * crowd[1]
    costs = [
        np.broadcast_to(cost, shape).reshape(n_devices, -1) for cost in (alone, bandwidth, compute)
    ]
    return FleetTables(*(jnp.asarray(cost, jnp.float32) for cost in costs))


reset_at = jax.jit(Fleet.reset_at, static_argnums=0)
step = jax.jit(Fleet.step, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def step_all(env, state, choices, params):
    """One step for each of choices [N, D]."""
    return jax.vmap(lambda choice: env.step(state, choice, params)[1])(choices)
