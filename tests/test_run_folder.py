"""Checkpoints of run folders: what is read is what was written, also where another version wrote
it.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from jaxcoinfer import run_folder
from jaxcoinfer.evaluation import executor
from jaxcoinfer.evaluation.types import Checkpoint, RunError
from jaxcoinfer.systems.registry import load_scenario
from jaxcoinfer.systems.stopping.policies import BEST
from jaxcoinfer.systems.stopping.price_rule import Prices
from tests.helpers.stopping import assert_trees_equal

WEIGHTS = {"params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}


CHOSEN = {"compared": "price rule", "seed_of_best": 1, "fixed": 2, "threshold": 0.9}


def checkpoint(name: str) -> Checkpoint:
    return Checkpoint(load_scenario(name), 3, {BEST: (4, 4)}, {BEST: WEIGHTS}, CHOSEN)


def write(folder: Path, packed: bytes, **changes: str | int) -> Path:
    """Writes a checkpoint with some of its fields changed, and with the checksum that then fits."""
    content = serialization.msgpack_restore(serialization.msgpack_restore(packed)["content"])
    content = serialization.msgpack_serialize(content | changes)
    digest = hashlib.sha256(content).hexdigest()
    packed = serialization.msgpack_serialize({"sha256": digest, "content": content})
    (folder / run_folder.CHECKPOINT).write_bytes(packed)
    return folder


def table_of(packed: bytes) -> dict:
    content = serialization.msgpack_restore(serialization.msgpack_restore(packed)["content"])
    return json.loads(content["scenario"])


def assert_same(loaded: Checkpoint, written: Checkpoint) -> None:
    weights = loaded.weights[BEST]["params"]["kernel"]
    np.testing.assert_array_equal(weights, WEIGHTS["params"]["kernel"])
    for name in ("scenario", "seed", "hidden", "chosen"):
        assert getattr(loaded, name) == getattr(written, name)


@pytest.mark.parametrize("name", ["camera", "reference-busy"])
def test_what_is_loaded_is_what_was_written(name, tmp_path):
    written = checkpoint(name)
    (tmp_path / run_folder.CHECKPOINT).write_bytes(run_folder.pack(written))
    assert_same(run_folder.load(tmp_path), written)


def test_a_checkpoint_with_the_old_name_of_a_field_is_loaded(tmp_path):
    written = checkpoint("camera")
    packed = run_folder.pack(written)
    table = table_of(packed)
    table["task"]["look"] = table["task"].pop("observe_confidence")  # its name until 0.1
    assert_same(run_folder.load(write(tmp_path, packed, scenario=json.dumps(table))), written)


def test_what_was_chosen_is_read_back_as_a_record(tmp_path):
    prices = Prices(jnp.arange(6, dtype=jnp.float32) / 10, jnp.float32(12.5))
    written = dataclasses.replace(checkpoint("camera"), chosen=CHOSEN | {"prices": prices})
    (tmp_path / run_folder.CHECKPOINT).write_bytes(run_folder.pack(written))
    chosen = run_folder.load(tmp_path).chosen
    assert {name: value for name, value in chosen.items() if name != "prices"} == CHOSEN
    assert_trees_equal(executor.record_of(Prices, chosen["prices"]), prices)
    assert_trees_equal(executor.record_of(Prices, prices), prices)


@pytest.mark.parametrize("field", ["colour", "system", "format 2", "format 4"])
def test_what_another_version_wrote_is_one_line_that_says_what_to_do(field, tmp_path):
    packed = run_folder.pack(checkpoint("camera"))
    table = table_of(packed) | ({field: "other"} if "format" not in field else {})
    changes = {"format": int(field[-1])} if "format" in field else {}
    with pytest.raises(RunError, match=r"made by another version of jaxcoinfer\S* run again$") as e:
        run_folder.load(write(tmp_path, packed, scenario=json.dumps(table), **changes))
    assert "\n" not in str(e.value)


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    packed = bytearray(run_folder.pack(checkpoint("camera")))
    packed[len(packed) // 2] ^= 1
    (tmp_path / run_folder.CHECKPOINT).write_bytes(packed)
    with pytest.raises(RunError, match="damaged: its checksum does not fit; run again, or"):
        run_folder.load(tmp_path)
