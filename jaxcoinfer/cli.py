"""The `jaxcoinfer` command: parses arguments and prints (with `printing`); nothing else does.

Exit codes: 0; 1 failed; 2 bad usage or bad input, with one line on stderr; 130 interrupted. What
takes long to import is imported where it is used, so that help and mistakes are answered at once.
"""

import argparse
import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jaxcoinfer import __version__, compilation_cache, printing
from jaxcoinfer.data import profiles
from jaxcoinfer.data.fields import table_of
from jaxcoinfer.data.processes import RecordedRate
from jaxcoinfer.systems import registry


class UsageError(ValueError):
    """Arguments that make no sense; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with `arguments` (default: those of the process); returns the exit code."""
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
    except BrokenPipeError:  # whoever reads the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        ours = type(error).__module__.startswith(("jaxcoinfer", "__main__"))
        kind = "" if ours else f"{type(error).__name__}: "
        print(f"jaxcoinfer: error: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        if os.environ.get("JAXCOINFER_TRACEBACK"):
            raise
        # Ours are UsageError, ProfileError, TraceError and RunError.
        return 2 if ours and isinstance(error, ValueError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxcoinfer", description="Device-edge DNN inference: train, evaluate, bound policies."
    )
    parser.add_argument("--version", action="version", version=f"jaxcoinfer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, action: Callable, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what)
        added.set_defaults(action=action)
        added.add_argument("--json", action="store_true", help="print one JSON object")
        return added

    what = "train a policy, evaluate it with its baselines, write a run folder"
    _add_run_options(command("run", _run, what))
    what = "evaluate the policies of a run folder again, on fresh rows"
    again = command("evaluate", _evaluate, what)
    _add_folder(again)
    again.add_argument(
        "--seed", metavar="N", type=_seed, default=0, help="of the fresh rows; default: 0"
    )
    again.add_argument(
        "--links", metavar="FOLDER", type=Path, help="of traces (.csv) to use as the links"
    )
    what = "list the shipped networks, devices, servers and links"
    listed = command("profiles", _profiles, what)
    listed.add_argument("--sources", action="store_true", help="add the source of every number")
    listed.add_argument(
        "--assumed", action="store_true", help="list what is assumed, and what hangs on it"
    )
    command("scenarios", _scenarios, "list the shipped scenarios")
    what = "make a DNN profile from an ONNX file, and time its layers on this machine"
    _add_profile_options(command("profile", _profile, what))
    what = "write the trained policy as one portable file (jax.export)"
    export = command("export", _export, what)
    _add_folder(export)
    export.add_argument("--out", metavar="FILE", type=Path, help="default: RUN/policy.jax_export")
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "system",
        metavar="SYSTEM",
        nargs="?",
        default="stopping",
        choices=registry.SYSTEMS,
        help=", ".join(registry.SYSTEMS),
    )
    usual = ", ".join(system.default_scenario for system in registry.SYSTEMS.values())
    parser.add_argument(
        "--scenario", metavar="NAME|PATH", help=f"shipped name or TOML file; default: {usual}"
    )
    parser.add_argument(
        "--seed", metavar="N", type=_seed, default=0, help="of all randomness; default: 0"
    )
    parser.add_argument("--quick", action="store_true", help="smaller: a first look, not a result")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="new or empty; default: runs/SCENARIO-SEED-TIME"
    )
    _add_no_cache(parser)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="folder that `jaxcoinfer run` wrote")
    _add_no_cache(parser)


def _add_no_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-cache", action="store_true", help="neither read nor keep compiled programs"
    )


def _add_profile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="ONNX file, one input and output")
    parser.add_argument("--name", help="of the profile; default: that of the file")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="new .toml file; default: NAME.toml"
    )
    parser.add_argument(
        "--input-shape",
        metavar="1,3,224,224",
        type=_shape,
        help="for sizes that the file leaves open",
    )
    parser.add_argument(
        "--accuracy", metavar="A", type=float, help="measured, 0 to 1; else to be filled in"
    )


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(
            f"{text!r} is invalid; allowed: a whole number from 0 to 2147483647"
        )
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.isdecimal() and 0 < int(size) < 2**31 for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{text!r} is invalid; allowed: whole numbers above 0, as in 1,3,224,224"
        )
    return tuple(map(int, sizes))


def _start_cache(options: argparse.Namespace) -> None:
    problem = None if options.no_cache else compilation_cache.start()
    if problem:
        print(f"jaxcoinfer: {problem}", file=sys.stderr)


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
    _start_cache(options)
    system = registry.SYSTEMS[options.system].part("run")
    with printing.progress() as progress:
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
        printing.print_policies(run.table)
        print(f"{out} written, {time.perf_counter() - begin_s:.0f} s in all")


def _evaluate(options: argparse.Namespace) -> None:
    from jaxcoinfer import run_folder

    checkpoint = run_folder.load(options.run)
    if options.links:
        scenario = _on_links(checkpoint.scenario, options.links)
        checkpoint = dataclasses.replace(checkpoint, scenario=scenario)
    _start_cache(options)
    system = registry.SYSTEMS[checkpoint.scenario.system].part("run")
    with printing.progress() as progress:
        table = system.evaluate_again(checkpoint, options.seed, progress)
    if options.json:
        facts = {"seed_of_rows": options.seed, **run_folder.describe(table, checkpoint)}
        print(json.dumps(facts, allow_nan=False))
        return
    printing.print_policies(table)
    if options.links:
        printing.print_links(table, checkpoint.chosen["best"])


