"""profiles/build: the multi-exit network counts, learns, resumes and is measured as it says."""

import dataclasses
import pickle
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.data import costs, profiles
from profiles.build import __main__ as command
from profiles.build import data, measure, model, show, train

RNG = np.random.default_rng(0)


def images(n_train=256, n_test=60):
    """Images whose brightness tells their class."""

    def some(n):
        labels = np.arange(n) % 10
        noise = RNG.integers(0, 25, (n, 32, 32, 3))
        return (noise + 23 * labels[:, None, None, None]).astype(np.uint8), labels.astype(np.int32)

    return data.Images(*some(n_train), *some(n_test), note="made up")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    made = images()
    np.savez(
        path,
        x_train=made.train,
        y_train=made.train_labels,
        x_test=made.test,
        y_test=made.test_labels,
    )
    return path


def test_flop_elements_and_parameters_by_hand():
    whole = measure.costs(1.0)
    # conv1: 2 * 5*5*3 * 32 * 32*32 = 4_915_200, pooling 9 * 32 * 16*16 = 73_728
    # conv2: 2 * 5*5*32 * 64 * 16*16 = 26_214_400, pooling 9 * 64 * 8*8 = 36_864
    # conv3: 2 * 3*3*64 * 96 * 8*8 = 7_077_888; conv4: 2 * 9*96 * 96 * 64 = 10_616_832
    # conv5: 2 * 9*96 * 64 * 64 = 7_077_888, pooling 9 * 64 * 4*4 = 9_216
    # fc6: 2 * 1024 * 256 = 524_288; fc7: 2 * 256 * 128 = 65_536; fc8: 2 * 128 * 10 = 2_560
    flop = [4_988_928, 26_251_264, 7_077_888, 10_616_832, 7_087_104, 524_288, 65_536, 2_560]
    assert whole.flop.tolist() == flop
    assert whole.elements.tolist() == [8192, 4096, 6144, 6144, 1024, 256, 128, 10]
    # conv1: 5*5*3 * 32 + 32 = 2_432; fc6: 1024 * 256 + 256 = 262_400
    assert whole.parameters[[0, 5]].tolist() == [2_432, 262_400]
    # head 1: 2 * 9*64 * 32 * 64 = 2_359_296, pooling 9 * 32 * 16 = 4_608, linear 2 * 512 * 10 =
    # 10_240
    assert whole.head_flop[0] == 2_374_144
    # half the channels: conv2 2 * 5*5*16 * 32 * 256 = 6_553_600, pooling 9 * 32 * 64 = 18_432
    assert measure.costs(0.5).flop[1] == 6_572_032


def test_the_pooling_of_slices_is_a_maximum_over_windows():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    import flax.linen as nn

    expected = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")
    np.testing.assert_array_equal(model.halved(x), expected)


def test_quantised_by_hand():
    # 2 bits on [0, 3]: step 1; 0.4 -> 0, 1.6 -> 2, 9 is clipped to 3
    x = jnp.array([0.4, 1.6, 9.0])
    np.testing.assert_allclose(
        measure.quantised(x, jnp.float32(0.0), jnp.float32(3.0), 2), [0.0, 2.0, 3.0]
    )
    # 4 bits on [-1, 2]: step 0.2; 0.47 -> (0.47 + 1) / 0.2 = 7.35 -> 7 -> 0.4
    np.testing.assert_allclose(
        measure.quantised(jnp.array([0.47]), jnp.float32(-1.0), jnp.float32(2.0), 4),
        [0.4],
        atol=1e-6,
    )


def test_the_loss_weighs_the_exits_by_hand():
    # two exits, one image, two classes: cross entropies log 2 and log(1 + e^-2) = 0.126928; .25 *
    # .693147 + 1 * .126928
    scores = jnp.array([[[0.0, 0.0]], [[2.0, 0.0]]])
    found = train.joint_loss(scores, jnp.array([0], jnp.int32), (0.25, 1.0))
    np.testing.assert_allclose(found, 0.300215, rtol=1e-5)


def test_augmented_images_are_shifted_and_mirrored_copies():
    shown = np.zeros((64, 32, 32, 3), np.uint8)
    shown[:, 16, 10] = 255
    found = np.asarray(train.augmented(jax.random.key(1), jnp.asarray(shown)))
    rows, columns = (
        np.nonzero(found[..., 0].max(axis=2))[1],
        np.nonzero(found[..., 0].max(axis=1))[1],
    )
    assert set(rows) <= set(range(12, 21)) and len(set(rows)) > 5
    assert (
        set(columns) <= {*range(6, 15), *range(17, 26)} and len(set(columns)) > 8
    )  # 10, or 31 - 10 mirrored


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    made, config = images(), train.Config(epochs=2, batch=64)
    quiet = {"report": lambda line: None}
    straight = train.train(0.25, made, config, tmp_path / "straight", **quiet)
    stopped = tmp_path / "stopped"

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(0.25, made, config, stopped, report=stop)
    with pytest.raises(ValueError, match="has seen 1 of 2 epochs; go on with `train`"):
        train.trained(0.25, stopped)
    resumed = train.train(0.25, made, config, stopped, **quiet)
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)
    with pytest.raises(ValueError, match="was begun with"):
        train.train(0.25, made, dataclasses.replace(config, rate=0.1), stopped, **quiet)


