"""Profiles made from networks: FLOP, cuts and parameters against public numbers, shipped profiles
and arithmetic.
"""

import dataclasses
import importlib.util
import json
import os
import sys
import tomllib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcoinfer import cli, profiler
from jaxcoinfer.data import costs, profiles
from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.profiler.graph import CONV, Graph, Node, Tensor, divide
from jaxcoinfer.profiler.timing import Timing, fit
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.registry import make
from jaxcoinfer.systems.stopping import scenario as scenarios

networks = None
if importlib.util.find_spec("onnx"):
    from tests.helpers import networks

needs_onnx = pytest.mark.skipif(
    networks is None, reason="the package onnx is not installed (extra `onnx`)"
)


@pytest.fixture(scope="module")
def chain_of(tmp_path_factory):
    """Returns `chain_of(name)`: the chain of a network of tests.helpers.networks, read once."""
    folder, known = tmp_path_factory.mktemp("onnx"), {}

    def read(name):
        if name not in known:
            path = networks.save(getattr(networks, name)(), folder / f"{name}.onnx")
            known[name] = profiler.profile_onnx(path)
        return known[name]

    return read


def macs(chain):
    return sum(layer.flop for layer in chain.layers) / 2


@needs_onnx
@pytest.mark.parametrize(("reader"), ["onnx", "flax"])
def test_alexnet_is_the_shipped_profile(chain_of, reader):
    chain = (
        chain_of("alexnet")
        if reader == "onnx"
        else profiler.profile_flax(networks.AlexNet(), (1, 224, 224, 3))
    )
    shipped = profiles.load_dnn("alexnet")
    found = [(x.flop, x.out.elements, x.kernels, x.parameters) for x in chain.layers]
    assert found == [(x.flop, x.out_elements, x.kernels, x.parameters) for x in shipped.layers]
    assert chain.input_bits == shipped.input_bits
    assert [x.name for x in chain.layers][:4] == ["conv1", "pool1", "conv2", "pool2"]


@needs_onnx
@pytest.mark.parametrize(
    ("name", "gmacs", "parameters"),
    [
        # By hand, convolutions and linear layers, MMAC. AlexNet: 64*55*55*363 = 70.28,
        # 192*27*27*1600 = 223.95, 384*13*13*1728 = 112.14, 256*13*13*3456 = 149.52, 256*13*13*2304
        # = 99.68, 9216*4096 = 37.75, 4096*4096 = 16.78, 4096*1000 = 4.10; sum 714.2 (torchvision:
        # 0.714).
        ("alexnet", 0.7142, 61_100_840),
        # ResNet18: 64*112*112*147 = 118.01; a 3x3 convolution that keeps its size 64*56*56*576 =
        # 115.61, at every width, and 13 of them; 3 of stride 2 with half of that, 57.80; 3 of 1x1,
        # 128*28*28*64 = 6.42; 0.51. 118.01 + 13 * 115.61 + 3 * 57.80 + 3 * 6.42 + 0.51 = 1814.1
        # (torchvision: 1.814).
        ("resnet18", 1.8141, 11_689_512),
        # MobileNetV2: torchvision publishes 0.301 GMAC and 3_504_872 parameters. By hand its first
        # block: 32*112*112*27 = 10.84, 32*112*112*9 = 3.61, 16*112*112*32 = 6.42.
        ("mobilenetv2", 0.301, 3_504_872),
    ],
)
def test_public_totals(chain_of, name, gmacs, parameters):
    chain = chain_of(name)
    assert macs(chain) == pytest.approx(
        gmacs * 1e9, rel=0.002
    )  # poolings, 1 FLOP an element, are counted too
    assert sum(layer.parameters for layer in chain.layers) == parameters


@needs_onnx
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_blocks_of_the_shipped_profile_are_sums_of_layers(chain_of, name):
    """The shipped blocks end at cuts of ours, with the same FLOP, kernels, parameters and elements
    in between.
    """
    layers, shipped = chain_of(name).layers, profiles.load_dnn(name).layers
    flop = np.cumsum([layer.flop for layer in layers]).tolist()
    ends = [flop.index(int(end)) + 1 for end in np.cumsum([block.flop for block in shipped])]
    for begin, end, block in zip([0, *ends], ends, shipped, strict=False):
        inside = layers[begin:end]
        assert sum(layer.kernels for layer in inside) == block.kernels
        assert sum(layer.parameters for layer in inside) == block.parameters
        assert inside[-1].out.elements == block.out_elements


