"""The `jaxcoinfer` command: parses arguments and prints, nothing else does.

Exit codes: 0; 1 failed; 2 bad usage or bad input, with one line on stderr; 130 interrupted. What
takes long to import is imported where it is used, so that help and mistakes are answered at once.
"""

import argparse
import dataclasses
import json
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jaxcoinfer import __version__
from jaxcoinfer.data import profiles
from jaxcoinfer.data.fields import table_of
from jaxcoinfer.systems import registry

WIDTH = 80


@dataclasses.dataclass(frozen=True)
class _Column:
    """One of the printed table, where all policies have the measure; digits None: as its largest
    number needs.
    """

    head: str
    measure: str
    scale: float
    digits: int | None = None


_COLUMNS = (
    _Column("delay\nms", "latency_s", 1e3),
    _Column("accu-\nracy", "accuracy", 1.0, 3),
    _Column("energy\nmJ", "energy_j", 1e3),
    _Column("late\n%", "deadline_misses", 1e2, 1),
)


class UsageError(ValueError):
    """Arguments that make no sense; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with `arguments` (default: those it was called with); returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        options.command_line = shlex.join(
            ["jaxcoinfer", *(sys.argv[1:] if arguments is None else arguments)]
        )
        options.action(options)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("jaxcoinfer: error: interrupted, nothing was written", file=sys.stderr, flush=True)
        if arguments is None:
            os._exit(130)  # threads that compile would hold the process up
        return 130
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        ours = type(error).__module__.startswith(("jaxcoinfer", "__main__"))
        kind = "" if ours else f"{type(error).__name__}: "
        print(f"jaxcoinfer: error: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        if os.environ.get("JAXCOINFER_TRACEBACK"):
            raise
        return (
            2 if ours and isinstance(error, ValueError) else 1
        )  # ours: Usage-, Profile-, Trace- and RunError


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxcoinfer", description="Device-edge DNN inference: train, evaluate, bound policies."
    )
    parser.add_argument("--version", action="version", version=f"jaxcoinfer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, action: Callable, what: str, of_a_run: bool = False
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what)
        added.set_defaults(action=action)
        if of_a_run:
            added.add_argument(
                "run", metavar="RUN", type=Path, help="folder that `jaxcoinfer run` wrote"
            )
        added.add_argument("--json", action="store_true", help="print one JSON object")
        return added

    run = command(
        "run", _run, "train a policy, evaluate it beside its baselines, write a run folder"
    )
    run.add_argument(
        "system",
        metavar="SYSTEM",
        nargs="?",
        default="stopping",
        choices=registry.SYSTEMS,
        help=", ".join(registry.SYSTEMS),
    )
    usual = ", ".join(system.default_scenario for system in registry.SYSTEMS.values())
    run.add_argument(
        "--scenario", metavar="NAME|PATH", help=f"shipped name or TOML file; default: {usual}"
    )
    run.add_argument(
        "--seed", metavar="N", type=_seed, default=0, help="of all randomness; default: 0"
    )
    run.add_argument("--quick", action="store_true", help="smaller: a first look, not a result")
    run.add_argument(
        "--out", metavar="FOLDER", type=Path, help="new or empty; default: runs/SCENARIO-SEED-TIME"
    )
    again = command(
        "evaluate", _evaluate, "evaluate the policy of a run folder again, on fresh rows", True
    )
    again.add_argument(
        "--seed", metavar="N", type=_seed, default=0, help="of the fresh rows; default: 0"
    )
    shown = command("profiles", _profiles, "list the shipped networks, devices, servers and links")
    shown.add_argument("--sources", action="store_true", help="say where every number comes from")
    command("scenarios", _scenarios, "list the shipped scenarios")
    own = command(
        "profile",
        _profile,
        "make a DNN profile from an ONNX file, and time its layers on this machine",
    )
    own.add_argument("model", metavar="MODEL", type=Path, help="ONNX file, one input, one output")
    own.add_argument("--name", help="of the profile; default: that of the file")
    own.add_argument("--out", metavar="FILE", type=Path, help="new .toml file; default: NAME.toml")
    own.add_argument(
        "--input-shape",
        metavar="1,3,224,224",
        type=_shape,
        help="for sizes that the file leaves open",
    )
    own.add_argument(
        "--accuracy", metavar="A", type=float, help="measured, 0 to 1; else to be filled in"
    )
    export = command(
        "export", _export, "write the trained policy as one portable file (jax.export)", True
    )
    export.add_argument("--out", metavar="FILE", type=Path, help="default: RUN/policy.jax_export")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(
            f"{text!r} is refused; allowed: a whole number from 0 to 2147483647"
        )
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.isdecimal() and 0 < int(size) < 2**31 for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{text!r} is refused; allowed: whole numbers above 0, as in 1,3,224,224"
        )
    return tuple(map(int, sizes))


def _run(options: argparse.Namespace) -> None:
    begin_s, created = time.perf_counter(), datetime.now().astimezone()
    scenario = registry.load_scenario(
        options.scenario or registry.SYSTEMS[options.system].default_scenario
    )
    if scenario.system != options.system:
        raise UsageError(
            f"scenario '{scenario.name}' is of system {scenario.system}, not {options.system}"
        )
    out = options.out or Path("runs") / f"{scenario.name}-{options.seed}-{created:%Y%m%d-%H%M%S}"
    from jaxcoinfer import run_folder
    from jaxcoinfer.evaluation.versions import versions

    run_folder.check_target(out)
    system = registry.SYSTEMS[options.system].part("run")
    with _progress() as progress:
        run = system.run(
            scenario, options.seed, system.QUICK if options.quick else system.FULL, progress
        )
    seconds = time.perf_counter() - begin_s
    facts = {"command": options.command_line, "created": created.isoformat(timespec="seconds")}
    facts |= {
        "seconds": round(seconds, 1),
        "seed": options.seed,
        "quick": options.quick,
        **versions(),
    }
    run_folder.write(run, out, facts | {"scenario_given": table_of(scenario)})
    if options.json:
        print(json.dumps({"folder": str(out), **run_folder.summary(run)}, allow_nan=False))
    else:
        _print_table(run.table)
        print(f"{out} written, {time.perf_counter() - begin_s:.0f} s in all")


def _evaluate(options: argparse.Namespace) -> None:
    from jaxcoinfer import run_folder

    checkpoint = run_folder.load(options.run)
    with _progress() as progress:
        table = (
            registry.SYSTEMS[checkpoint.scenario.system]
            .part("run")
            .evaluate_again(checkpoint, options.seed, progress)
        )
    if options.json:
        print(
            json.dumps(
                {"seed_of_rows": options.seed, **run_folder.describe(table, checkpoint)},
                allow_nan=False,
            )
        )
    else:
        _print_table(table)


def _export(options: argparse.Namespace) -> None:
    from jaxcoinfer import run_folder

    out = options.out or options.run / "policy.jax_export"
    card = run_folder.export(run_folder.load(options.run), out)
    print(json.dumps(card) if options.json else f"{out} and {out}.json written")


def _profiles(options: argparse.Namespace) -> None:
    listed = profiles.list_profiles()
    found = {
        kind: [getattr(profiles, f"load_{kind}")(name) for name in names]
        for kind, names in listed.items()
    }
    if options.json:
        facts = {
            kind: {p.name: _numbers(p) | {"source": dict(p.source)} for p in each}
            for kind, each in found.items()
        }
        print(json.dumps(facts))
        return
    for kind, each in found.items():
        for profile in each:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in _numbers(profile).items())
            sources = (
                [f"- {field}: {source}" for field, source in profile.source]
                if options.sources
                else []
            )
            _show(f"{kind} {profile.name}", profile.description, numbers, *sources)


def _scenarios(options: argparse.Namespace) -> None:
    found = [registry.load_scenario(name) for name in registry.list_scenarios()]
    if options.json:
        print(json.dumps({scenario.name: table_of(scenario) for scenario in found}))
        return
    for scenario in found:
        what = f"rows of {scenario.slots} slots" if hasattr(scenario, "slots") else "starts, slots"
        size = f"{scenario.system}, {scenario.rows} {what} of {scenario.slot_s * 1e3:g} ms"
        said = [scenario.description, size]
        for part, record in vars(scenario).items():
            if not dataclasses.is_dataclass(record):
                continue
            numbers = vars(record).items()
            said.append(
                f"{part}: "
                + (", ".join(f"{k} {_plain(v)}" for k, v in numbers if v != ()) or "constant")
            )
        _show(scenario.name, *said)


def _profile(options: argparse.Namespace) -> None:
    from jaxcoinfer import profiler

    chain = profiler.profile_onnx(options.model, name=options.name, input_shape=options.input_shape)
    out = options.out or Path(f"{chain.name}.toml")
    device = out.with_name(f"{out.stem}-device.toml")
    if out.suffix != ".toml" or not out.parent.is_dir() or out.exists() or device.exists():
        where = f"a new .toml file in a folder that is there, and no {device.name} beside it"
        raise UsageError(f"--out {out} is refused; allowed: {where}")
    text, timing, todo = profiler.dnn_toml(chain, options.accuracy), None, []
    if options.accuracy is None:
        todo.append(f"{out}: fill in full_accuracy and its source before use, or give --accuracy")
    todo.append(
        f"{out}: early exits are yours to add, with the accuracy that you measure (profiles/README.md)"
    )
    try:
        timing = profiler.time_onnx(options.model, chain)
        todo.append(
            f"{device}: fill in the watts before use; its seconds are those of this machine, in one thread"
        )
    except profiles.ProfileError as error:
        todo.append(str(error))
    profiler.write_new(out, text)
    if timing:
        profiler.write_new(device, profiler.device_toml(chain, timing))
    seconds = timing.layer_s if timing else ()
    if options.json:
        facts = {"profile": str(out), "device": str(device) if timing else None, "todo": todo}
        print(json.dumps(facts | _layer_facts(chain) | {"layer_s": seconds or None}))
        return
    _print_layers(chain, seconds)
    print(f"{out} written" + f", {device} written" * bool(timing))
    for line in todo:
        print(
            textwrap.fill(
                line, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
            )
        )


def _layer_facts(chain: Any) -> dict[str, Any]:
    layers = [
        {
            "name": layer.name,
            "flop": layer.flop,
            "kernels": layer.kernels,
            "parameters": layer.parameters,
        }
        | {"out_elements": layer.out.elements, "upload_bits": layer.out.bits}
        for layer in chain.layers
    ]
    return {"name": chain.name, "input_bits": chain.input_bits, "layers": layers}


def _print_layers(chain: Any, seconds: Sequence[float]) -> None:
    """Prints the layers of a profile and their sums, with their seconds if any are known."""
    layers = chain.layers
    lines = []
    for layer in layers:
        sizes = "x".join(map(str, layer.out.shape[1:] or layer.out.shape))
        counts = [str(layer.kernels), f"{layer.flop / 1e6:.2f}", f"{layer.parameters:,}"]
        lines.append([layer.name, *counts, sizes, f"{layer.out.bits / 1e3:.1f}"])
    sums = [
        sum(values)
        for values in zip(*((x.kernels, x.flop, x.parameters) for x in layers), strict=True)
    ]
    lines.append(["all", str(sums[0]), f"{sums[1] / 1e6:.2f}", f"{sums[2]:,}", "", ""])
    header = ["layer", "kernels", "MFLOP", "parameters", "output", "sent\nkbit"]
    if seconds:
        header.append("ms")
        for line, value in zip(lines, [*seconds, sum(seconds)], strict=True):
            line.append(f"{value * 1e3:.3f}")
    _print_sheet(header, lines)


def _print_table(table: Any) -> None:
    """Prints the policies, 80 columns wide: those of a device by utility, then the references."""
    rows, compared = table.rows, table.compared
    means = {
        name: {measure: i.mean for measure, i in row.measures.items()} for name, row in rows.items()
    }
    columns = [
        column for column in _COLUMNS if all(column.measure in mean for mean in means.values())
    ]
    digits = {
        c: _digits(max(abs(mean[c.measure]) for mean in means.values()) * c.scale) for c in columns
    }
    lines = []
    for name, row in sorted(
        rows.items(), key=lambda item: (not item[1].deployable, -item[1].measures["utility"].mean)
    ):
        mark, gain = (
            "" if row.deployable else " *",
            "" if name == compared else _short(row.gain, "+"),
        )
        gap = means[name].get("gap_ratio")
        cells = [
            f"{means[name][c.measure] * c.scale:.{digits[c] if c.digits is None else c.digits}f}"
            for c in columns
        ]
        cells.insert(0, f"{row.gap.mean:.3f}" if gap is None else f"{100 * gap:.2f} %")
        lines.append((name + mark, _short(row.measures["utility"]), *cells, gain))
    heads = ("policy", "utility\n± 95 %", "gap to\nbound", *(column.head for column in columns))
    _print_sheet((*heads, f"gain on\n{compared}"), lines)
    bound = table.bound
    computed = "" if bound.computed is None else f", computed {bound.computed:.4f}"
    print(f"* {table.reference}")
    print(f"bound: {bound.what}, {_short(bound.utility)}{computed}")
    for sheet in table.printed:
        print()
        _print_sheet(*sheet)


def _print_sheet(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table of text, its first column to the left, the others to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    lines = max(head.count("\n") for head in header)
    for i, head in enumerate(header):
        table.add_column(
            "\n" * (lines - head.count("\n")) + head, justify="right" if i else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*row)
    Console(width=WIDTH, no_color=True, highlight=False).print(table)


def _digits(largest: float) -> int:
    """Decimals that leave about three figures of the largest number of a column."""
    return 0 if not largest < 100 else 1


def _short(interval: Any, sign: str = "") -> str:
    """Mean ± half width within fourteen characters (below a thousand)."""
    largest = max(abs(interval.mean), abs(interval.half))
    decimals = 3 if not largest >= 10 else 2 if largest < 100 else 1 if largest < 1000 else 0
    return f"{interval.mean:{sign}.{decimals}f} ± {interval.half:.{decimals}f}"


def _show(name: str, *paragraphs: str) -> None:
    """Prints a name and what belongs to it, within 80 columns."""
    print(name)
    for text in paragraphs:
        hanging = " " * (6 if text.startswith("- ") else 4)
        print(
            textwrap.fill(
                text,
                WIDTH,
                initial_indent="    ",
                subsequent_indent=hanging,
                break_on_hyphens=False,
            )
        )


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value))
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _numbers(profile: Any) -> dict[str, float]:
    """The numbers of a profile that stand alone, and for a DNN the sums of its layers."""
    alone: dict[str, float] = {
        k: value for k, value in vars(profile).items() if isinstance(value, (int, float))
    }
    if isinstance(profile, profiles.Dnn):
        alone |= {"layers": len(profile.layers), "exits": len(profile.exits)}
        alone |= {"flop": sum(layer.flop for layer in profile.layers)}
    return alone


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Says on stderr what is over, how fast it went and how long the rest may take: a bar in a
    terminal, else lines.
    """
    begin_s = time.perf_counter()

    def line(what: str, done: int, total: int) -> None:
        spent_s = time.perf_counter() - begin_s
        if what:
            left_s = spent_s * (total - done) / max(done, 1)
            print(
                f"{spent_s:4.0f} s {done / total:4.0%}, {left_s:.0f} s left: {what}",
                file=sys.stderr,
                flush=True,
            )

    if not sys.stderr.isatty():
        yield line
        return
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    columns = (
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        "left",
    )
    with progress.Progress(
        *columns, progress.TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("")

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if what:
                bar.console.print(what)

        yield show


if __name__ == "__main__":
    sys.exit(main())