def _on_links(scenario: Any, folder: Path) -> Any:
    """The scenario with the traces of a folder as its test links, two rows of each."""
    if not isinstance(getattr(scenario, "rate", None), RecordedRate):
        raise UsageError(f"--links {folder}: scenario '{scenario.name}' has no recorded links")
    files = sorted(str(path.absolute()) for path in folder.glob("*.csv"))
    if not files:
        raise UsageError(f"--links {folder}: no .csv file in it; give a folder of traces")
    rate = dataclasses.replace(scenario.rate, test=tuple(files))
    return dataclasses.replace(scenario, rate=rate, rows=max(2 * len(files), 2))


def _export(options: argparse.Namespace) -> None:
    from jaxcoinfer import run_folder

    out = options.out or options.run / "policy.jax_export"
    checkpoint = run_folder.load(options.run)
    _start_cache(options)
    card = run_folder.export(checkpoint, out)
    print(json.dumps(card) if options.json else f"{out} and {out}.json written")


def _profiles(options: argparse.Namespace) -> None:
    if options.assumed:
        return _assumed(options)
    loaded = {
        kind: [getattr(profiles, f"load_{kind}")(name) for name in names]
        for kind, names in profiles.list_profiles().items()
    }
    if options.json:
        facts = {
            kind: {p.name: _numbers(p) | {"source": dict(p.source)} for p in each}
            for kind, each in loaded.items()
        }
        print(json.dumps(facts))
        return
    for kind, each in loaded.items():
        for profile in each:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in _numbers(profile).items())
            sources = [f"- {field}: {source}" for field, source in profile.source]
            printing.print_entry(
                f"{kind} {profile.name}",
                profile.description,
                numbers,
                *(sources if options.sources else []),
            )


def _assumed(options: argparse.Namespace) -> None:
    """Lists every number that is assumed, and who is best with other ones."""
    named = {
        f"{kind} {name}": getattr(profiles, f"load_{kind}")(name)
        for kind, names in profiles.list_profiles().items()
        for name in names
    }
    named |= {
        f"scenario {name}": registry.load_scenario(name) for name in registry.list_scenarios()
    }
    assumed = {
        name: {field: text for field, text in record.source if text.startswith("assumed:")}
        for name, record in named.items()
    }
    header, *rows = profiles.read_sensitivity()
    if options.json:
        table = [dict(zip(header, row, strict=True)) for row in rows]
        print(json.dumps({"assumed": assumed, "sensitivity": table}))
        return
    for name, fields in assumed.items():
        if fields:
            lines = [f"- {field}: {text}" for field, text in fields.items()]
            printing.print_entry(name, *lines)
    print(
        f"\nScenario {rows[0][0]} with each number times a factor: who is best, and what the best"
    )
    print("learner gains on the best rule (nothing is tuned or trained again)")
    printing.print_sheet(header[1:], [row[1:] for row in rows])


def _scenarios(options: argparse.Namespace) -> None:
    loaded = [registry.load_scenario(name) for name in registry.list_scenarios()]
    if options.json:
        print(json.dumps({scenario.name: table_of(scenario) for scenario in loaded}))
        return
    for scenario in loaded:
        what = f"rows of {scenario.slots} slots" if hasattr(scenario, "slots") else "starts, slots"
        size = f"{scenario.system}, {scenario.rows} {what} of {scenario.slot_s * 1e3:g} ms"
        paragraphs = [scenario.description, size]
        for part, record in vars(scenario).items():
            if not dataclasses.is_dataclass(record):
                continue
            numbers = vars(record).items()
            listed = ", ".join(f"{k} {_plain(v)}" for k, v in numbers if v != ())
            paragraphs.append(f"{part}: {listed or 'constant'}")
        printing.print_entry(scenario.name, *paragraphs)


def _profile(options: argparse.Namespace) -> None:
    from jaxcoinfer import profiler

    chain = profiler.profile_onnx(options.model, name=options.name, input_shape=options.input_shape)
    out = options.out or Path(f"{chain.name}.toml")
    device = out.with_name(f"{out.stem}-device.toml")
    if out.suffix != ".toml" or not out.parent.is_dir() or out.exists() or device.exists():
        where = f"a new .toml file in a folder that is there, and no {device.name} beside it"
        raise UsageError(f"--out {out} is invalid; allowed: {where}")
    text, timing, todo = profiler.dnn_toml(chain, options.accuracy), None, []
    if options.accuracy is None:
        todo.append(f"{out}: fill in full_accuracy and its source before use, or give --accuracy")
    todo.append(
        f"{out}: early exits are yours to add, with the accuracy that you measure"
        " (profiles/README.md)"
    )
    try:
        timing = profiler.time_onnx(options.model, chain)
        todo.append(
            f"{device}: fill in the watts before use; its seconds are those of this machine, in one"
            " thread"
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
    printing.print_layers(chain, seconds)
    print(f"{out} written" + f", {device} written" * bool(timing))
    for line in todo:
        printing.print_wrapped(line, "- ", "  ")


def _layer_facts(chain: Any) -> dict[str, Any]:
    layers = [
        {
            "name": layer.name,
            "flop": layer.flop,
            "kernels": layer.kernels,
            "parameters": layer.parameters,
            "out_elements": layer.out.elements,
            "upload_bits": layer.out.bits,
        }
        for layer in chain.layers
    ]
    return {"name": chain.name, "input_bits": chain.input_bits, "layers": layers}


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value))
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _numbers(profile: Any) -> dict[str, float]:
    """The numbers of a profile that stand alone, and for a DNN the sums of its layers."""
    numbers: dict[str, float] = {
        k: value for k, value in vars(profile).items() if isinstance(value, (int, float))
    }
    if isinstance(profile, profiles.Dnn):
        numbers |= {"layers": len(profile.layers), "exits": len(profile.exits)}
        numbers |= {"flop": sum(layer.flop for layer in profile.layers)}
    return numbers


if __name__ == "__main__":
    sys.exit(main())