@pytest.mark.slow
def test_train_measure_show(archive, tmp_path, monkeypatch, capsys):
    shared = ["--data", str(archive), "--widths", "1,0.25", "--quick"]
    monkeypatch.setattr(command, "QUICK", train.Config(epochs=2, batch=64, rate=0.02))
    monkeypatch.setattr(model, "CHANNELS", {n: (c // 4, k) for n, (c, k) in model.CHANNELS.items()})
    command.main(["train", "--out", str(tmp_path), *shared])
    command.main(["measure", "--run", str(tmp_path), "--machine", "bench", *shared])
    capsys.readouterr()
    command.main(
        ["show", str(tmp_path / "b-alexnet.toml"), "--figure", str(tmp_path / "shown.png")]
    )
    said = capsys.readouterr().out
    assert (
        max(map(len, said.splitlines())) <= 80
        and "after conv2" in said
        and (tmp_path / "shown.png").exists()
    )

    dnn = profiles.load_dnn(tmp_path / "b-alexnet.toml")
    right = dnn.samples.unpacked()
    means = right.mean(axis=-1)
    assert means[0, -1, -1, -1] == pytest.approx(dnn.full_accuracy, abs=1e-5)
    assert [e.accuracy for e in dnn.exits] == pytest.approx(means[0, :-1, 0, -1], abs=1e-5)
    assert profiles.version(dnn, 0.25).full_accuracy == pytest.approx(means[1, -1, 0, -1], abs=1e-5)
    assert (
        right[:, :, 0] == right[:, :, 0, :1]
    ).all()  # the input is sent as it is, whatever the width
    assert (
        right[:, -1, :, -1] == right[:, -1, :1, -1]
    ).all()  # as it is, a feature loses nothing at any cut
    assert not right[:, 0, 3:].any()  # no cut behind an exit
    variables, _ = train.trained(1.0, tmp_path)
    made = data.load(archive)
    own = train.accuracy(model.BAlexNet(1.0), variables, made.test, made.test_labels)
    np.testing.assert_allclose(means[0, :, 0, -1], own, atol=1e-6)
    server = profiles.load_server(tmp_path / "bench.toml")
    assert costs.layer_seconds(server, dnn).shape == (8,)
    leave = show.exits_table(dnn)
    assert all(share.sum() == pytest.approx(1.0) for _, share, _ in leave)


def publish(folder, made):
    """Writes images as the official release has them: planes of colours, five batches and a test
    batch.
    """

    def write(name, of, labels):
        planes = of.transpose(0, 3, 1, 2).reshape(len(of), -1)
        (folder / name).write_bytes(pickle.dumps({b"data": planes, b"labels": labels.tolist()}))

    folder.mkdir()
    for i in range(5):
        rows = slice(10 * i, 10 * i + 10)
        write(f"data_batch_{i + 1}", made.train[rows], made.train_labels[rows])
    write("test_batch", made.test, made.test_labels)


def test_images_of_the_official_release(tmp_path):
    folder, made = tmp_path / "cifar-10-batches-py", images(n_train=50, n_test=10)
    publish(folder, made)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    for path in (folder, tmp_path / "cifar-10-python.tar.gz"):
        read = data.load(path)
        np.testing.assert_array_equal(read.train, made.train)
        np.testing.assert_array_equal(read.train_labels, made.train_labels)
        np.testing.assert_array_equal(read.test, made.test)
        np.testing.assert_array_equal(read.test_labels, made.test_labels)


def test_images_kept_as_jpeg_join_the_others(tmp_path):
    import io

    from PIL import Image

    made, files = images(n_train=20), []
    for image in made.train[:10]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        files.append(np.frombuffer(buffer.getvalue(), np.uint8))
    np.savez(
        tmp_path / "c.npz",
        x_train=made.train,
        y_train=made.train_labels,
        x_test=made.test,
        y_test=made.test_labels,
    )
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(
        tmp_path / "c_train_part2_jpeg.npz",
        jpeg_bytes=np.concatenate(files),
        offsets=offsets,
        y_train=np.arange(10),
    )
    read = data.load(tmp_path / "c.npz")
    assert read.train.shape == (30, 32, 32, 3) and read.train_labels.tolist()[20:] == list(
        range(10)
    )
    assert abs(read.train[20].astype(int).mean() - made.train[0].mean()) < 5


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["train", "--data", "nowhere.npz"], "nowhere.npz"),
        (["train", "--widths", "0.5"], "falling widths that begin with 1"),
        (["measure", "--run", "nowhere"], "nowhere"),
        (["measure", "--run", "nowhere", "--machine", "my box"], "'my box' is invalid"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(asked, said, archive, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    data_given = [] if "--data" in asked else ["--data", str(archive)]
    with pytest.raises(SystemExit) as stop:
        command.main([*asked, *out, *data_given])
    assert stop.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
