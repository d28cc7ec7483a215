"""Profiles: what ships loads and adds up, and what is wrong is refused in one line that says so."""

import ast
import copy
import dataclasses
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from jaxcoinfer.data import profiles
from jaxcoinfer.data.costs import (
    cumulative_energy_j,
    cuts,
    head_seconds,
    layer_seconds,
    upload_bits,
)
from jaxcoinfer.data.profiles import (
    ProfileError,
    list_profiles,
    load_device,
    load_dnn,
    load_link,
    load_server,
    profiles_root,
)

LOAD = {"dnn": load_dnn, "device": load_device, "server": load_server, "link": load_link}
SHIPPED = [(kind, name) for kind, names in list_profiles().items() for name in names]
DNNS = list_profiles()["dnn"]
MACHINES = [(kind, name) for kind, name in SHIPPED if kind in ("device", "server")]

DNN = """
kind = "dnn"
name = "tiny"
description = "three layers, two exits"
input_bits = 800
full_accuracy = 0.9
bits = [8, 32]
[[layers]]
name = "a"
flop = 1000.0
out_elements = 10
[[layers]]
name = "b"
flop = 3_000
out_elements = 20
kernels = 2
upload_bits = 64
[[layers]]
name = "c"
flop = 0
out_elements = 5
parameters = 7
cut = false
[[exits]]
after_layer = 1
head_flop = 500
accuracy = 0.5
[[exits]]
after_layer = 2
head_flop = 500
accuracy = 0.75
[source]
input_bits = "computed: 100 * 8"
full_accuracy = "assumed: test"
bits = "assumed: test"
layers = "assumed: test"
"exits.after_layer" = "assumed: test"
"exits.head_flop" = "assumed: test"
"exits.accuracy" = "assumed: test"
"""

DEVICE = """
kind = "device"
name = "board"
description = "a board"
overhead_s = 0.5
peak_flops = 1000.0
power_idle_w = 1
power_busy_w = 2.0
[measured.other]
layer_s = [1.0, 2.0]
energy_j = [3.0, 2.5]
[source]
overhead_s = "assumed: test"
peak_flops = "assumed: test"
power_idle_w = "cited: a book"
power_busy_w = "measured: here, today"
"measured.other" = "assumed: test"
"""

LINK = """
kind = "link"
name = "cable"
description = "a cable"
rate_bps = 1e6
rtt_s = 0
transmit_w = 0.1
transmit_j_per_bit = 1e-9
trace = ["a.csv"]
[source]
rate_bps = "assumed: test"
rtt_s = "assumed: test"
transmit_w = "assumed: test"
transmit_j_per_bit = "assumed: test"
"""

TEXT = {
    "dnn": DNN,
    "device": DEVICE,
    "server": DEVICE.replace('"device"', '"server"'),
    "link": LINK,
}


def write(tmp_path, kind, old="", new="", text=None):
    """A profile file of `kind` in which `old`, which is there once, became `new`."""
    text = TEXT[kind] if text is None else text
    assert not old or text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    path = tmp_path / f"{kind}.toml"
    path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
    return path


