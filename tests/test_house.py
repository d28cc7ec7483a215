"""The rules of the house, checked on the text of `jaxcoinfer/`: layers, sizes, who prints,
docstrings, imports.

A rule takes the package's sources and returns complaints, each `file:line: what is wrong; what to
do`. The last tests break every rule in a small package of their own: a rule that cannot fail guards
nothing.
"""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jaxcoinfer"
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

# A file imports from its own room and from the rooms before it, never in a circle; files of the top
# are rooms each.
ROOMS = (
    "data",
    "physics",
    "core",
    "learn",
    "evaluation",
    "systems",
    "profiler",
    "checked",
    "adapters",
    "run_folder",
    "compilation_cache",
    "printing",
    "cli",
    "__main__",
)
COMMAND = ("printing", "cli", "__main__")  # the files of the command, which alone may print
# Within the folder of a system likewise: parts of one line may import each other, and those of the
# lines before.
PARTS = (
    ("scenario", "exogenous", "samples", "allocation", "rates"),
    ("params",),
    ("events", "state"),
    ("device", "observation"),
    ("env",),
    ("make", "twin"),
    (
        "bound",
        "bounds",
        "baselines",
        "network",
        "misses",
        "lookup",
        "predictive_control",
        "price_rule",
    ),
    ("features",),
    ("continuation_value", "differential_value"),
    ("policies",),
    ("evaluation",),
    ("figures", "sweeps", "status_reports", "timeline"),
    ("report",),
    ("stored",),
    ("run",),
)
FACES = (
    "",
    "adapters",
    "profiler",
)  # packages that show what is inside; `__init__` of all others imports nothing
OUTSIDE = ("tests", "training", "benchmarks")  # what the library must not know
# What other folders of the checkout must not know: recipes run without benchmarks, both without
# tests.
UNKNOWN_TO = {"training": ("benchmarks", "tests"), "benchmarks": ("tests",)}
TALKERS = (
    "argparse",
    "click",
    "docopt",
    "fire",
    "getopt",
    "optparse",
    "pprint",
    "rich",
    "typer",
    "tyro",
)
DEVICE_WORK = (
    "jax.numpy",
    "jax.random",
    "jax.lax",
    "jax.device_put",
    "jax.devices",
    "jax.default_backend",
)

Node = ast.AST
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Source:
    """One file: `name` is `systems.stopping.env`; a package's `__init__` has the name of the
    package, the root's is "".
    """

    path: str
    name: str
    is_face: bool
    tree: ast.Module
    n_lines: int

    def complain(self, node: Node | int, what: str) -> str:
        return f"{self.path}:{node if isinstance(node, int) else node.lineno}: {what}"


def read(package: Path) -> list[Source]:
    """Returns the sources of every file below `package`, sorted by path."""
    sources = []
    for path in sorted(package.rglob("*.py")):
        relative, text = path.relative_to(package), path.read_text("utf-8")
        is_face = path.name == "__init__.py"
        name = ".".join(relative.parts[:-1] if is_face else relative.with_suffix("").parts)
        label = str(Path(package.name) / relative)
        sources.append(Source(label, name, is_face, ast.parse(text, label), len(text.splitlines())))
    assert sources, f"no Python files in {package}"
    return sources


