"""What no profile can be made of is refused in one line that says what to do, with exit code 2."""

import importlib.util
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer import cli, profiler
from jaxcoinfer.data.fields import ProfileError

if not importlib.util.find_spec("onnx"):
    pytest.skip("the package onnx is not installed (extra `onnx`)", allow_module_level=True)

import onnx
from onnx import TensorProto, helper

from tests.helpers import networks

PICTURE = (1, 3, 8, 8)


@pytest.fixture
def refused(tmp_path, capsys):
    """Returns `refused(file or model, *options)`: the one line with which the command refuses,
    after exit code 2.
    """

    def run(model, *options):
        path = tmp_path / "net.onnx"
        if isinstance(model, onnx.ModelProto):
            networks.save(model, path)
        else:
            path = model
        assert cli.main(["profile", str(path), "--out", str(tmp_path / "out.toml"), *options]) == 2
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.splitlines()) == 1
        assert not (tmp_path / "out.toml").exists()
        return said.err

    return run


def with_node(op, **attributes):
    """A network in the middle of which stands a node of that operator."""
    b = networks.Builder()
    x = b.add(op, b.relu(b.conv("x", 3, 4, 3)), **attributes)
    return b.model(
        b.conv(x, 4, 4, 3), PICTURE, domains=[d for d in [attributes.get("domain")] if d]
    )


def test_files_that_are_no_onnx(refused, tmp_path):
    assert "no such file" in refused(tmp_path / "nowhere.onnx")
    for content in (b"", b"PK\x03\x04 a zip archive", b"\x08\x07\x12"):
        (tmp_path / "net.onnx").write_bytes(content)
        assert "ONNX file" in refused(tmp_path / "net.onnx")
    assert "no such file" in refused(tmp_path)