@needs_onnx
def test_a_residual_block_has_no_cut_inside(chain_of):
    kernels = [layer.kernels for layer in chain_of("resnet18").layers]
    assert kernels == [
        1,
        1,
        2,
        2,
        3,
        2,
        3,
        2,
        3,
        2,
        1,
        1,
    ]  # 3: with the 1x1 convolution on the way around
    kernels = [layer.kernels for layer in chain_of("mobilenetv2").layers]
    # The ten inverted residuals with a way around are blocks of 3; the other 7 lie open: 2 + 6 * 3
    # = 20. Then the first and last convolution, pooling, linear layer.
    assert kernels.count(3) == 10 and kernels.count(1) == 20 + 4 and len(kernels) == 34


# Networks that ship with the package onnx, converted from Caffe by others: published parameters and
# multiply-adds.
FOREIGN = [
    ("light_bvlc_alexnet", 60_965_224, 0.655, 11),
    ("light_resnet50", 25_557_032, 4.089, 20),
    ("light_vgg19", 143_667_240, 19.63, 24),
    ("light_squeezenet", 1_235_496, 0.349, 22),
]


@needs_onnx
@pytest.mark.parametrize(("name", "parameters", "gmacs", "n_layers"), FOREIGN)
def test_files_that_others_exported(name, parameters, gmacs, n_layers):
    folder = os.path.dirname(importlib.util.find_spec("onnx").origin)
    path = os.path.join(folder, "backend/test/data/light", f"{name}.onnx")
    if not os.path.exists(path):
        pytest.skip("this version of onnx ships without it")
    chain = profiler.profile_onnx(path)
    assert sum(layer.parameters for layer in chain.layers) == parameters
    assert macs(chain) == pytest.approx(gmacs * 1e9, rel=0.02)
    assert len(chain.layers) == n_layers


# Readers, node by node.


@needs_onnx
def test_every_onnx_kernel_is_counted_by_hand(tmp_path):
    b = networks.Builder()
    x = b.conv("x", 3, 6, 3, pad=1, groups=3)  # 6*8*8 * 9*1 * 2 = 6912
    x = b.add(
        "ConvTranspose", x, b.zeros(6, 4, 2, 2), strides=[2, 2]
    )  # 6*8*8 inputs * 4*2*2 * 2 = 12_288
    x = b.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])  # 4*8*8 * 4 = 1024
    x = b.add(
        "MatMul", b.add("Reshape", x, b.constant(np.array([1, 32, 8]))), b.zeros(8, 2)
    )  # 32*2 * 8 * 2 = 1024
    x = b.add(
        "Gemm",
        b.add("Reshape", x, b.constant(np.array([64, 1]))),
        b.zeros(5, 64),
        transA=1,
        transB=1,
    )  # 640
    chain = profiler.profile_onnx(networks.save(b.model(x, (1, 3, 8, 8)), tmp_path / "net.onnx"))
    assert [layer.flop for layer in chain.layers] == [6912, 12_288, 1024, 1024, 640]
    assert [layer.parameters for layer in chain.layers] == [6 * 9, 6 * 4 * 4, 0, 16, 320]
    assert [layer.name for layer in chain.layers] == [
        "conv1",
        "conv2",
        "pool1",
        "linear1",
        "linear2",
    ]


@needs_onnx
def test_functions_of_a_file_and_split_tensors(tmp_path):
    """A function of the file's own is looked into; between Split and Concat there is no cut; a dead
    branch is none.
    """
    onnx = networks.onnx
    b = networks.Builder()
    b.nodes.append(
        onnx.helper.make_node("Stem", ["x", b.zeros(4, 3, 3, 3)], ["stem"], domain="mine")
    )
    b.add("NonZero", "stem")  # goes nowhere
    left, right = b.add("Split", "stem", outputs=2, axis=1)
    x = b.add("Concat", b.conv(left, 2, 2, 1), right, axis=1)
    model = b.model(b.linear(b.add("Flatten", x), 144, 2), (1, 3, 8, 8), domains=["mine"])
    body = [
        onnx.helper.make_node("Conv", ["a", "w"], ["c"]),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
    ]
    opsets = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(
        onnx.helper.make_function("mine", "Stem", ["a", "w"], ["r"], body, opsets)
    )
    chain = profiler.profile_onnx(networks.save(model, tmp_path / "net.onnx"))
    # 4*6*6 * 27 * 2; 2*6*6 * 2 * 2; 144 * 2 * 2.
    assert [(x.flop, x.out.elements) for x in chain.layers] == [(7776, 144), (288, 144), (576, 2)]


