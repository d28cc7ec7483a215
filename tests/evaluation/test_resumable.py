"""Long runs: killed at random moments they give the same numbers; a damaged checkpoint, a full disk
and a read-only folder are named.
"""

import dataclasses
import multiprocessing
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from jaxcoinfer.evaluation import resumable
from jaxcoinfer.evaluation.types import RunError
from jaxcoinfer.learn import checkpoints, dqn, loop
from jaxcoinfer.learn.checkpoints import CheckpointError
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.stopping.env import Stopping
from tests.helpers import probes
from tests.helpers.resumable import SPECS, STAGES, fill, leaves, live, train, world
from training import long as recipe

KILLS = int(os.environ.get("KILLS", "5"))  # of each learner


def assert_same(a, b):
    """Equal to the last bit."""
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def never(line):
    raise AssertionError(line)


# --- killed ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begin():
    """Returns begin(function, *arguments) -> (process, pipe to read): forked from a server that
    only imports and traces.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.resumable_server"])
    before = os.environ.get("PYTHONPATH", "")
    folders = [str(Path(__file__).resolve().parents[2])]
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, before])  # for the server alone

    def start(function, *arguments):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=function, args=(*arguments, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    yield start
    os.environ["PYTHONPATH"] = before


def receive(pipe) -> tuple:
    assert pipe.poll(120), "a process no longer sends anything"
    return pipe.recv()


def to_the_end(process, pipe) -> list[tuple]:
    events = [receive(pipe)]
    while events[-1][0] != "over":
        events.append(receive(pipe))
    process.join()
    return events


def result(folder: Path) -> list[np.ndarray]:
    with np.load(folder.with_suffix(".npz")) as file:
        return [file[name] for name in file.files]


@pytest.mark.slow
@pytest.mark.parametrize("learner", SPECS)
def test_a_run_killed_at_random_moments_comes_to_the_same_bits(learner, begin, tmp_path):
    cache, folder, kills, lives = tmp_path / "cache", tmp_path / "killed", 0, 0
    rng, resumed, events = np.random.default_rng(0), set(), []
    while kills < KILLS:
        if events[-1:] == [("over", STAGES)]:
            folder = tmp_path / f"killed{lives}"
        lives += 1
        process, pipe = begin(live, learner, folder, cache)
        events = [receive(pipe)]
        for _ in range(rng.integers(0, 8)):
            if events[-1][0] != "over":
                events.append(receive(pipe))
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        process.join()
        kills += process.exitcode == -9
        resumed |= {value for what, value in events if what == "resumed"}
    events = to_the_end(*begin(live, learner, folder, cache))
    # A kill leaves nothing incomplete.
    assert not [event for event in events if event[0] == "passed over"]
    if KILLS >= 5:  # some lives end before they can resume
        assert len(resumed) > 1  # at different stages
    spec, hyper = SPECS[learner], SPECS[learner].learner.Hyper()
    key, params = jax.random.key(0), world(spec)
    shapes = jax.eval_shape(lambda: loop.init(key, params, hyper, build_loop=spec))
    # A weak type would make the first stage after a restart another program.
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(shapes))
    twin = {} if spec.outcomes is None else {"outcomes": spec.outcomes}
    at_once = spec.learner.train(key, params, hyper, env=spec.env, config=spec.config, **twin)
    for resumed_leaf, scanned in zip(result(folder), leaves(at_once), strict=True):
        np.testing.assert_array_equal(resumed_leaf, scanned)
    assert np.isfinite(at_once.curve).all()
    start = loop.init(key, params, hyper, build_loop=spec)
    before, after = spec(params, hyper).weights(start.learner_state), at_once.weights
    if hasattr(before, "prices"):  # of the rule that the network corrects, which stays
        assert_same(before.prices, after.prices)
        before, after = before.net, after.net
    assert all((a != b).any() for a, b in zip(leaves(before), leaves(after), strict=True))


# --- a folder of a run ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short():
    spec = SPECS["dqn"]
    return dataclasses.replace(spec, config=dataclasses.replace(spec.config, n_evaluations=5))


def test_a_folder_continues_where_it_stopped_and_only_for_the_same_training(
    short, tmp_path, monkeypatch
):
    whole = train(tmp_path / "whole", spec=short)
    folder, resumed, lines = tmp_path / "run", [], []
    save = checkpoints._write

    def full(path, tree):
        if "step-00000004" in str(path):
            raise OSError(28, "No space left on device")
        save(path, tree)

    monkeypatch.setattr(checkpoints, "_write", full)
    with pytest.raises(CheckpointError) as caught:
        train(folder, spec=short)
    assert str(caught.value) == (
        f"{folder}/step-00000004: cannot be written: No space left on device; "
        "last one kept: step-00000003"
    )
    monkeypatch.undo()
    spoil(folder / "step-00000003", "flip")
    events = resumable.Events(resumed.append, lines.append)
    assert_same(train(folder, spec=short, events=events, every=2), whole)
    assert resumed == [2] and len(lines) == 1 and "step-00000003: damaged" in lines[0]
    steps = ["step-00000002", "step-00000004", "step-00000005"]  # the last three that were whole
    assert sorted(path.name for path in folder.glob("*-*")) == ["damaged-00000003", *steps]
    # All stages are done: nothing is left to do.
    assert_same(train(folder, spec=short, events=resumable.Events(resumed.append)), whole)
    assert resumed == [2, 5]
    with pytest.raises(
        RunError, match=r"run: begun with seed = 0, not 1 \(and 1 more\); ask for the same, or give"
    ):
        train(folder, seed=1, spec=short)
    other = dataclasses.replace(short, config=dataclasses.replace(short.config, hidden=(5,)))
    with pytest.raises(RunError, match=r"begun with config.hidden = \[4\], not \[5\]; ask"):
        train(folder, spec=other)
    with pytest.raises(RunError, match=r"begun with hyper.discount = 0.0, not 0.5; ask"):
        train(folder, spec=short, hyper=dqn.Hyper(discount=0.5))
    (folder / resumable.ASKED).write_text("{")
    with pytest.raises(RunError, match=r"asked.json: damaged; restore it"):
        train(folder, spec=short)


@pytest.mark.slow
def test_the_recipe_continues_and_ends_in_one_line(short, tmp_path, monkeypatch, capsys):
    world = (probes.Probe(), probes.World(jnp.int32(4)))
    monkeypatch.setattr(recipe.executor, "make_world", lambda *_, **__: world)
    monkeypatch.setattr(recipe, "best_learner", lambda system, env, sizes: (short, dqn.Hyper()))

    def command(*options) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["long", *map(str, options)])
        code = recipe.main()
        return code, capsys.readouterr().err.splitlines()

    out = tmp_path / "run"
    code, lines = command("on-demand", "--out", out)
    assert code == 0 and len(lines) == 6 and lines[1].startswith("stage 2 of 5: ")
    header, *points = (out / "curve.csv").read_text().splitlines()
    assert header == "steps,mean"
    assert [int(line.split(",")[0]) for line in points] == [16, 32, 48, 64, 80]
    weights = serialization.msgpack_restore((out / "weights.msgpack").read_bytes())
    assert weights["params"]["Dense_0"]["kernel"].shape == (2, 4)
    spoil(out / "step-00000005", "truncate")
    code, lines = command("on-demand", "--out", out)
    assert (
        code == 0
        and len(lines) == 4
        and "step-00000005: damaged" in lines[0]
        and lines[1] == "continues after stage 4"
    )
    code, lines = command("on-demand", "--out", out, "--seed", 1)
    assert (
        code == 2
        and len(lines) == 1
        and lines[0].startswith(f"error: {out}: begun with seed = 0, not 1")
    )
    code, lines = command("fleet", "--out", out, "--scenario", "wifi")
    assert code == 2 and lines == ["error: scenario 'wifi': of system stopping; give one of fleet"]

    with pytest.raises(SystemExit):
        command("on-demand", "--out", out, "--devices", jax.local_device_count() + 1)
    assert "--devices: " in capsys.readouterr().err

    def full(path, tree):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write", full)
    code, lines = command("on-demand", "--out", tmp_path / "other")
    assert code == 1 and len(lines) == 1 and "No space left on device" in lines[0]


@pytest.mark.parametrize("system", list(recipe.registry.SYSTEMS))
def test_the_recipe_knows_every_system(system):
    envs = {"stopping": Stopping(3), "on-demand": OnDemand(2, 3, 2, 1), "fleet": Fleet(3, 2, 3)}
    env = (envs | {"multi-user": MultiUser(3, 2, 4)})[system]
    spec, hyper = recipe.best_learner(system, env, {"n_evaluations": 7})
    assert spec.config.n_evaluations == 7 and hash(spec) == hash(
        recipe.best_learner(system, env, {"n_evaluations": 7})[0]
    )
    assert spec.learner.train and spec.learner.training_loop
    assert type(hyper) is spec.learner.Hyper


# --- checkpoints ----------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: jax.Array
    second: tuple


def state(step: int):
    key = jax.random.fold_in(jax.random.key(0), step)
    numbers = jax.random.normal(key, (7, 3))
    keys = {"one": key, "many": jax.random.split(key, 3), "other": jax.random.key(step, impl="rbg")}
    return {
        "pair": Pair(numbers, ()),
        "keys": keys,
        "whole": jnp.int32(step),
        "flags": numbers[0] > 0,
        "none": None,
    }


SHAPES = jax.eval_shape(lambda: state(0))


def spoil(path: Path, how: str) -> str:
    """Damages a checkpoint; returns what the message must name."""
    files = sorted(
        (path / "state").rglob("*"), key=lambda file: file.stat().st_size * file.is_file()
    )
    victim = files[-1]
    if how == "flip":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif how == "truncate":
        os.truncate(victim, victim.stat().st_size // 2)
    elif how == "delete":
        victim.unlink()
        return f"{victim.relative_to(path)} is missing"
    elif how == "add":
        (path / "state" / "stray").write_text("")
        return "state/stray is not part of it"
    elif how == "no digests":
        (path / "sha256.json").unlink()
        return "sha256.json or a file cannot be read (No such file or directory)"
    elif how == "half digests":
        os.truncate(path / "sha256.json", 40)
        return "sha256.json or a file cannot be read"
    return f"{victim.relative_to(path)} is not as written"


def test_what_is_read_is_what_was_saved_and_the_last_ones_are_kept(tmp_path):
    assert checkpoints.latest(tmp_path / "none", SHAPES, never) is None
    (tmp_path / ".step-00000009.77.partial").mkdir()  # of a killed process
    for step in (1, 2, 3, 10):
        checkpoints.save(tmp_path, step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002",
        "step-00000003",
        "step-00000010",
    ]
    step, read = checkpoints.latest(tmp_path, SHAPES, never)
    assert step == 10 and jax.tree.structure(read) == jax.tree.structure(state(10))
    assert_same(read, state(10))
    assert [leaf.dtype for leaf in jax.tree.leaves(read)] == [
        leaf.dtype for leaf in jax.tree.leaves(state(10))
    ]
    assert_same(
        jax.random.normal(read["keys"]["other"]), jax.random.normal(state(10)["keys"]["other"])
    )


@pytest.mark.parametrize("how", ["flip", "truncate", "delete", "add", "no digests", "half digests"])
def test_a_damaged_one_is_named_and_the_one_before_used(how, tmp_path):
    for step in (1, 2):
        checkpoints.save(tmp_path, step, state(step))
    named, lines = spoil(tmp_path / "step-00000002", how), []
    step, read = checkpoints.latest(tmp_path, SHAPES, lines.append)
    assert step == 1 and len(lines) == 1
    assert (
        lines[0].startswith(f"{tmp_path}/step-00000002: damaged: ")
        and named in lines[0]
        and "\n" not in lines[0]
    )
    assert_same(read, state(1))
    checkpoints.save(tmp_path, 2, state(2))  # the run comes by again
    assert checkpoints.latest(tmp_path, SHAPES, never)[0] == 2
    for path in tmp_path.glob("step-*"):
        spoil(path, how)
    with pytest.raises(
        CheckpointError,
        match=r"all checkpoints are damaged \(step-00000001, step-00000002\); restore",
    ):
        checkpoints.latest(tmp_path, SHAPES, lines.append)


@contextmanager
def read_only(folder: Path):
    """A folder in which nothing may be made, also where the tests run as root, whom permissions do
    not stop.
    """
    folder.chmod(0o500)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_a_folder_that_is_read_only_is_one_line_and_the_last_one_stays(tmp_path):
    checkpoints.save(tmp_path, 1, state(1))
    with (
        read_only(tmp_path),
        pytest.raises(CheckpointError, match=r"step-00000002: cannot be written: Perm.* denied; "),
    ):
        checkpoints.save(tmp_path, 2, state(2))
    assert checkpoints.latest(tmp_path, SHAPES, never)[0] == 1
    folder = tmp_path / "run"
    folder.mkdir()
    with (
        read_only(folder),
        pytest.raises((RunError, CheckpointError), match=r"run[^\n]*: .*Permission denied"),
    ):
        train(folder)


def test_a_full_disk_is_one_line_and_the_last_one_stays(begin, tmp_path):
    process, pipe = begin(fill, tmp_path / "run", 20_000)
    assert pipe.poll(120)
    message = pipe.recv()
    process.join()
    start = f"{tmp_path}/run/step-00000002: cannot be written: "
    assert message == f"{start}{os.strerror(27)}; last one kept: step-00000001"
    shapes = {"weights": jax.ShapeDtypeStruct((80_000,), jnp.float32)}
    assert checkpoints.latest(tmp_path / "run", shapes, never)[0] == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-00000001"]
    shutil.rmtree(tmp_path / "run")
