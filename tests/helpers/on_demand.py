"""Random `on-demand` systems for the tests, one description for both the library and the reference
simulator.

All have the same shape, so that each jitted function compiles once: two exits, which leave after
two and three blocks, four cuts, two widths, two classes.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxcoinfer.systems.on_demand import exogenous
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.params import Params, make_params
from tests.reference import on_demand as reference

ROWS, SLOTS = 3, 40
EXITS, CUTS, WIDTHS = 2, 4, 2


@dataclasses.dataclass(frozen=True)
class System:
    """The reference's scenario; draws [K, T]: rate, device speed, edge speed, class."""

    scenario: reference.Scenario
    draws: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    delay_slots: int = 1

    @property
    def env(self) -> OnDemand:
        s = self.scenario
        return OnDemand(
            len(s.exit_after), len(s.layer_device_s) + 1, len(s.bits), len(s.deadline_s)
        )

    def draw(self, row: int) -> reference.Draw:
        return reference.Draw(*(values[row] for values in self.draws))

    def params(self) -> Params:
        return make_params(bank_of(self), **numbers_of(self))


def bank_of(system: System) -> exogenous.Bank:
    rate_bps, *speeds, kinds = system.draws
    observed_bps = np.roll(rate_bps, system.delay_slots, axis=1)  # rows begin after the delay
    floats = (jnp.asarray(v, jnp.float32) for v in (rate_bps, observed_bps, *speeds))
    return exogenous.make_bank(exogenous.Draw(*floats, jnp.asarray(kinds, jnp.int32)))


def numbers_of(system: System) -> dict:
    """Keywords of `make_params`."""
    s = system.scenario
    n_cuts, widths = len(s.layer_device_s) + 1, len(s.bits)
    cut, end = np.arange(n_cuts)[None, :, None], np.array(s.exit_after)[:, None, None]
    lost = np.where((cut > 0) & (cut < end), np.array(s.bits_loss)[None, None, :], 0.0)
    features = np.outer(s.feature_elements, s.bits)
    return dict(
        cut_device_s=np.append(0.0, np.cumsum(s.layer_device_s)),
        cut_edge_s=np.append(0.0, np.cumsum(s.layer_edge_s)),
        cut_energy_j=np.append(0.0, np.cumsum(s.layer_energy_j)),
        cut_allowed=np.ones(n_cuts, bool),
        exit_cut=s.exit_after,
        exit_device_s=s.head_device_s,
        exit_edge_s=s.head_edge_s,
        exit_energy_j=s.head_energy_j,
        upload_bits=np.concatenate([np.full((1, widths), s.input_bits), features]),
        accuracy=np.maximum(np.array(s.exit_accuracy)[:, None, None] - lost, 0.0),
        deadline_s=s.deadline_s,
        accuracy_weight=s.omega,
        penalty=s.penalty,
        transmit_w=s.transmit_w,
        transmit_j_per_bit=s.transmit_j_per_bit,
        rtt_s=s.rtt_s,
        cap=s.cap,
        delay_slots=system.delay_slots,
    )


def random_system(seed: int, **changes) -> System:
    """Returns a system drawn from `seed`: links with and without outages, speeds, sizes, deadlines
    tight and loose.
    """
    rng = np.random.default_rng([seed, 7])
    shape = (ROWS, SLOTS)
    rates = np.float32(
        rng.uniform(0.1, 3.0, shape) * 1e6 * (rng.random(shape) > rng.choice([0.0, 0.3]))
    )
    scenario = reference.Scenario(
        layer_device_s=tuple(rng.uniform(0.001, 0.02, 3)),
        layer_edge_s=tuple(rng.uniform(0.0001, 0.005, 3)),
        layer_energy_j=tuple(rng.uniform(0.0, 0.1, 3)),
        feature_elements=tuple(rng.uniform(100, 4000, 3)),
        input_bits=float(rng.choice([0.0, rng.uniform(1e3, 1e5)])) if rng.random() < 0.2 else 2e4,
        exit_after=(2, 3),
        head_device_s=(float(rng.uniform(0, 0.005)), 0.0),
        head_edge_s=(float(rng.uniform(0, 0.001)), 0.0),
        head_energy_j=(float(rng.uniform(0, 0.01)), 0.0),
        exit_accuracy=tuple(np.sort(rng.uniform(0.3, 1.0, 2))),
        bits=(4, 8),
        bits_loss=(float(rng.uniform(0.0, 0.4)), 0.001),
        transmit_w=float(rng.uniform(0.0, 1.0)),
        transmit_j_per_bit=float(rng.uniform(0.0, 1e-6)),
        rtt_s=float(rng.choice([0.0, 0.004])),
        deadline_s=tuple(rng.uniform(0.005, 0.06, 2)),
        omega=tuple(rng.uniform(0.0, 1.0, 2)),
        penalty=tuple(rng.uniform(0.0, 3.0, 2)),
        cap=float(rng.uniform(1.5, 10.0)),
    )
    speeds = (np.float32(rng.uniform(0.3, 2.0, shape)) for _ in range(2))
    return System(
        **dict(scenario=scenario, draws=(rates, *speeds, rng.integers(0, 2, shape))) | changes
    )