@needs_onnx
def test_a_cut_is_where_the_least_is_sent(tmp_path):
    """Quantised to 8 bits and padded: of the tensors between two kernels the smallest is sent."""
    b = networks.Builder()
    x = b.conv("x", 3, 4, 3, pad=1)
    scale, zero = b.constant(np.float32(0.1)), b.constant(np.uint8(0))
    x = b.add("DequantizeLinear", b.add("QuantizeLinear", b.relu(x), scale, zero), scale, zero)
    x = b.add("Pad", x, b.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    x = b.add("GlobalAveragePool", b.conv(x, 4, 2, 3))
    path = networks.save(
        b.model(b.linear(b.add("Flatten", x), 2, 3), (1, 3, 8, 8)), tmp_path / "net.onnx"
    )
    chain = profiler.profile_onnx(path)
    assert [layer.out.bits for layer in chain.layers] == [
        4 * 8 * 8 * 8,
        2 * 8 * 8 * 32,
        2 * 32,
        3 * 32,
    ]
    (tmp_path / "net.toml").write_text(profiler.dnn_toml(chain, 0.5))
    assert costs.upload_bits(profiles.load_dnn(tmp_path / "net.toml")).tolist() == [
        1536,
        2048,
        4096,
        64,
        96,
    ]


@jax.custom_vjp
def _project(x):
    return x @ jnp.ones((4, 2))


_project.defvjp(lambda x: (_project(x), None), lambda _, g: (g @ jnp.ones((2, 4)),))


class _Twisted(nn.Module):
    """What hides in functions: a rematerialised convolution, a custom gradient, a transposed
    convolution.
    """

    @nn.compact
    def __call__(self, x):
        x = nn.remat(nn.Conv)(6, (3, 3), feature_group_count=3)(x)
        x = nn.ConvTranspose(4, (2, 2), (2, 2))(x)
        x = nn.avg_pool(x, (2, 2), (2, 2), count_include_pad=False)
        return nn.Dense(5)(jax.jit(_project)(jax.nn.relu(x.mean((1, 2)))))


def test_every_flax_kernel_is_counted_by_hand():
    chain = profiler.profile_flax(_Twisted(), (1, 8, 8, 3))
    # As in ONNX above; then 4*8*8 pooled, 4 * 2 multiply-adds with constants, 2 * 5.
    assert [layer.flop for layer in chain.layers] == [6912, 12_288, 1024, 256, 16, 20]
    assert [layer.parameters for layer in chain.layers] == [6 * 9 + 6, 6 * 16 + 4, 0, 0, 0, 15]
    assert [layer.name for layer in chain.layers] == [
        "conv1",
        "conv2",
        "pool1",
        "pool2",
        "linear1",
        "linear2",
    ]


@needs_onnx
def test_flax_residual_block():
    with jax.numpy_dtype_promotion("standard"):  # avg_pool of Flax divides by an integer
        chain = profiler.profile_flax(networks.Residual(), (1, 16, 16, 3), train=False)
    # 16*16*8 * 27 * 2; two of 16*16*8 * 72 * 2; 8*8*8 * 4; 512 * 16 * 2; 16 * 10 * 2.
    assert [layer.flop for layer in chain.layers] == [110_592, 589_824, 2048, 16_384, 320]
    assert [layer.kernels for layer in chain.layers] == [1, 2, 1, 1, 1]
    assert [layer.out.elements for layer in chain.layers] == [2048, 2048, 512, 16, 10]
    # Weights, then scale and bias of each normalisation: 216 + 16, 2 * (576 + 16), 0, 512 * 16 + 16
    # (+ 32), 160 + 10.
    assert [layer.parameters for layer in chain.layers] == [232, 1184, 0, 8208 + 32, 170]
    assert chain.layers[1].labels == (
        "Residual/Conv_1/conv_general_dilated",
        "Residual/Conv_2/conv_general_dilated",
    )


# Cuts against a brute force: a tensor is a cut where no way from input to output goes around it.


def _graph(parents, order):
    """Node i + 1 reads the tensors parents[i] and makes tensor i + 1; all are kernels; the last is
    the output.
    """
    nodes = [
        Node(str(i + 1), tuple(map(str, p)), (str(i + 1),), CONV, 1) for i, p in enumerate(parents)
    ]
    tensors = {str(i): Tensor((1, 1), 32) for i in range(len(parents) + 1)}
    return Graph("random", "0", str(len(parents)), tuple(nodes[i] for i in order), tensors)


def _around(parents, without):
    """Whether the output can be reached from the input without that tensor."""
    reached = {0} - {without}
    for i, above in enumerate(parents, 1):
        if i != without and reached.intersection(above):
            reached.add(i)
    return len(parents) in reached


@given(st.data())
def test_cuts_are_the_tensors_that_no_way_goes_around(data):
    n = data.draw(st.integers(2, 9))
    parents = [data.draw(st.sets(st.integers(0, i), min_size=1, max_size=2)) for i in range(n)]
    order, ready = [], {0}
    while len(order) < n:  # any order in which they can run
        can = [i for i in range(n) if i not in order and parents[i] <= ready]
        order.append(data.draw(st.sampled_from(can)))
        ready.add(order[-1] + 1)
    cuts = [i for i in range(1, n) if not _around(parents, i)]
    if cuts:
        chain = divide(_graph(parents, order), "net")
        assert [int(layer.end) for layer in chain.layers] == [*cuts, n]
    else:
        with pytest.raises(ProfileError, match="cannot be cut"):
            divide(_graph(parents, order), "net")


# What is written.

EXITS = """
[[exits]]
after_layer = 4
head_flop = 1_000_000
accuracy = 0.5
[source]
exits = "assumed: for a test"
"""


@needs_onnx
def test_profile_loads_and_serves_a_scenario(chain_of, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        profiler.dnn_toml(chain_of("alexnet"), 0.565).replace("[source]", EXITS.strip())
    )
    dnn, shipped = profiles.load_dnn(path), profiles.load_dnn("alexnet")
    assert dnn.full_accuracy == 0.565 and not dnn.layers[-1].cut
    assert costs.upload_bits(dnn).tolist() == costs.upload_bits(shipped).tolist()
    wifi = registry.load_scenario("wifi")
    task = dataclasses.replace(wifi.task, dnn=str(path), exit=4)
    numbers = scenarios.task_numbers(task)
    as_shipped = scenarios.task_numbers(dataclasses.replace(task, dnn="alexnet"))
    np.testing.assert_allclose(numbers["layer_s"][:-1], as_shipped["layer_s"][:-1])
    env, _ = make(dataclasses.replace(wifi, task=task, rows=2, slots=4096))
    assert env.n_choices == 6  # stop at 0 to 4 layers, or leave by the exit


@needs_onnx
def test_a_profile_without_accuracy_says_what_to_fill_in(chain_of, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(profiler.dnn_toml(chain_of("alexnet")))
    with pytest.raises(ProfileError, match=r"full_accuracy = 'fill in, 0.0 to 1.0' is invalid"):
        profiles.load_dnn(path)
    path.write_text(path.read_text().replace('"fill in, 0.0 to 1.0"', "0.5"))
    with pytest.raises(ProfileError, match=r"full_accuracy.*fill in.*measured:"):
        profiles.load_dnn(path)


def test_names_of_nodes_cannot_break_the_file(tmp_path):
    tensors = {name: Tensor((1, 4), 16) for name in "abc"}
    nodes = (
        Node('a"\n[x]\x7f', ("a",), ("b",), CONV, 1),
        Node("β\\", ("b",), ("c",), CONV, 1, {"w": 3}),
    )
    path = tmp_path / "net.toml"
    path.write_text(
        profiler.dnn_toml(divide(Graph('in "quotes"\n.onnx', "a", "c", nodes, tensors), "net"), 1)
    )
    dnn = profiles.load_dnn(path)
    assert [(layer.flop, layer.upload_bits, layer.parameters) for layer in dnn.layers] == [
        (1, 64, 0),
        (1, 64, 3),
    ]
    assert dnn.input_bits == 64  # no picture: 4 values of the 16 bits that the network takes


def test_fit_finds_what_made_the_seconds_and_stays_above_the_fastest_layer():
    kernels, flop = np.array([1, 2, 1, 3]), np.array([1e6, 5e7, 2e8, 1e9])
    overhead_s, peak_flops = fit(kernels * 3e-4 + flop / 2e10, kernels, flop)
    assert overhead_s == pytest.approx(3e-4, rel=1e-3) and peak_flops == pytest.approx(
        2e10, rel=1e-3
    )
    # A small layer at 1e11 FLOP/s among slow ones: no peak below what it did.
    layer_s = [1e-5, 0.01, 0.04, 0.2]
    assert fit(layer_s, kernels, flop)[1] >= 1e11
    # Twice 5e10 FLOP/s exactly, without overhead: rounded up, or the layers would be faster than
    # the peak.
    assert 5e10 < fit([0.02, 0.04], [1, 1], [1e9, 2e9])[1] < 5.01e10
    assert fit([1e-3, 1e-3], [1, 1], [0, 0])[0] == pytest.approx(1e-3, rel=1e-3)  # no FLOP at all


@given(
    st.lists(
        st.tuples(st.floats(1e-6, 1.0), st.integers(1, 9), st.integers(0, 10**11)),
        min_size=1,
        max_size=9,
    )
)
def test_no_layer_is_faster_than_the_fitted_peak(layers):
    layer_s, kernels, flop = map(np.array, zip(*layers, strict=True))
    overhead_s, peak_flops = fit(layer_s, kernels, flop)
    assert overhead_s >= 0 and np.isfinite(peak_flops) and np.all(flop / peak_flops <= layer_s)


@needs_onnx
def test_device_profile_loads_once_watts_are_filled_in(chain_of, tmp_path):
    chain = chain_of("alexnet")
    layer_s = tuple(1e-4 + layer.flop / 1e11 for layer in chain.layers)
    timing = Timing(layer_s, 1e-4, 1.2e11, 'some "machine"', "onnxruntime 1")
    path = tmp_path / "device.toml"
    path.write_text(profiler.device_toml(chain, timing))
    with pytest.raises(ProfileError, match="power_idle_w = 'fill in, watts'"):
        profiles.load_device(path)
    text = path.read_text().replace('"fill in, watts"', "2.0").replace('"fill in, as in ', '"')
    path.write_text(text)
    (tmp_path / "net.toml").write_text(profiler.dnn_toml(chain, 0.5))
    seconds = costs.layer_seconds(
        profiles.load_device(path), profiles.load_dnn(tmp_path / "net.toml")
    )
    np.testing.assert_allclose(seconds, layer_s, rtol=1e-3)


# The command.


def _run(*arguments):
    return cli.main(["profile", *map(str, arguments)])


@needs_onnx
@pytest.mark.skipif(
    not importlib.util.find_spec("onnxruntime"), reason="the package onnxruntime is not installed"
)
def test_command_writes_both_profiles_and_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    networks.save(networks.small(("batch", 3, "height", "width")), tmp_path / "my net.v1.onnx")
    assert _run("my net.v1.onnx", "--input-shape", "1,3,8,8", "--accuracy", "0.75") == 0
    said = capsys.readouterr().out.splitlines()
    assert max(map(len, said)) <= 80 and said[1].split()[-1] == "ms"
    assert any("my-net-v1.toml written" in line for line in said)
    dnn = profiles.load_dnn("my-net-v1.toml")
    assert [layer.name for layer in dnn.layers] == ["conv1", "conv2", "pool1", "pool2", "linear1"]
    path = tmp_path / "my-net-v1-device.toml"
    path.write_text(
        path.read_text().replace('"fill in, watts"', "2.0").replace('"fill in, as in ', '"')
    )
    assert all(costs.layer_seconds(profiles.load_device(path), dnn) > 0)


@needs_onnx
@pytest.mark.skipif(
    not importlib.util.find_spec("onnxruntime"), reason="the package onnxruntime is not installed"
)
def test_layers_of_every_network_run_alone(tmp_path, monkeypatch):
    """Blocks, shapes computed on the way and constants made by nodes are all cut out whole."""
    monkeypatch.setattr("jaxcoinfer.profiler.timing.RUNS", 1)
    monkeypatch.setattr("jaxcoinfer.profiler.timing.WARM_RUNS", 0)
    monkeypatch.setattr("jaxcoinfer.profiler.timing.LONGEST_S", 0.0)
    path = networks.save(networks.mobilenetv2(), tmp_path / "net.onnx")
    chain = profiler.profile_onnx(path)
    timing = profiler.time_onnx(path, chain)
    assert len(timing.layer_s) == len(chain.layers) and min(timing.layer_s) > 0


@needs_onnx
def test_without_onnxruntime_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = networks.save(networks.small(), tmp_path / "net.onnx")
    assert _run(path, "--out", tmp_path / "net.toml", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["device"] is None and facts["layer_s"] is None
    assert (
        sum("latency was not measured: pip install onnxruntime" in line for line in facts["todo"])
        == 1
    )
    assert not (tmp_path / "net-device.toml").exists()
    assert [layer["flop"] for layer in facts["layers"]] == [13_824, 36_864, 512, 128, 80]
    assert (
        tomllib.loads((tmp_path / "net.toml").read_text())["input_bits"]
        == facts["input_bits"]
        == 1536
    )