def test_missing_package(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'jaxcoinfer[onnx]'" in refused(networks.small())


def test_missing_external_data(refused, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(
        networks.small(),
        str(path),
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    (tmp_path / "net.data").unlink()
    line = refused(path)
    assert "net.data" in line and "put it beside the model" in line


@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        (
            ("n", 3, "h", "w"),
            (),
            ["'x'", "?,3,?,?", "--input-shape 1,3,224,224", "export with fixed"],
        ),
        (("n", 3, "h", "w"), ("--input-shape", "1,3,8"), ["?,3,?,?", "is not 1,3,8"]),
        ((1, 3, 8, 8), ("--input-shape", "1,3,9,9"), ["1,3,8,8", "is not 1,3,9,9"]),
        ((1, 3, 8, 8), ("--input-shape", "1,3,0,8"), ["--input-shape", "1,3,0,8", "above 0"]),
        (("n", 3, 8, 8), ("--input-shape", "2,3,8,8"), ["batch of 2", "allowed: 1"]),
        ((8, 3, 8, 8), (), ["batch of 8", "allowed: 1"]),
    ],
)
def test_shapes_of_the_input(refused, shape, options, says):
    line = refused(networks.small(shape), *options)
    assert all(word in line for word in says), line


def test_an_open_batch_is_one(tmp_path):
    def layers(shape):
        return profiler.profile_onnx(
            networks.save(networks.small(shape), tmp_path / "net.onnx")
        ).layers

    assert layers(("batch", 3, 8, 8)) == layers((1, 3, 8, 8))


def test_what_a_file_says_of_open_shapes_is_forgotten(tmp_path):
    """Sizes of an export at 16x16 that was opened up later."""
    model = onnx.shape_inference.infer_shapes(networks.small((1, 3, 16, 16)))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "size"
    path = networks.save(model, tmp_path / "net.onnx")
    fixed = profiler.profile_onnx(networks.save(networks.small(), tmp_path / "fixed.onnx"))
    assert profiler.profile_onnx(path, input_shape=PICTURE).layers == fixed.layers


def test_operators_that_are_not_known(refused):
    assert "domain 'com.example' is not known" in refused(with_node("Fancy", domain="com.example"))
    b = networks.Builder()
    x = b.add(
        "Cast", b.add("Transpose", b.add("NonZero", b.conv("x", 3, 4, 3))), to=TensorProto.FLOAT
    )  # [?, 4]
    line = refused(b.model(b.linear(x, 4, 2), PICTURE))
    assert "(NonZero)" in line and "export with fixed shapes" in line
    b = networks.Builder()
    x = b.add("Einsum", b.conv("x", 3, 4, 3), equation="abcd->abdc")
    line = refused(b.model(b.conv(x, 4, 4, 3), PICTURE))
    assert "(Einsum): its FLOP are not counted" in line
    assert "not valid ONNX" in refused(with_node("NoSuchOperator"))


def test_shapes_that_contradict_each_other(refused):
    b = networks.Builder()
    x = b.add("Flatten", b.conv("x", 3, 4, 3))
    assert "shapes cannot be inferred" in refused(
        b.model(b.linear(x, 5, 4), PICTURE)
    )  # 4*6*6, not 5


def test_control_flow(refused):
    branch = helper.make_graph(
        [helper.make_node("Identity", ["relu_1"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    b = networks.Builder()
    b.nodes.append(helper.make_node("Identity", ["x"], ["relu_1"]))
    b.nodes.append(
        helper.make_node(
            "If", [b.constant(np.bool_(True))], ["if"], then_branch=branch, else_branch=branch
        )
    )
    assert "(If): control flow" in refused(b.model(b.conv("if", 3, 4, 3), PICTURE))


def test_more_than_one_input_or_output(refused):
    b = networks.Builder()
    model = b.model(b.conv(b.add("Add", "x", "more"), 3, 4, 3), PICTURE)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, PICTURE))
    line = refused(model)
    assert "2 inputs (x, more)" in line and "allowed: one" in line
    b = networks.Builder()
    x = b.conv("x", 3, 4, 3)
    line = refused(b.model([x, b.conv(x, 4, 4, 3)], PICTURE))
    assert "2 outputs" in line and "add exits by hand" in line


def test_nothing_to_cut(refused):
    b = networks.Builder()
    x = b.conv("x", 3, 3, 3, pad=1)
    assert "cannot be cut" in refused(
        b.model(b.add("Add", b.conv(x, 3, 3, 3, pad=1), "x"), PICTURE)
    )
    b = networks.Builder()
    assert "cannot be cut" in refused(b.model(b.conv("x", 3, 3, 3), PICTURE))
    b = networks.Builder()
    assert "no convolution" in refused(b.model(b.relu("x"), PICTURE))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--accuracy", "71"), ["accuracy 71", "0 to 1"]),
        (("--accuracy", "nan"), ["accuracy nan", "0 to 1"]),
        (("--name", "my net"), ["'my net'", "letters, digits"]),
        (("--out", "net.txt"), ["net.txt", ".toml"]),
        (("--out", "nowhere/net.toml"), ["nowhere", "folder that is there"]),
    ],
)
def test_options(refused, options, says):
    line = refused(networks.small(), *options)
    assert all(word in line for word in says), line


def test_a_profile_is_never_overwritten(tmp_path, capsys):
    """It may hold an accuracy and exits that somebody measured."""
    path = networks.save(networks.small(), tmp_path / "net.onnx")
    for name in ("net.toml", "net-device.toml"):
        (tmp_path / name).write_text("mine")
        assert cli.main(["profile", str(path), "--out", str(tmp_path / "net.toml")]) == 2
        assert "a new .toml file" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    (tmp_path / "net.toml").write_text("mine")
    with pytest.raises(ProfileError, match="is there already"):
        profiler.write_new(tmp_path / "net.toml", "theirs")


def test_a_network_that_onnxruntime_cannot_run_is_profiled_all_the_same(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

    def fails(*_):
        raise RuntimeError("not\nimplemented")

    monkeypatch.setattr("jaxcoinfer.profiler.timing._median_s", fails)
    path = networks.save(networks.small(), tmp_path / "net.onnx")
    assert cli.main(["profile", str(path), "--out", str(tmp_path / "net.toml")]) == 0
    assert "latency was not measured: layer 'conv1'" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "net.toml").exists() and not (tmp_path / "net-device.toml").exists()


class _Rolled(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        return nn.Dense(4)(
            jax.lax.fori_loop(0, jnp.int32(x.shape[0] + 2), lambda i, x: x * jnp.float32(0.5), x)
        )


class _TwoOutputs(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        return x, nn.Dense(4)(x)


class _Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(nn.Dense(4)(x)))


@pytest.mark.parametrize(
    ("module", "shape", "says"),
    [
        (_Rolled(), (1, 8), "control flow"),
        (_TwoOutputs(), (1, 8), "_TwoOutputs: 2 outputs; allowed: one"),
        (_Dropped(), (1, 8), "call it for inference, as with train=False"),
        (_Dropped(), (8, 8), "allowed: batch 1 first"),
        (nn.Dense(4), (1, 8), "cannot be cut"),
    ],
)
def test_flax_modules(module, shape, says):
    with pytest.raises(ProfileError) as caught:
        profiler.profile_flax(module, shape)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    if isinstance(module, _Dropped) and shape[0] == 1:
        assert len(profiler.profile_flax(module, shape, train=False).layers) == 2