def refusal(kind, path):
    with pytest.raises(ProfileError) as caught:
        LOAD[kind](path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, "a refusal is one line"
    assert str(path) in message, "a refusal names the file"
    return message


# --- what ships ----------------------------------------------------------------------------------


def test_the_shipped_set():
    shipped = list_profiles()
    assert list(shipped) == ["dnn", "device", "server", "link"]
    assert {"alexnet", "mobilenetv2", "resnet18", "vgg11"} <= set(shipped["dnn"])
    assert {"jetson-nano-5w", "raspberry-pi-4", "raspberry-pi-zero-w"} <= set(shipped["device"])
    assert {"edge-cpu", "edge-gpu"} <= set(shipped["server"])
    assert {"5g-mmwave", "lte", "wifi-5"} <= set(shipped["link"])


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_a_shipped_profile_loads_under_its_own_name(kind, name):
    profile = LOAD[kind](name)
    assert profile.name == name
    assert profile.path == str(profiles_root() / kind / f"{name}.toml")
    assert LOAD[kind](profile.path) == profile
    hash(profile)  # a profile may decide shapes, so it must be hashable
    assert pickle.loads(pickle.dumps(profile)) == profile == copy.deepcopy(profile)


@pytest.mark.parametrize("name", list_profiles()["link"])
def test_a_shipped_link_names_only_traces_that_ship(name):
    for trace in load_link(name).trace:
        assert (profiles_root() / "traces" / trace).is_file()


@pytest.mark.parametrize("name", DNNS)
def test_a_shipped_dnn_gains_accuracy_with_depth_and_ends_on_the_device(name):
    dnn = load_dnn(name)
    accuracy = [e.accuracy for e in dnn.exits] + [dnn.full_accuracy]
    assert accuracy == sorted(accuracy) and len(dnn.exits) == 2
    assert [layer.cut for layer in dnn.layers] == [True] * (len(dnn.layers) - 1) + [False]


@pytest.mark.parametrize("name", DNNS)
@pytest.mark.parametrize(("kind", "machine"), MACHINES)
def test_seconds_and_joules_of_every_shipped_pair(name, kind, machine):
    dnn, device = load_dnn(name), LOAD[kind](machine)
    seconds, joules = layer_seconds(device, dnn), cumulative_energy_j(device, dnn)
    assert seconds.shape == (len(dnn.layers),) and joules.shape == (len(dnn.layers) + 1,)
    assert np.all(seconds > 0) and joules[0] == 0
    assert np.all(np.diff(joules[:-1]) > 0), "joules grow up to the last cut"
    assert all(0 < head_seconds(device, e) < seconds.sum() for e in dnn.exits)
    assert device.power_idle_w < device.power_busy_w


# FLOP / 2 and weights as torchvision publishes them with the weights (GMAC "GFLOPS", "num_params").
@pytest.mark.parametrize(
    ("name", "gmac", "parameters", "top1"),
    [
        ("alexnet", 0.714, 61_100_840, 0.56522),
        ("mobilenetv2", 0.301, 3_504_872, 0.71878),
        ("resnet18", 1.814, 11_689_512, 0.69758),
        ("vgg11", 7.609, 132_863_336, 0.69020),
    ],
)
def test_totals_against_published_values(name, gmac, parameters, top1):
    dnn = load_dnn(name)
    # Ours counts poolings as well, hence not exactly; two of the published values are rounded to 3
    # digits.
    assert sum(layer.flop for layer in dnn.layers) / 2e9 == pytest.approx(gmac, rel=0.002)
    assert sum(layer.parameters for layer in dnn.layers) == parameters
    assert dnn.full_accuracy == top1


@pytest.mark.parametrize(
    ("name", "layer", "flop"),
    [
        # conv 11x11, 3 -> 64 at 55x55: 2 * 11*11*3 * 64 * 55*55 = 2 * 363 * 64 * 3025
        ("alexnet", 0, 2 * 363 * 64 * 3025),
        # max pool 3x3 to 64 x 27x27: 9 * 64 * 729
        ("alexnet", 1, 9 * 64 * 729),
        # linear 9216 -> 4096: 2 * 9216 * 4096
        ("alexnet", 8, 2 * 9216 * 4096),
        # conv 3x3, 3 -> 64 at 224x224 (2 * 27 * 64 * 50176 = 173,408,256), pool 2x2 to 64 x 112x112
        # (3,211,264)
        ("vgg11", 0, 173_408_256 + 3_211_264),
        # conv 3x3, 64 -> 128 at 112x112 (2 * 576 * 128 * 12544), pool 2x2 to 128 x 56x56 (4 * 128 *
        # 3136)
        ("vgg11", 1, 2 * 576 * 128 * 12544 + 4 * 128 * 3136),
        # conv 7x7, 3 -> 64 at 112x112 (2 * 147 * 64 * 12544), pool 3x3 to 64 x 56x56 (9 * 64 *
        # 3136)
        ("resnet18", 0, 2 * 147 * 64 * 12544 + 9 * 64 * 3136),
        # two basic blocks 64 at 56x56: 4 convs of 2 * 576 * 64 * 3136; one 64 -> 128 at 28x28: 2 *
        # 576 * 128 * 784, 2 * 1152 * 128 * 784, and the shortcut 1x1, 2 * 64 * 128 * 784
        ("resnet18", 1, 4 * (2 * 576 * 64 * 3136) + 2 * (576 + 1152 + 64) * 128 * 784),
        # one basic block 512 at 7x7 (2 convs of 2 * 4608 * 512 * 49), average pool 512 * 49, linear
        # 512 -> 1000
        ("resnet18", 4, 2 * (2 * 4608 * 512 * 49) + 512 * 49 + 2 * 512 * 1000),
        # at 112x112: conv 3x3, 3 -> 32 (27 * 32), depthwise 3x3 on 32 (9 * 32), 1x1 32 -> 16 (32 *
        # 16)
        ("mobilenetv2", 0, 2 * (27 * 32 + 9 * 32 + 32 * 16) * 12544),
        # 1x1 16 -> 96 at 112x112, depthwise 96 and 1x1 96 -> 24 at 56x56
        ("mobilenetv2", 1, 2 * 16 * 96 * 12544 + 2 * (9 * 96 + 96 * 24) * 3136),
    ],
)
def test_flop_by_hand(name, layer, flop):
    assert load_dnn(name).layers[layer].flop == flop


def test_elements_and_bits_by_hand():
    # AlexNet sends floats: input 3 * 224**2 * 8; conv1 64 * 55**2 * 32; pool1 64 * 27**2 * 32;
    # pool2 192 * 13**2 * 32
    assert upload_bits(load_dnn("alexnet"))[[0, 1, 2, 4]].tolist() == [
        1_204_224,
        6_195_200,
        1_492_992,
        1_038_336,
    ]
    # The split tables send elements * 32 / ratio: VGG11 64 * 112 * 112 * 32 / 128; ResNet18 p4 512
    # * 7 * 7 * 32 / 32
    assert upload_bits(load_dnn("vgg11"))[1:5].tolist() == [200_704, 100_352, 50_176, 25_088]
    assert upload_bits(load_dnn("resnet18"))[1:5].tolist() == [100_352, 50_176, 25_088, 25_088]
    assert upload_bits(load_dnn("mobilenetv2"))[1:5].tolist() == [200_704, 50_176, 25_088, 12_544]


@pytest.mark.parametrize(
    ("name", "until_s", "until_j"),
    [  # retyped from the cumulative columns of the published split table
        (
            "vgg11",
            [0.015589, 0.045, 0.100595, 0.136817, 0.1893],
            [0.034358, 0.118548, 0.287883, 0.415075, 0.488299],
        ),
        (
            "resnet18",
            [0.004359, 0.01647, 0.025477, 0.03678, 0.045887],
            [0.009976, 0.043362, 0.073412, 0.110818, 0.098446],
        ),
        (
            "mobilenetv2",
            [0.005392, 0.009008, 0.015418, 0.024955, 0.052676],
            [0.010143, 0.022344, 0.039416, 0.054936, 0.077945],
        ),
    ],
)
def test_the_jetson_table_is_the_published_one(name, until_s, until_j):
    jetson, dnn = load_device("jetson-nano-5w"), load_dnn(name)
    np.testing.assert_allclose(np.cumsum(layer_seconds(jetson, dnn)), until_s, atol=1e-9)
    assert cumulative_energy_j(jetson, dnn).tolist() == [0.0, *until_j]


def test_the_raspberry_fit_is_near_the_published_whole_network_times():
    # Batches of 8: ResNet18 8 * 3.63 GFLOP at 16 GFLOP/s = 1.81 s; MobileNetV2 8 * .602 at 2.6 =
    # 1.85 s; AlexNet .617 s
    pi = load_device("raspberry-pi-4")
    for name, batch_s in [("resnet18", 1.81), ("mobilenetv2", 1.85), ("alexnet", 0.617)]:
        assert layer_seconds(pi, load_dnn(name)).sum() * 8 == pytest.approx(batch_s, rel=0.3)


# --- what the formulas give ----------------------------------------------------------------------


def test_the_formulas_on_a_tiny_pair(tmp_path):
    dnn, device = load_dnn(write(tmp_path, "dnn")), load_device(write(tmp_path, "device"))
    # kernels * .5 + flop / 1000: 1 * .5 + 1, 2 * .5 + 3, 1 * .5 + 0
    assert layer_seconds(device, dnn).tolist() == [1.5, 4.0, 0.5]
    # Busy it draws 2 W, idle 1 W: computing adds 1 W * (0, 1.5, 5.5, 6.0) s
    assert cumulative_energy_j(device, dnn).tolist() == [0.0, 1.5, 5.5, 6.0]
    # .5 + 500 / 1000
    assert head_seconds(device, dnn.exits[0]) == 1.0
    # input; 10 * 32; given; 5 * 32
    assert upload_bits(dnn).tolist() == [800, 320, 64, 160]


def test_a_measured_table_goes_before_the_formula(tmp_path):
    text = (
        DEVICE.replace("other", "tiny")
        .replace("[1.0, 2.0]", "[2, 3, 1]")
        .replace("[3.0, 2.5]", "[1, 5, 4]")
    )
    device, dnn = (
        load_device(write(tmp_path, "device", text=text)),
        load_dnn(write(tmp_path, "dnn")),
    )
    assert layer_seconds(device, dnn).tolist() == [2.0, 3.0, 1.0]
    assert cumulative_energy_j(device, dnn).tolist() == [0.0, 1.0, 5.0, 4.0]
    without = load_device(write(tmp_path, "device", "energy_j = [1, 5, 4]", text=text))
    assert cumulative_energy_j(without, dnn).tolist() == [
        0.0,
        2.0,
        5.0,
        6.0,
    ]  # (2 - 1) W * (0, 2, 5, 6) s


def test_cuts_of_a_tiny_network(tmp_path):
    dnn = load_dnn(write(tmp_path, "dnn"))  # 3 layers; none is left for the server after the last
    assert cuts(dnn) == [0, 1, 2, 3]
    assert cuts(dnn, 2) == [0, 1, 2]
    layers = tuple(dataclasses.replace(layer, cut=False) for layer in dnn.layers)
    whole = dataclasses.replace(dnn, layers=layers)
    assert (cuts(whole), cuts(whole, 2), cuts(whole, also=[1])) == ([0, 3], [0, 2], [0, 1, 3])


# --- what is invalid -----------------------------------------------------------------------------

REFUSED = [
    # unknown and missing fields
    (
        "dnn",
        "kernels = 2",
        "kernel = 2",
        ["unknown field layers[1].kernel = 2", "did you mean 'kernels'"],
    ),
    (
        "dnn",
        "input_bits = 800",
        "input_bits = 800\nsize = 3",
        ["unknown field size = 3", "allowed: name,"],
    ),
    (
        "device",
        "energy_j = [3.0",
        "energy = [3.0",
        ["unknown field measured.other.energy", "layer_s, energy_j"],
    ),
    (
        "dnn",
        "out_elements = 20\n",
        "",
        ["missing field layers[1].out_elements", "required: name, flop"],
    ),
    (
        "dnn",
        "head_flop = 500\naccuracy = 0.75",
        "accuracy = 0.75",
        ["missing field exits[1].head_flop"],
    ),
    ("link", "rtt_s = 0\n", "", ["missing field rtt_s", "required:"]),
    ("device", "layer_s = [1.0, 2.0]\n", "", ["missing field measured.other.layer_s"]),
    # sources
    (
        "dnn",
        'layers = "assumed: test"\n',
        "",
        ["layers.flop = 1000.0 has no source", '"layers.flop" or a parent'],
    ),
    ("dnn", '"exits.accuracy" = "assumed: test"\n', "", ["exits.accuracy = 0.5 has no source"]),
    (
        "device",
        '"measured.other" = "assumed: test"\n',
        "",
        ["measured.other.layer_s = 1.0 has no source"],
    ),
    (
        "link",
        'rtt_s = "assumed: test"\n',
        "",
        ["rtt_s = 0 has no source", "cited:, measured:, computed:, assumed:"],
    ),
    (
        "link",
        'rtt_s = "assumed: test"',
        'rtt_s = "a guess"',
        ["source.\"rtt_s\" = 'a guess'", "begins with cited:"],
    ),
    ("link", 'rtt_s = "assumed: test"', 'rtt_s = "assumed: "', ['source."rtt_s"', "goes on"]),
    ("link", 'rtt_s = "assumed: test"', "rtt_s = 3", ['source."rtt_s" = 3', "a text"]),
    (
        "dnn",
        'layers = "a',
        '"layer.flop" = "cited: x"\nlayers = "a',
        ['source."layer.flop" = ', "layers.flop"],
    ),
    ("link", LINK[LINK.index("[source]") :], "", ["missing field source"]),
    # numbers out of range
    ("dnn", "flop = 1000.0", "flop = -1.0", ["layers[0].flop = -1.0", "a finite number >= 0"]),
    ("dnn", "flop = 1000.0", "flop = nan", ["layers[0].flop = nan", "a finite number >= 0"]),
    ("dnn", "flop = 1000.0", "flop = inf", ["layers[0].flop = inf", "a finite number >= 0"]),
    (
        "dnn",
        "flop = 1000.0",
        f"flop = 1{'0' * 400}",
        ["layers[0].flop = 1000", "a finite number >= 0"],
    ),
    ("dnn", "input_bits = 800", "input_bits = 0", ["input_bits = 0", "an integer >= 1"]),
    (
        "dnn",
        "input_bits = 800",
        f"input_bits = {2**63}",
        ["input_bits = 9223372036854775808", "an integer >= 1"],
    ),
    ("dnn", "parameters = 7", "parameters = -7", ["layers[2].parameters = -7", "an integer >= 0"]),
    (
        "dnn",
        "upload_bits = 64",
        "upload_bits = 0",
        ["layers[1].upload_bits = 0", "an integer >= 1"],
    ),
    ("dnn", "kernels = 2", "kernels = 0", ["layers[1].kernels = 0", "an integer >= 1"]),
    (
        "dnn",
        "full_accuracy = 0.9",
        "full_accuracy = 1.01",
        ["full_accuracy = 1.01", ">= 0 and <= 1"],
    ),
    ("dnn", "accuracy = 0.75", "accuracy = -0.1", ["exits[1].accuracy = -0.1", ">= 0 and <= 1"]),
    ("device", "overhead_s = 0.5", "overhead_s = -0.5", ["overhead_s = -0.5", ">= 0"]),
    ("device", "peak_flops = 1000.0", "peak_flops = 0", ["peak_flops = 0", "a finite number > 0"]),
    (
        "device",
        "layer_s = [1.0, 2.0]",
        "layer_s = [1.0, 0.0]",
        ["measured.other.layer_s[1] = 0.0", "> 0"],
    ),
    (
        "device",
        "energy_j = [3.0, 2.5]",
        "energy_j = [-3.0, 2.5]",
        ["measured.other.energy_j[0] = -3.0", ">= 0"],
    ),
    ("link", "rate_bps = 1e6", "rate_bps = 0.0", ["rate_bps = 0.0", "a finite number > 0"]),
    (
        "link",
        "transmit_w = 0.1",
        "transmit_w = -inf",
        ["transmit_w = -inf", "a finite number >= 0"],
    ),
    # wrong types, nothing is coerced
    ("dnn", "flop = 1000.0", 'flop = "1000"', ["layers[0].flop = '1000'", "a finite number"]),
    ("dnn", "flop = 1000.0", "flop = true", ["layers[0].flop = True", "a finite number"]),
    (
        "dnn",
        "out_elements = 10",
        "out_elements = 10.0",
        ["layers[0].out_elements = 10.0", "an integer"],
    ),
    (
        "dnn",
        "out_elements = 10",
        'out_elements = "10"',
        ["layers[0].out_elements = '10'", "an integer"],
    ),
    (
        "dnn",
        "out_elements = 10",
        "out_elements = true",
        ["layers[0].out_elements = True", "an integer"],
    ),
    ("dnn", "cut = false", "cut = 0", ["layers[2].cut = 0", "true or false"]),
    ("dnn", 'name = "a"', "name = 1", ["layers[0].name = 1", "a string"]),
    (
        "dnn",
        'description = "three layers, two exits"',
        'description = " "',
        ["description = ' '", "not empty"],
    ),
    ("dnn", 'name = "tiny"', 'name = "my.net"', ["name = 'my.net'", "letters, digits"]),
    ("dnn", "bits = [8, 32]", "bits = 8", ["bits = 8", "a list of 1 or more"]),
    ("dnn", "bits = [8, 32]", "bits = []", ["bits = []", "a list of 1 or more"]),
    ("device", "[measured.other]", "[[measured]]", ["measured = [", "a table"]),
    (
        "device",
        "[measured.other]",
        '[measured."a.b"]',
        ["measured.a.b = 'a.b'", "the name of a network, or name@width"],
    ),
    ("link", 'trace = ["a.csv"]', 'trace = ["a.csv", 3]', ["trace[1] = 3", "a string"]),
    ("link", 'kind = "link"', 'kind = "device"', ["kind = 'device'", "'link'"]),
    ("link", 'kind = "link"\n', "", ["kind = None", "'link'"]),
    # values that do not fit each other
    ("dnn", "bits = [8, 32]", "bits = [32, 8]", ["bits = [32, 8]", "increasing order"]),
    ("dnn", "bits = [8, 32]", "bits = [8, 8]", ["bits = [8, 8]", "none twice"]),
    ("dnn", "bits = [8, 32]", "bits = [8, 64]", ["bits[1] = 64", ">= 1 and <= 32"]),
    (
        "dnn",
        "after_layer = 2",
        "after_layer = 3",
        ["exits[1].after_layer = 3", "<= 2 (before the last layer)"],
    ),
    (
        "dnn",
        "after_layer = 2",
        "after_layer = 9",
        ["exits[1].after_layer = 9", "<= 2 (before the last layer)"],
    ),
    (
        "dnn",
        "after_layer = 2",
        "after_layer = 1",
        ["exits[1].after_layer = 1", "> 1 (the exit before it)"],
    ),
    ("dnn", "after_layer = 1", "after_layer = 0", ["exits[0].after_layer = 0", "an integer >= 1"]),
    (
        "device",
        "energy_j = [3.0, 2.5]",
        "energy_j = [3.0]",
        ["measured.other.energy_j = [3.0]", "2 values"],
    ),
    # not TOML
    ("link", "rtt_s = 0", "rtt_s = ", ["not valid TOML", "line"]),
    ("link", "rtt_s = 0", "rtt_s = 0\nrtt_s = 1", ["not valid TOML", "line"]),
    ("link", "rtt_s = 0", f"rtt_s = {'9' * 5000}", ["not valid TOML"]),
]


@pytest.mark.parametrize(("kind", "old", "new", "said"), REFUSED)
def test_a_wrong_profile_is_refused_in_one_line(tmp_path, kind, old, new, said):
    message = refusal(kind, write(tmp_path, kind, old, new))
    for part in said:
        assert part in message


@pytest.mark.parametrize("kind", TEXT)
def test_the_base_of_those_is_accepted(tmp_path, kind):
    LOAD[kind](write(tmp_path, kind))


def test_a_key_with_a_line_break_still_gives_one_line(tmp_path):
    assert "unknown field a\\nb = 1" in refusal(
        "link", write(tmp_path, "link", "rtt_s = 0", 'rtt_s = 0\n"a\\nb" = 1')
    )


def test_no_layers_are_refused(tmp_path):
    start, end = DNN.index("[[layers]]"), DNN.index("[source]")
    text = DNN[:start] + "layers = []\n" + DNN[end:]
    assert "layers = [] is invalid; allowed: a list of 1 or more" in refusal(
        "dnn", write(tmp_path, "dnn", text=text)
    )


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "link.toml"
    path.write_bytes(LINK.replace("a cable", "c\u00e2ble").encode("latin-1"))
    assert "not valid TOML" in refusal("link", path)


def test_a_missing_file_lists_the_names_and_suggests_the_nearest(tmp_path):
    with pytest.raises(
        ProfileError, match=r"no shipped dnn profile 'vgg12'; .*alexnet.*did you mean 'vgg11'"
    ):
        load_dnn("vgg12")
    message = refusal("device", tmp_path / "jetson-nano.toml")
    assert "no such file" in message and "did you mean 'jetson-nano-5w'" in message
    with pytest.raises(ProfileError, match="no such file"):
        load_link("wifi-5.toml")  # a path: there is no such file in the current folder
    with pytest.raises(ProfileError, match="no shipped server profile 'jetson-nano-5w'"):
        load_server("jetson-nano-5w")


@pytest.mark.parametrize(
    ("layer_s", "said"),
    [
        (
            "[2, 3]",
            ["measured.tiny.layer_s = [2.0, 3.0]", "3 values, one for each layer of 'tiny'"],
        ),
        # 3000 FLOP in 2.9 s is 1034 FLOP/s, above the peak of 1000; 3 s is the least
        (
            "[1, 2.9, 1]",
            ["measured.tiny.layer_s[1] = 2.9", "a number >= 3", "3000 FLOP", "peak_flops = 1000"],
        ),
    ],
)
def test_a_measured_table_that_does_not_fit_the_dnn_is_refused(tmp_path, layer_s, said):
    text = (
        DEVICE.replace("other", "tiny")
        .replace("[1.0, 2.0]", layer_s)
        .replace("energy_j = [3.0, 2.5]", "")
    )
    path = write(tmp_path, "device", text=text)
    device, dnn = load_device(path), load_dnn(write(tmp_path, "dnn"))
    for ask in (layer_seconds, cumulative_energy_j):
        with pytest.raises(ProfileError) as caught:
            ask(device, dnn)
        assert all(part in str(caught.value) for part in [str(path), *said])


def test_exactly_the_peak_is_allowed(tmp_path):
    text = (
        DEVICE.replace("other", "tiny")
        .replace("[1.0, 2.0]", "[1, 3, 1]")
        .replace("energy_j = [3.0, 2.5]", "")
    )
    device = load_device(write(tmp_path, "device", text=text))
    assert layer_seconds(device, load_dnn(write(tmp_path, "dnn"))).tolist() == [1.0, 3.0, 1.0]


# --- results per sample --------------------------------------------------------------------------

V, E, P, Q, S = 2, 3, 4, 2, 11  # two exits and the full network; three layers and the input


def sample_arrays():
    right = np.arange(V * E * P * Q * S).reshape(V, E, P, Q, S) % 3 == 0
    confidence = np.linspace(0, 1, V * E * S, dtype=np.float32).reshape(V, E, S)
    correct = np.packbits(right, axis=-1)
    return right, {
        "samples": np.array(S),
        "correct": correct,
        "confidence": confidence,
        "entropy": 2 * confidence,
    }


VERSION = """
[[versions]]
width = 0.5
flop = [250.0, 750.0, 0.0]
out_elements = [5, 10, 5]
parameters = [1, 2, 3]
head_flop = [125.0, 250.0]
accuracy = [0.4, 0.5, 0.8]
"""


def write_samples(tmp_path, arrays, source='samples = "measured: here"\n', versions=VERSION):
    np.savez(tmp_path / "dnn.npz", **arrays)
    return write(
        tmp_path, "dnn", "[source]\n", f'{versions}[source]\nversions = "assumed: thin"\n{source}'
    )


def test_samples_beside_a_dnn_are_read(tmp_path):
    right, arrays = sample_arrays()
    dnn = load_dnn(write_samples(tmp_path, arrays))
    assert dnn.samples.samples == S
    np.testing.assert_array_equal(dnn.samples.unpacked(), right)
    np.testing.assert_array_equal(dnn.samples.confidence, arrays["confidence"])


def test_samples_need_a_source_and_a_source_needs_samples(tmp_path):
    assert "samples = '(array)' has no source" in refusal(
        "dnn", write_samples(tmp_path, sample_arrays()[1], source="")
    )
    (tmp_path / "dnn.npz").unlink()
    path = write(tmp_path, "dnn", "[source]\n", '[source]\nsamples = "measured: here"\n')
    assert 'source."samples"' in refusal("dnn", path)


def test_a_version_of_a_dnn_is_a_dnn(tmp_path):
    right, arrays = sample_arrays()
    path = write_samples(tmp_path, arrays)
    whole, thin = load_dnn(path), load_dnn(f"{path}@0.5")
    assert thin == profiles.version(whole, 0.5)
    assert (thin.name, thin.full_accuracy, thin.versions) == ("tiny@0.5", 0.8, ())
    assert [layer.flop for layer in thin.layers] == [250.0, 750.0, 0.0]
    assert upload_bits(thin).tolist() == [800, 5 * 32, 10 * 32, 5 * 32]
    assert [(e.after_layer, e.head_flop, e.accuracy) for e in thin.exits] == [
        (1, 125.0, 0.4),
        (2, 250.0, 0.5),
    ]
    np.testing.assert_array_equal(thin.samples.unpacked(), right[1:])
    np.testing.assert_array_equal(profiles.version(whole, 1.0).samples.unpacked(), right[:1])
    with pytest.raises(
        ProfileError, match=r"tiny@0.3: 'tiny' has no version of that width; allowed: 1, 0.5"
    ):
        load_dnn(f"{path}@0.3")


def test_a_measured_table_may_be_of_a_version(tmp_path):
    dnn = load_dnn(write_samples(tmp_path, sample_arrays()[1]))
    text = DEVICE.replace("[measured.other]", '[measured."tiny@0.5"]').replace(
        "[1.0, 2.0]", "[1, 3, 1]"
    )
    text = text.replace('"measured.other"', '"measured.tiny@0.5"')
    device = load_device(write(tmp_path, "device", text=text.replace("energy_j = [3.0, 2.5]", "")))
    assert layer_seconds(device, profiles.version(dnn, 0.5)).tolist() == [1.0, 3.0, 1.0]
    assert layer_seconds(device, dnn).tolist() != [1.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "width = 0.5",
            "width = 1.0",
            ["versions[0].width = 1.0", "a number < 1 (the version before it)"],
        ),
        (
            "accuracy = [0.4, 0.5, 0.8]",
            "accuracy = [0.4, 0.8]",
            ["versions[0].accuracy", "3 values, as 'tiny' has"],
        ),
        (
            "flop = [250.0, 750.0, 0.0]",
            "flop = [250.0]",
            ["versions[0].flop = [250.0]", "3 values"],
        ),
        (
            "out_elements = [5, 10, 5]",
            "out_elements = [5, 0, 5]",
            ["versions[0].out_elements[1] = 0"],
        ),
    ],
)
def test_wrong_versions_are_refused(tmp_path, old, new, said):
    path = write_samples(tmp_path, sample_arrays()[1], versions=VERSION.replace(old, new))
    message = refusal("dnn", path)
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "correct",
            lambda a: a[:, :2],
            ["correct = 'uint8 (2, 2, 4, 2, 2)'", "uint8 (2, 3, 4, 2, 2)"],
        ),
        (
            "correct",
            lambda a: a[..., :1],
            ["correct = 'uint8 (2, 3, 4, 2, 1)'", "uint8 (2, 3, 4, 2, 2)"],
        ),
        ("correct", lambda a: a.astype(np.int64), ["correct = 'int64 (2, 3, 4, 2, 2)'", "uint8"]),
        ("correct", lambda a: np.uint8(3), ["correct = 'uint8 ()'", "uint8 (2, 3, 4, 2, 2)"]),
        ("entropy", lambda a: -a, ["entropy = -0.0", "finite numbers >= 0"]),
        ("entropy", lambda a: a + np.inf, ["entropy = inf", "finite numbers >= 0"]),
        (
            "confidence",
            lambda a: a[:1],
            ["confidence = 'float32 (1, 3, 11)'", "floating (2, 3, 11)"],
        ),
        ("confidence", lambda a: a * 2, ["confidence = 1.0", "numbers in [0, 1]"]),
        ("confidence", lambda a: a * np.nan, ["confidence = nan", "numbers in [0, 1]"]),
        ("samples", lambda a: np.array([11, 11]), ["samples = [11, 11]", "an integer >= 1"]),
        ("samples", lambda a: np.array(11.0), ["samples = 11.0", "an integer >= 1"]),
    ],
)
def test_wrong_samples_are_refused(tmp_path, name, change, said):
    arrays = sample_arrays()[1]
    path = write_samples(tmp_path, arrays | {name: change(arrays[name])})
    with pytest.raises(ProfileError) as caught:
        load_dnn(path)
    assert all(part in str(caught.value) for part in [str(path.with_suffix(".npz")), *said])


