"""The folder of compiled programs: where it is, how it is switched off, what is deleted, and that a
second process reads what a first one wrote.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from jaxcoinfer import cli, compilation_cache

HOME = {"HOME": "/home/ada"}


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {}, "/home/ada/.cache/jaxcoinfer/jax"),
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/jaxcoinfer/jax"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/ada/.cache/jaxcoinfer/jax"),
        ("darwin", {"XDG_CACHE_HOME": "/caches"}, "/home/ada/Library/Caches/jaxcoinfer"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/jaxcoinfer/Cache"),
        ("win32", {}, "/home/ada/AppData/Local/jaxcoinfer/Cache"),
        ("linux", {"JAXCOINFER_CACHE": "/mine"}, "/mine"),
        ("darwin", {"JAXCOINFER_CACHE": ""}, "/home/ada/Library/Caches/jaxcoinfer"),
        ("linux", {"JAXCOINFER_CACHE": "off"}, None),
        ("win32", {"JAXCOINFER_CACHE": "OFF"}, None),
    ],
)
def test_the_folder_is_that_of_the_platform_or_the_named_one(platform, environment, folder):
    chosen = compilation_cache.chosen_folder(HOME | environment, platform)
    assert chosen == (folder and Path(folder))


def entry(folder, name, size, used_s):
    path = folder / f"{name}-cache"
    path.write_bytes(bytes(size))
    os.utime(path, (used_s, 0))


def test_the_least_recently_used_programs_are_deleted(tmp_path):
    for number in range(5):
        entry(tmp_path, number, 100, used_s=1000 - number)
    (tmp_path / "notes.txt").write_bytes(bytes(1000))
    compilation_cache.prune(tmp_path, 500)
    assert len(list(tmp_path.iterdir())) == 6
    compilation_cache.prune(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"0-cache", "1-cache", "notes.txt"}


@pytest.fixture
def settings(monkeypatch):
    """Returns the settings that `start` changes, as a dict; JAX itself keeps its own."""
    changed: dict = {}
    stand_in = SimpleNamespace(jax_compilation_cache_dir=None, update=changed.__setitem__)
    monkeypatch.setattr(jax, "config", stand_in)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    return changed


def test_jax_is_given_the_folder(tmp_path, monkeypatch, settings):
    monkeypatch.setenv("JAXCOINFER_CACHE", str(tmp_path / "new"))
    assert compilation_cache.start() is None
    assert settings.pop("jax_compilation_cache_dir") == str(tmp_path / "new")
    assert list(settings) == ["jax_persistent_cache_min_compile_time_secs"]
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700  # programs in it are run


def test_a_folder_that_cannot_be_used_is_one_line_and_changes_nothing(
    tmp_path, monkeypatch, settings
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXCOINFER_CACHE", str(tmp_path / "file" / "folder"))
    problem = compilation_cache.start()
    assert problem and str(tmp_path) in problem and "\n" not in problem
    assert not settings


def test_switched_off_nothing_is_made(tmp_path, monkeypatch, settings):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXCOINFER_CACHE", "off")
    assert compilation_cache.start() is None
    assert not settings and not list(tmp_path.iterdir())


@pytest.mark.parametrize("subcommand", ["run", "evaluate", "export"])
def test_commands_that_compile_have_the_switch(subcommand, monkeypatch):
    started = []
    monkeypatch.setattr(compilation_cache, "start", lambda: started.append(1))
    needed = [] if subcommand == "run" else ["FOLDER"]
    for options in ([], ["--no-cache"]):
        cli._start_cache(cli._parser().parse_args([subcommand, *needed, *options]))
    assert len(started) == 1


COMPILE = """
import jax
from jaxcoinfer import compilation_cache

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
problem = compilation_cache.start()
value = jax.jit(lambda x: jax.numpy.sin(x).sum())(jax.numpy.arange(8.0))
print(problem, events.count("/jax/compilation_cache/cache_hits"), value)
"""


def compiled(**environment: str) -> list[str]:
    """Compiles in a new process; returns what kept it from caching, hits, and the result."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    kept |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | environment
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=kept, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_a_second_process_reads_what_the_first_one_compiled(tmp_path):
    folder = tmp_path / "new" / "cache"
    first, second = (compiled(JAXCOINFER_CACHE=str(folder)) for _ in range(2))
    assert first[:2] == ["None", "0"] and list(folder.glob("*-cache"))
    assert second[0] == "None" and int(second[1]) > 0
    assert first[2] == second[2] == compiled(JAXCOINFER_CACHE="off")[2]


def test_a_folder_that_the_user_gave_jax_is_the_one_used(tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    compiled(JAXCOINFER_CACHE=str(ours), JAX_COMPILATION_CACHE_DIR=str(theirs))
    assert list(theirs.glob("*-cache")) and not ours.exists()