def absolute_imports(source: Source) -> Iterator[tuple[Node, str, str | None]]:
    """Yields (node, module, name) of every import, also of those within functions; name is None for
    `import module`.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                here = ["jaxcoinfer", *filter(None, source.name.split("."))]
                base = here[: len(here) + source.is_face - node.level]
                module = ".".join([*base, module] if module else base)
            yield from ((node, module, alias.name) for alias in node.names)


def imported(source: Source, known: set[str]) -> Iterator[tuple[Node, str]]:
    """Yields (node, name) of every file of the package that `source` imports."""
    for node, module, name in absolute_imports(source):
        if module.split(".")[0] != "jaxcoinfer":
            continue
        inner = module.removeprefix("jaxcoinfer").removeprefix(".")
        longer = f"{inner}.{name}".removeprefix(".")
        yield node, longer if name and longer in known else inner


def room(name: str) -> int | None:
    """Returns the place of a file in ROOMS."""
    first = name.split(".")[0]
    return ROOMS.index(first) if first in ROOMS else None


def part(name: str) -> tuple[str, int | None]:
    """Returns the system of a file below `systems`, and the line of PARTS it is in; "" for the
    registry.
    """
    inner = name.split(".")[1:]
    if len(inner) < 2:
        return "", 0
    line = next((i for i, parts in enumerate(PARTS) if inner[1] in parts), None)
    return inner[0], line


def imports_point_up(sources: list[Source]) -> list[str]:
    known, complaints = {source.name for source in sources}, []
    for source in sources:
        if source.name and room(source.name) is None:
            complaints.append(
                source.complain(1, "has no place in ROOMS of tests/test_house.py; give it one")
            )
        for node, module, _ in absolute_imports(source):
            if module.split(".")[0] in OUTSIDE:
                complaints.append(
                    source.complain(node, f"the library imports {module}, which is not part of it")
                )
        for node, name in imported(source, known):
            if source.name and name and (room(name) or 0) > (room(source.name) or 0):
                complaints.append(
                    source.complain(
                        node, f"imports {name}, which stands below; move what both need up"
                    )
                )
    return complaints


def recipes_stand_apart(sources: list[Source]) -> list[str]:
    """Takes the sources of `training` or `benchmarks`, not of the package."""
    complaints = []
    for source in sources:
        folder = Path(source.path).parts[0]
        for node, module, _ in absolute_imports(source):
            if module.split(".")[0] in UNKNOWN_TO[folder]:
                complaints.append(
                    source.complain(node, f"imports {module}; move what both need to training")
                )
    return complaints


def systems_stand_apart(sources: list[Source]) -> list[str]:
    known, complaints = {source.name for source in sources}, []
    for source in (source for source in sources if source.name.startswith("systems.")):
        system, line = part(source.name)
        if line is None:
            complaints.append(
                source.complain(1, "has no place in PARTS of tests/test_house.py; give it one")
            )
        for node, name in imported(source, known):
            if not name.startswith("systems."):
                continue
            other, its_line = part(name)
            if other != system:
                complaints.append(
                    source.complain(
                        node, f"imports {name} of another system; move what both need up"
                    )
                )
            elif (its_line or 0) > (line or 0):
                complaints.append(
                    source.complain(
                        node, f"imports {name}, which stands below; move what both need up"
                    )
                )
    return complaints


def packages_are_thin(sources: list[Source]) -> list[str]:
    return [
        source.complain(
            1, "is an `__init__` with more than a docstring; give what it holds a file of its own"
        )
        for source in sources
        if source.is_face and source.name not in FACES and len(source.tree.body) > 1
    ]


def no_circles(sources: list[Source]) -> list[str]:
    known = {source.name for source in sources}
    graph = {
        source.name: sorted({name for _, name in imported(source, known)} & known)
        for source in sources
    }
    finished: set[str] = set()
    complaints = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circle = [*trail[trail.index(name) :], name]
            complaints.append(
                "circle: " + " -> ".join(f"jaxcoinfer.{step}".rstrip(".") for step in circle)
            )
        elif name not in finished:
            for target in graph[name]:
                visit(target, (*trail, name))
            finished.add(name)

    for name in graph:
        visit(name, ())
    return complaints


def files_are_short(sources: list[Source]) -> list[str]:
    return [
        source.complain(
            source.n_lines, f"{source.n_lines} lines, at most {MAX_FILE_LINES}; divide it"
        )
        for source in sources
        if source.n_lines > MAX_FILE_LINES
    ]


def functions_are_short(sources: list[Source]) -> list[str]:
    complaints = []
    for source in sources:
        for node in ast.walk(source.tree):
            lines = node.end_lineno - node.lineno + 1 if isinstance(node, Function) else 0
            if lines > MAX_FUNCTION_LINES:
                what = f"{node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}; divide it"
                complaints.append(source.complain(node, what))
    return complaints


def only_the_command_talks(sources: list[Source]) -> list[str]:
    complaints = []
    for source in (source for source in sources if source.name not in COMMAND):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "print":
                complaints.append(
                    source.complain(node, "prints; return it, and let the command print")
                )
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "sys.argv",
                "sys.stdout",
                "sys.stderr",
            ):
                complaints.append(
                    source.complain(
                        node, f"uses {ast.unparse(node)}, which is for the command alone"
                    )
                )
        for node, module, name in absolute_imports(source):
            said = module == "sys" and name in ("argv", "stdout", "stderr")
            if said or module.split(".")[0] in TALKERS:
                complaints.append(
                    source.complain(node, f"imports {module}, which is for the command alone")
                )
    return complaints


def public_names_have_docstrings(sources: list[Source]) -> list[str]:
    complaints = [
        source.complain(1, "has no docstring")
        for source in sources
        if not ast.get_docstring(source.tree)
    ]
    for source in sources:
        for node in source.tree.body:
            public = isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                complaints.append(
                    source.complain(node, f"{node.name} has no docstring; say what it returns")
                )
    return complaints


def run_at_import(node: Node) -> Iterator[Node]:
    """Yields what importing a file evaluates: all but bodies of functions, whose defaults and
    decorators count.
    """
    yield node
    if isinstance(node, Function | ast.Lambda):
        now = [
            *node.args.defaults,
            *filter(None, node.args.kw_defaults),
            *getattr(node, "decorator_list", []),
        ]
    else:
        now = ast.iter_child_nodes(node)
    for child in now:
        yield from run_at_import(child)


def no_device_work_at_import(sources: list[Source]) -> list[str]:
    complaints = []
    for source in sources:
        full = {}  # what a name at the beginning of an expression stands for
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                stem = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                full |= {alias.asname: stem + alias.name for alias in node.names if alias.asname}
                full |= {
                    alias.name: stem + alias.name
                    for alias in node.names
                    if stem and not alias.asname
                }
        for node in run_at_import(source.tree):
            if isinstance(node, ast.Call):
                first, dot, rest = ast.unparse(node.func).partition(".")
                called = f"{full.get(first, first)}{dot}{rest}"
                if any(called == work or called.startswith(work + ".") for work in DEVICE_WORK):
                    complaints.append(
                        source.complain(node, f"calls {called} at import; use NumPy or a function")
                    )
    return complaints


RULES = (
    imports_point_up,
    systems_stand_apart,
    packages_are_thin,
    no_circles,
    files_are_short,
    functions_are_short,
    only_the_command_talks,
    public_names_have_docstrings,
    no_device_work_at_import,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house_keeps(rule):
    complaints = rule(read(PACKAGE))
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("folder", UNKNOWN_TO)
def test_recipes_stand_apart(folder):
    complaints = recipes_stand_apart(read(ROOT / folder))
    assert not complaints, "\n".join(complaints)


DOC = '"""Doc."""\n'
TIDY = {
    "__init__.py": DOC + "from jaxcoinfer.systems.registry import make\n",
    "data/__init__.py": DOC,
    "data/profiles.py": DOC + "import numpy as np\nHALF = np.float32(0.5)\n",
    "core/__init__.py": DOC,
    "core/contract.py": DOC
    + "import jax\n\n@jax.jit\ndef _f(x):\n    return jax.numpy.zeros(())\n",
    "core/one.py": DOC + "from . import contract\nfrom ..data import profiles\n",
    "systems/registry.py": DOC + "def make():\n    'Doc.'\n",
    "systems/fleet/env.py": DOC + "from jaxcoinfer.core import one\n",
    "systems/fleet/twin.py": DOC + "from jaxcoinfer.systems.fleet import env\n",
    "systems/fleet/run.py": DOC + "from jaxcoinfer.systems.fleet import twin\n",
    "systems/other/env.py": DOC,
    "run_folder.py": DOC + "from jaxcoinfer import make\nfrom jaxcoinfer.systems import registry\n",
    "printing.py": DOC + "import sys\nprint('', file=sys.stderr)\n",
    "cli.py": DOC
    + "import argparse\nfrom jaxcoinfer import printing, run_folder\nprint(argparse)\n",
    "__main__.py": DOC + "import sys\nfrom jaxcoinfer.cli import main\nsys.exit(main())\n",
}
LONG = DOC + "\ndef _long():\n" + "    pass\n" * MAX_FUNCTION_LINES
BROKEN = [  # rule, file, what it holds, what the complaint says
    (
        imports_point_up,
        "data/profiles.py",
        DOC + "from jaxcoinfer import cli\n",
        "profiles.py:2: imports cli",
    ),
    (
        imports_point_up,
        "core/contract.py",
        DOC + "from ..systems.fleet import env\n",
        "contract.py:2: imports systems",
    ),
    (
        imports_point_up,
        "data/profiles.py",
        DOC + "import jaxcoinfer.core.one\n",
        "profiles.py:2: imports core.one",
    ),
    (
        imports_point_up,
        "data/profiles.py",
        DOC + "def _f():\n    from jaxcoinfer import cli\n",
        "py:3: imports cli",
    ),
    (imports_point_up, "new.py", DOC, "new.py:1: has no place"),
    (
        imports_point_up,
        "data/profiles.py",
        DOC + "from training import stopping\n",
        "imports training",
    ),
    (
        systems_stand_apart,
        "systems/other/env.py",
        DOC + "from ..fleet import env\n",
        "fleet.env of another system",
    ),
    (
        systems_stand_apart,
        "systems/fleet/env.py",
        DOC + "from . import twin\n",
        "imports systems.fleet.twin, which",
    ),
    (systems_stand_apart, "systems/fleet/new.py", DOC, "new.py:1: has no place in PARTS"),
    (
        systems_stand_apart,
        "systems/fleet/run.py",
        DOC + "from .. import registry\n",
        "registry of another system",
    ),
    (
        packages_are_thin,
        "core/__init__.py",
        DOC + "from jaxcoinfer.core import one\n",
        "more than a docstring",
    ),
    (
        no_circles,
        "core/contract.py",
        DOC + "from jaxcoinfer.core import one\n",
        "core.contract -> jaxcoinfer.core.one ->",
    ),
    (
        no_circles,
        "systems/registry.py",
        DOC + "from jaxcoinfer import make\n",
        "systems.registry -> jaxcoinfer",
    ),
    (files_are_short, "data/profiles.py", DOC + "\n" * MAX_FILE_LINES, "401 lines"),
    (functions_are_short, "data/profiles.py", LONG, "profiles.py:3: _long has 61 lines"),
    (
        only_the_command_talks,
        "data/profiles.py",
        DOC + "def _f():\n    print(1)\n",
        "profiles.py:3: prints",
    ),
    (
        only_the_command_talks,
        "data/profiles.py",
        DOC + "import jax\njax.debug.print('')\n",
        "profiles.py:3: prints",
    ),
    (
        only_the_command_talks,
        "data/profiles.py",
        DOC + "import argparse\n",
        "profiles.py:2: imports argparse",
    ),
    (
        only_the_command_talks,
        "data/profiles.py",
        DOC + "from rich.table import Table\n",
        "imports rich.table",
    ),
    (
        only_the_command_talks,
        "data/profiles.py",
        DOC + "import sys\nsys.stderr.write('')\n",
        "py:3: uses sys.stderr",
    ),
    (
        only_the_command_talks,
        "data/profiles.py",
        DOC + "from sys import argv\n",
        "profiles.py:2: imports sys",
    ),
    (
        only_the_command_talks,
        "compilation_cache.py",
        DOC + "print(1)\n",
        "compilation_cache.py:2: prints",
    ),
    (
        imports_point_up,
        "printing.py",
        DOC + "from jaxcoinfer import cli\n",
        "printing.py:2: imports cli",
    ),
    (
        public_names_have_docstrings,
        "data/profiles.py",
        "HALF = 0.5\n",
        "profiles.py:1: has no docstring",
    ),
    (
        public_names_have_docstrings,
        "data/profiles.py",
        DOC + "class Box:\n    pass\n",
        "profiles.py:2: Box has no",
    ),
    (
        public_names_have_docstrings,
        "data/profiles.py",
        DOC + "def f():\n    pass\n",
        "profiles.py:2: f has no docstring",
    ),
    (
        no_device_work_at_import,
        "data/profiles.py",
        DOC + "import jax.numpy as jnp\nX = jnp.zeros(1)\n",
        "jax.numpy.zeros",
    ),
    (
        no_device_work_at_import,
        "data/profiles.py",
        DOC + "from jax import random\nK = [random.key(0)]\n",
        "random.key",
    ),
    (
        no_device_work_at_import,
        "data/profiles.py",
        DOC + "import jax\ndef _f(x=jax.numpy.ones(2)):\n    pass\n",
        "ones",
    ),
    (
        no_device_work_at_import,
        "data/profiles.py",
        DOC + "import jax\nclass _C:\n    n = len(jax.devices())\n",
        "devices",
    ),
]


def write(folder: Path, files: dict[str, str]) -> Path:
    """Writes files below `folder / "jaxcoinfer"` and returns that."""
    for name, text in files.items():
        path = folder / "jaxcoinfer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder / "jaxcoinfer"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tidy_package_passes(rule, tmp_path):
    assert not rule(read(write(tmp_path, TIDY)))


@pytest.mark.parametrize(
    ("rule", "file", "text", "complaint"), BROKEN, ids=[rule.__name__ for rule, *_ in BROKEN]
)
def test_broken_rule_is_noticed(rule, file, text, complaint, tmp_path):
    complaints = rule(read(write(tmp_path, TIDY | {file: text})))
    assert any(complaint in line for line in complaints), complaints


@pytest.mark.parametrize(
    ("folder", "text", "complaint"),
    [
        ("training", "from benchmarks.harness import coins\n", "one.py:2: imports benchmarks."),
        ("training", "def _f():\n    import tests.reference\n", "one.py:3: imports tests."),
        ("benchmarks", "from tests import reference\n", "one.py:2: imports tests"),
        ("benchmarks", "from training import common\n", None),
    ],
)
def test_a_recipe_that_imports_the_wrong_folder_is_noticed(folder, text, complaint, tmp_path):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "one.py").write_text(DOC + text, "utf-8")
    complaints = recipes_stand_apart(read(tmp_path / folder))
    assert len(complaints) == (complaint is not None)
    assert complaint is None or complaint in complaints[0]


def test_every_rule_is_broken_once():
    assert {rule for rule, *_ in BROKEN} == set(RULES)
