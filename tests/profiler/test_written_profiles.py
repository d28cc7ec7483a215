"""Profiles that are written load again, whatever was measured."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxcoinfer import profiler
from jaxcoinfer.data import costs, profiles
from jaxcoinfer.profiler.graph import Chain, Layer, Tensor
from jaxcoinfer.profiler.timing import fitted, rounded, rounded_up
from profiles.build import data, measure, train, write
from profiles.build.model import LAYERS

SECONDS = st.floats(1e-7, 100.0)
FLOP = st.one_of(st.just(0), st.integers(0, 10**13))
N_SAMPLES = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


def fill_in(text):
    return text.replace('"fill in, watts"', "2.0").replace('"fill in, as in ', '"')


@given(
    st.lists(st.tuples(SECONDS, st.integers(1, 20), FLOP), min_size=2, max_size=9),
    st.booleans(),
)
@example([(1e-7, 1, 10**13), (100.0, 1, 0)], False)  # faster than what a fit takes for possible
@example([(1.01549e-4, 1, 1_647_620), (2.03098e-4, 1, 3_295_240)], False)  # rounded down
@example([(1e-3, 1, 0), (1e-3, 2, 0)], False)
@settings(deadline=None)
def test_profiles_of_a_network_and_its_machine_load(folder, timed, equal):
    seconds = [timed[0][0] if equal else layer_s for layer_s, _, _ in timed]
    out = Tensor((1, 4), 32)
    layers = tuple(
        Layer(f"linear{i}", flop, kernels, 0, str(i), str(i + 1), out, ("a", "b"))
        for i, (_, kernels, flop) in enumerate(timed)
    )
    chain = Chain("net", "net.onnx", Tensor((1, 4), 32), layers)
    timing = fitted(chain, seconds, 'a "runtime" \\ 1')
    (folder / "net.toml").write_text(fill_in(profiler.dnn_toml(chain, 0.5)))
    (folder / "device.toml").write_text(fill_in(profiler.device_toml(chain, timing)))
    dnn = profiles.load_dnn(folder / "net.toml")
    device = profiles.load_device(folder / "device.toml")
    assert costs.layer_seconds(device, dnn).tolist() == list(map(rounded, seconds))
    assert (device.overhead_s, device.peak_flops) == (
        rounded(timing.overhead_s),
        timing.peak_flops,
    )


layers_of_a_version = st.lists(st.tuples(SECONDS, FLOP), min_size=len(LAYERS), max_size=len(LAYERS))


@given(st.lists(layers_of_a_version, min_size=1, max_size=3), st.booleans(), st.floats(0, 1))
@settings(deadline=None)
def test_what_the_build_measures_loads(folder, versions, equal, share):
    widths = (1.0, 0.5, 0.25)[: len(versions)]
    seconds = [
        np.array([versions[0][0][0] if equal else layer_s for layer_s, _ in version])
        for version in versions
    ]
    ones = np.ones(len(LAYERS), int)
    counted = [
        measure.Costs(np.array([flop for _, flop in version]), ones, ones, np.array([0, 10**9]))
        for version in versions
    ]
    right = np.arange(N_SAMPLES) < share * N_SAMPLES
    correct = np.broadcast_to(right, (3, len(LAYERS) + 1, len(measure.BITS), N_SAMPLES))
    sure = np.full((3, N_SAMPLES), share, np.float32)
    answers = [measure.Answers(correct, sure, -1e-8 * sure)] * len(versions)
    pictures = np.zeros((1, 32, 32, 3), np.uint8)
    images = data.Images(pictures, ones[:1], pictures, ones[:1], 'made "up"')
    network = write.network(folder, widths, counted, answers, images, train.Config())
    machine = write.machine(folder, "box", widths, counted, seconds)
    dnn, server = profiles.load_dnn(network), profiles.load_server(machine)
    for width, expected_s in zip(widths, seconds, strict=True):
        layer_s = costs.layer_seconds(server, profiles.version(dnn, width))
        assert layer_s.tolist() == list(map(rounded, expected_s))


@given(st.floats(1.0, 1e30))
@example(5e10)
@example(9.9995e22)
def test_rounded_up_is_the_next_number_of_four_figures(number):
    above = rounded_up(number)
    assert number < above <= number * 1.0011
    assert rounded(above) == above