def test_samples_that_are_incomplete_or_no_archive_are_refused(tmp_path):
    arrays = sample_arrays()[1]
    del arrays["confidence"]
    path = write_samples(tmp_path, arrays)
    with pytest.raises(
        ProfileError, match="missing array confidence; found: samples, correct, entropy"
    ):
        load_dnn(path)
    for content in (b"", b"PK\x03\x04 no archive", b"text"):
        path.with_suffix(".npz").write_bytes(content)
        with pytest.raises(ProfileError, match=r"dnn\.npz: not a readable \.npz"):
            load_dnn(path)


# --- the module itself ---------------------------------------------------------------------------


def test_all_of_data_imports_numpy_and_the_standard_library_alone():
    files = sorted(Path(profiles.__file__).parent.glob("*.py"))
    assert {file.stem for file in files} >= {"costs", "fields", "processes", "profiles", "traces"}
    for file in files:
        imported = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file.name} imports relatively"
                imported.add(node.module)
        ours = {name for name in imported if f"{name}.".startswith("jaxcoinfer.data.")}
        others = {name.split(".")[0] for name in imported - ours}
        assert others <= {*sys.stdlib_module_names, "numpy"}, file.name


def test_reading_what_ships_loads_no_jax():
    code = (
        "import sys\n"
        "from jaxcoinfer.systems import registry\n"
        "for name in registry.list_scenarios(): registry.load_scenario(name)\n"
        "assert not {'jax', 'scipy', 'flax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_installed_copy_reads_the_profiles_inside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "jaxcoinfer"
    (package / "_profiles" / "link").mkdir(parents=True)
    (package / "_profiles" / "link" / "cable.toml").write_text(LINK, encoding="utf-8")
    monkeypatch.setattr(profiles, "__file__", str(package / "data" / "profiles.py"))
    assert profiles_root() == package / "_profiles"
    assert load_link("cable").rate_bps == 1e6
    assert list_profiles()["link"] == ("cable",)


def test_the_readme_lists_what_ships_and_every_field():
    readme = (profiles_root() / "README.md").read_text(encoding="utf-8")
    for _, name in SHIPPED:
        assert name in readme
    for kind, name in SHIPPED:
        raw = tomllib.loads((profiles_root() / kind / f"{name}.toml").read_text(encoding="utf-8"))
        inner = [key for part in ("layers", "exits") for item in raw.get(part, []) for key in item]
        for key in {*raw, *inner}:
            assert f"`{key}`" in readme or f"[{key}]" in readme or f"[{key}." in readme
