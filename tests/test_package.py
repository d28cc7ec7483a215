"""The package as others get it: built, installed in one folder, used from another, the checkout out
of reach.
"""

import ast
import csv
import email.message
import email.parser
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jaxcoinfer.data import profiles, traces
from jaxcoinfer.systems import registry

ROOT = Path(__file__).resolve().parents[1]
NEVER_AT_IMPORT = (
    "gymnax",
    "gymnasium",
    "jaxmarl",
    "orbax",
    "pandas",
    "seaborn",
    "tensorflow_probability",
)


def run(*command: str | Path, **options) -> str:
    """Returns what the command writes to stdout; fails with its stderr."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=900, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def build(out: Path, *options: str) -> Path:
    """Builds the checkout into `out` without network; returns the wheel."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *options, ROOT)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "--wheel")


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def metadata(wheel, names) -> email.message.Message:
    (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    return email.parser.BytesParser().parsebytes(zipfile.ZipFile(wheel).read(name))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Returns `python(*arguments, **environment)`, which knows the installed copy alone, and its
    folder.
    """
    target, elsewhere = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        target,
        wheel,
    )

    def python(*arguments: str | Path, **environment: str) -> str:
        known = os.environ | {"PYTHONPATH": str(target), "PYTHONNOUSERSITE": "1"} | environment
        return run(sys.executable, *arguments, cwd=elsewhere, env=known)

    return python, target


def shipped_data() -> set[str]:
    """Returns the files below profiles/ that belong into a wheel: all but how they were made."""
    files = (
        path.relative_to(ROOT / "profiles")
        for path in (ROOT / "profiles").rglob("*")
        if path.is_file()
    )
    return {
        path.as_posix()
        for path in files
        if path.parts[0] != "build" and "__pycache__" not in path.parts
    }


def test_wheel_holds_the_package_and_all_profiles_and_no_more(names):
    inside = {name for name in names if ".dist-info/" not in name}
    data = {
        name.removeprefix("jaxcoinfer/_profiles/")
        for name in inside
        if name.startswith("jaxcoinfer/_profiles/")
    }
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "jaxcoinfer").rglob("*.py")}
    assert data == shipped_data()
    assert inside == code | {"jaxcoinfer/py.typed"} | {
        f"jaxcoinfer/_profiles/{name}" for name in data
    }


def test_wheel_from_the_source_archive_holds_the_same(names, tmp_path):
    assert set(zipfile.ZipFile(build(tmp_path)).namelist()) == names


def test_metadata_says_licence_python_and_no_upper_bound_of_jax(metadata, names):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"test", "export", "bench"} <= set(metadata.get_all("Provides-Extra"))
    jax = next(
        Requirement(line)
        for line in metadata.get_all("Requires-Dist")
        if Requirement(line).name == "jax"
    )
    assert [str(bound) for bound in jax.specifier] == [">=0.10"]


def test_everything_imported_is_declared(metadata):
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    extras = {canonicalize_name(requirement.name) for requirement in requirements}
    core = {
        canonicalize_name(requirement.name)
        for requirement in requirements
        if not requirement.marker
    }
    for path in (ROOT / "jaxcoinfer").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            ours = {"jaxcoinfer", *sys.stdlib_module_names}
            used = {
                canonicalize_name(module.split(".")[0])
                for module in modules
                if module.split(".")[0] not in ours
            }
            assert used <= (core if node in tree.body else extras), (
                f"{path.name} imports {used}: not in pyproject.toml"
            )


LOAD_ALL = """
import json, pathlib
import jaxcoinfer
from jaxcoinfer.data import profiles, traces
from jaxcoinfer.systems import registry

def read(name):
    try:
        return traces.read_rate_trace(name)
    except traces.TraceError:
        return traces.read_arrival_trace(name)

listed = profiles.list_profiles()
print(json.dumps({
    "file": jaxcoinfer.__file__,
    "profiles": {
        kind: [getattr(profiles, "load_" + kind)(name).name for name in listed[kind]]
        for kind in listed
    },
    "scenarios": [registry.load_scenario(name).name for name in registry.list_scenarios()],
    "traces": [read(name) and name for name in traces.shipped_traces()],
}))
"""


def test_installed_copy_reads_all_it_ships_from_any_folder(installed):
    python, target = installed
    loaded = json.loads(python("-c", LOAD_ALL))
    assert Path(loaded["file"]) == target / "jaxcoinfer/__init__.py"
    assert loaded["profiles"] == {
        kind: list(names) for kind, names in profiles.list_profiles().items()
    }
    assert loaded["scenarios"] == list(registry.list_scenarios())
    assert loaded["traces"] == list(traces.shipped_traces())
    assert all(loaded["profiles"].values()) and loaded["scenarios"] and loaded["traces"]


# JAX_PLATFORMS names a platform that does not exist, so whatever starts a backend fails; the last
# lines prove that. The modules that may bring matplotlib are imported last.
IMPORT_ALL = """
import importlib, importlib.metadata, json, pkgutil, sys
import jaxcoinfer

modules = pkgutil.walk_packages(jaxcoinfer.__path__, "jaxcoinfer.")
names = ["jaxcoinfer", *(module.name for module in modules)]
names.sort(key=lambda name: name.endswith((".figures", ".plots")))
brought = {}
for name in names:
    before = set(sys.modules)
    importlib.import_module(name)
    brought[name] = sorted({module.split(".")[0] for module in set(sys.modules) - before})
distribution = importlib.metadata.distribution("jaxcoinfer")
commands = distribution.entry_points.select(group="console_scripts")
facts = {
    "brought": brought,
    "loaded": sorted({name.split(".")[0] for name in sys.modules}),
    "commands": {command.name: callable(command.load()) for command in commands},
}
import jax
try:
    jax.numpy.zeros(())
except RuntimeError:
    print(json.dumps(facts))
"""


def test_imports_start_no_backend_and_stay_light(installed):
    python, target = installed
    facts = json.loads(python("-c", IMPORT_ALL, JAX_PLATFORMS="no-such-platform"))
    files = (
        path.relative_to(target).with_suffix("") for path in (target / "jaxcoinfer").rglob("*.py")
    )
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files}
    assert set(facts["brought"]) == modules and "jax" in facts["loaded"]
    assert not set(NEVER_AT_IMPORT) & set(facts["loaded"])
    bringers = {name for name, heavy in facts["brought"].items() if "matplotlib" in heavy}
    assert bringers and all(name.endswith((".figures", ".plots")) for name in bringers)
    assert facts["commands"] == {"jaxcoinfer": True}


@pytest.mark.slow
def test_main_job_runs_from_any_folder(installed, tmp_path):
    python, _ = installed
    table = python("-m", "jaxcoinfer", "run", "--quick", "--out", tmp_path / "out")
    assert len(table.splitlines()) > 3
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {".json", ".csv", ".png"} <= {path.suffix for path in files}
    for path in files:
        assert path.stat().st_size > 0, path
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        if path.suffix == ".csv":
            assert len(list(csv.reader(path.read_text("utf-8").splitlines()))) > 1, path
