"""Trains, measures and shows the multi-exit network of the profile `b-alexnet`.

    python -m profiles.build train   --out RUN [--data CIFAR-10]   # goes on where it was stopped
    python -m profiles.build measure --run RUN [--data CIFAR-10] [--out FOLDER] [--machine NAME]
    python -m profiles.build show    [PROFILE] [--figure FILE]

CIFAR-10 is the official archive or its folder, or an `.npz`; without --data the archive is fetched
into RUN.
"""

import argparse
import dataclasses
import sys
import tarfile
from pathlib import Path

from jaxcoinfer.data.fields import Place, ProfileError, identifier
from profiles.build import data, measure, show, train, write

QUICK = train.Config(epochs=1)
QUICK_IMAGES = 2560


def main(arguments: list[str] | None = None) -> None:
    """Runs one of the three commands; what is wrong with its input ends it with one line and code
    2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.action(options)
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        parser.error(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profiles.build", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    learn = commands.add_parser(
        "train", help="train all widths, with all exits at once; a stopped run goes on"
    )
    learn.add_argument("--out", type=Path, required=True, metavar="RUN")
    learn.add_argument("--seed", type=int, default=0)
    learn.add_argument("--epochs", type=int, default=train.Config.epochs)
    learn.set_defaults(action=_train)
    measured = commands.add_parser(
        "measure", help="measure the trained networks and write their profiles"
    )
    measured.add_argument("--run", type=Path, required=True, metavar="RUN")
    measured.add_argument("--out", type=Path, metavar="FOLDER", help="default: the run's folder")
    measured.add_argument(
        "--machine", type=_name, default="here", metavar="NAME", help="of this machine's profile"
    )
    measured.set_defaults(action=_measure)
    for command in (learn, measured):
        command.add_argument(
            "--data", type=Path, metavar="PATH", help="CIFAR-10: archive, folder or .npz"
        )
        command.add_argument(
            "--quick", action="store_true", help="few images, one epoch: whether it runs, no result"
        )
        command.add_argument(
            "--widths",
            type=_widths,
            default=train.WIDTHS,
            metavar="1,0.5",
            help="default: all four",
        )
    shown = commands.add_parser("show", help="print what was measured, and draw it")
    shown.add_argument("profile", nargs="?", default="b-alexnet")
    shown.add_argument("--figure", type=Path, metavar="FILE")
    shown.set_defaults(action=lambda options: show.show(options.profile, options.figure))
    return parser


def _widths(text: str) -> tuple[float, ...]:
    widths = tuple(float(word) for word in text.split(","))
    if widths[0] != 1 or sorted(set(widths), reverse=True) != list(widths):
        raise argparse.ArgumentTypeError(
            f"{text!r} is invalid; allowed: falling widths that begin with 1"
        )
    return widths


def _name(text: str) -> str:
    try:
        return identifier(text, Place("--machine"))
    except ProfileError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is invalid; allowed: letters, digits, '-' and '_'"
        ) from None


def _images(options: argparse.Namespace, folder: Path) -> data.Images:
    images = data.load(options.data or data.download(folder))
    if not options.quick:
        return images
    few = slice(0, QUICK_IMAGES)
    return images._replace(
        train=images.train[few],
        train_labels=images.train_labels[few],
        test=images.test[:500],
        test_labels=images.test_labels[:500],
    )


def _train(options: argparse.Namespace) -> None:
    images = _images(options, options.out)
    config = dataclasses.replace(
        QUICK if options.quick else train.Config(epochs=options.epochs), seed=options.seed
    )
    for width in options.widths:
        train.train(width, images, config, options.out)


def _measure(options: argparse.Namespace) -> None:
    images, folder = _images(options, options.run), options.out or options.run
    networks = [train.trained(width, options.run) for width in options.widths]
    costs = [measure.costs(width) for width in options.widths]
    answers = []
    for (variables, _), width in zip(networks, options.widths, strict=True):
        print(f"measuring width {width:g}", file=sys.stderr, flush=True)
        answers.append(
            measure.answers(width, variables, images.test, images.test_labels, images.train)
        )
    layer_s = [
        measure.seconds(width, variables)
        for (variables, _), width in zip(networks, options.widths, strict=True)
    ]
    print(write.network(folder, options.widths, costs, answers, images, networks[0][1]))
    print(write.machine(folder, options.machine, options.widths, costs, layer_s))


if __name__ == "__main__":
    main()
