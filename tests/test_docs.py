"""README.md says what is true: its Python runs, its commands, options, modules and links exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEST_COMMAND = "python -m pytest"
SLOW_TEST_COMMAND = "python -m pytest -m slow"

if not README.exists():
    pytest.skip("there is no README.md", allow_module_level=True)

TEXT = README.read_text("utf-8")
FENCED = re.compile(r"^```([^\n`]*)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
NO_SHELL = ("python", "pycon", "text", "json", "toml", "csv")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def blocks(text: str) -> list[tuple[str, int, str]]:
    """Returns (language, line of its first line, content) of every fenced block."""
    return [
        (match[1].strip(), text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in FENCED.finditer(text)
    ]


def typed(text: str) -> list[str]:
    """Returns every command a reader may type, one by one: of shell blocks and `code spans`,
    without comments.
    """
    shell = [content for language, _, content in blocks(text) if language not in NO_SHELL]
    lines = [line for content in shell for line in content.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
    parts = (
        part
        for line in [*lines, *inline]
        for part in re.split(r"\s(?:&&|\||;|>)\s", line.split(" #")[0])
    )
    return [part.strip().removeprefix("$ ").strip() for part in parts]


def commands(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Returns (subcommand, its --options) of every `jaxcoinfer ...` in the text; "" where there is
    no subcommand.
    """
    found = []
    for command in typed(text):
        words = re.sub(r"[\[\]|…]", " ", command).split()
        if words[:1] == ["jaxcoinfer"] and len(words) > 1:
            options = tuple(word.split("=")[0] for word in words if word.startswith("--"))
            found.append(("" if words[1].startswith("-") else words[1], options))
    return found


def help_of(subcommand: str, capsys, monkeypatch) -> tuple[int, str]:
    """Returns the exit code and the help of `jaxcoinfer SUBCOMMAND --help`; "" is the command
    itself.
    """
    from jaxcoinfer import cli

    monkeypatch.setattr(sys, "argv", ["jaxcoinfer", *filter(None, [subcommand]), "--help"])
    try:
        code = cli.main() or 0
    except SystemExit as stop:
        code = stop.code or 0
    return code, capsys.readouterr().out


@pytest.mark.slow
def test_python_blocks_run_in_order(tmp_path):
    """All of them in one fresh interpreter, names shared, from an empty folder."""
    languages = [language for language, _, _ in blocks(TEXT)]
    misspelt = [
        name
        for name in languages
        if name.lower().startswith("py") and name not in ("python", "pycon")
    ]
    assert not misspelt, f"{misspelt}: only ```python is run"
    script = ["names = {'__name__': '__main__'}"]
    for language, line, content in blocks(TEXT):
        if language == "python":
            padded = "\n" * (line - 1) + content  # so that a traceback names the line of README.md
            script.append(f"exec(compile({padded!r}, {str(README)!r}, 'exec'), names)")
    assert len(script) > 1, "README.md shows no Python"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-6000:]


def test_commands_and_options_exist(capsys, monkeypatch):
    assert help_of("no-such-subcommand", capsys, monkeypatch)[0] == 2
    assert commands(TEXT), "README.md shows no command"
    for subcommand, options in commands(TEXT):
        code, text = help_of(subcommand, capsys, monkeypatch)
        assert code == 0, f"`jaxcoinfer {subcommand}` is no command"
        known = set(re.findall(r"--[\w-]+", text))
        assert set(options) <= known, f"`jaxcoinfer {subcommand}` knows {sorted(known)}"


def test_modules_and_links_exist():
    modules = {
        words[i + 1]
        for words in map(str.split, typed(TEXT))
        for i in range(1, len(words) - 1)
        if words[i - 1 : i + 1] == ["python", "-m"]
    }
    for module in modules - {"pytest", "venv", "pip", "build"}:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), (
            f"`python -m {module}`"
        )
    for target in LINK.findall(TEXT):
        assert "://" in target or target.startswith("mailto:") or (ROOT / target).exists(), (
            f"link to {target}"
        )


def test_continuous_integration_runs_the_test_command_of_the_readme():
    assert TEST_COMMAND in typed(TEXT) and SLOW_TEST_COMMAND in typed(TEXT)
    lines = [line for line in (ROOT / ".ci/run").read_text("utf-8").splitlines() if line]
    assert shlex.split(lines[-1]) == TEST_COMMAND.split()
    assert SLOW_TEST_COMMAND in lines[:-1]


EXAMPLE = """Run `jaxcoinfer run stopping --quick --out=DIR`, or `jaxcoinfer` alone, or
`python -m pytest`.

```bash
$ jaxcoinfer run [SYSTEM] [--scenario wifi] > table.txt  # --no-option
jaxcoinfer profiles && jaxcoinfer --version
pip install jaxcoinfer
```

```python
print("jaxcoinfer run --never")
```
"""


def test_commands_are_found_in_lines_and_blocks():
    assert commands(EXAMPLE) == [
        ("run", ("--scenario",)),
        ("profiles", ()),
        ("", ("--version",)),
        ("run", ("--quick", "--out")),
    ]
    assert blocks(EXAMPLE)[1] == ("python", 11, 'print("jaxcoinfer run --never")\n')
    assert "python -m pytest" in typed(EXAMPLE)
