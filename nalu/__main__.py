"""The command line: ``python -m nalu sweep | record | verify | bench``."""

from __future__ import annotations

import argparse
import math
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

from . import bench
from .experiments import BOUNDARIES, EXPERIMENTS, MODELS
from .runs import ENGINES, record, sweep, verify
from .store import RECORDED, Store
from .tasks.arithmetic import OPERATIONS
from .training.run import STREAMS

# What a boundary varies, as columns of a sweep.
VARIED = [
    "input_size", "overlap_ratio", "subset_ratio", "hidden_size", "interpolation", "extrapolation"
]  # fmt: skip


def whole_numbers(text: str) -> list[int]:
    """Seeds from "0:100" or "0,1,7"."""
    if ":" not in text:
        return [int(part) for part in text.split(",")]
    begin, end = text.split(":")
    if not int(begin or 0) < int(end):
        raise argparse.ArgumentTypeError(f"{text!r} has no seeds: the first must be below {end}")
    return list(range(int(begin or 0), int(end)))


def count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def positive(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not positive and finite")
    return number


def numbers(text: str) -> list[float]:
    """Values of a parameter from "4,10" or "0.1,0.5": whole ones stay whole."""
    return [float(part) if "." in part or "e" in part else int(part) for part in text.split(",")]


def truth(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text} is neither True nor False")
    return text == "True"


def names(text: str) -> list[str]:
    return text.split(",")


# How an argument of an experiment is read, by its type; and what its values are, by its name.
READERS = {
    Iterable[int]: whole_numbers, Sequence[str]: names, Sequence: numbers,
    bool: truth, int: int, float: float, str: str,
}  # fmt: skip
HELP = {
    "seeds": "0:100 or 0,1,7",
    "models": f"of {', '.join(MODELS)}",
    "operations": f"of {', '.join(OPERATIONS)}",
    "parameter": f"what is varied, of {', '.join(BOUNDARIES['final'])}",
    "values": "of that parameter, as 4,10",
    "interpolation": "range of training, as 1,2",
    "extrapolation": "range where a run has to be right, as 1,6",
    "protocol": "draft or final",
    "stream": f"of {', '.join(STREAMS)}",
}


def options_of(experiment: Callable) -> dict[str, Callable]:
    """What may be given for an experiment, and how it is read: arguments, and fields of runs."""
    arguments = get_type_hints(experiment)
    (run,) = get_args(arguments.pop("return"))
    taken = {"seed", "experiment", "model", "layers", "unit"}  # by other arguments
    hints = get_type_hints(run)
    arguments |= {each.name: hints[each.name] for each in fields(run) if each.name not in arguments}
    readers = {}
    for name, hint in arguments.items():
        kinds = [kind for kind in (hint, *get_args(hint)) if kind in READERS]
        if kinds and name not in taken:
            readers[name] = READERS[kinds[0]]
    return readers


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m nalu", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    experiment = argparse.ArgumentParser(add_help=False)
    experiment.add_argument("name", choices=EXPERIMENTS, help="the experiment")
    offered: dict[str, Callable] = {}
    for function in EXPERIMENTS.values():
        offered |= options_of(function)
    for name, reader in offered.items():
        of = [each for each, function in EXPERIMENTS.items() if name in options_of(function)]
        whose = "" if len(of) == len(EXPERIMENTS) else f"of {', '.join(of)}"
        text = "; ".join(filter(None, [HELP.get(name), whose, "else the paper's"]))
        experiment.add_argument(f"--{name.replace('_', '-')}", type=reader, help=text)
    experiment.add_argument("--engine", choices=["auto", *ENGINES], default="auto")

    command = commands.add_parser(
        "sweep", parents=[experiment], help="compute the runs of an experiment"
    )
    command.add_argument("--store", type=Path, help="folder of records; else the reader's cache")
    command.add_argument("--output", type=Path, help="write the table here, as CSV")

    commands.add_parser(
        "record", parents=[experiment], help="add computed runs to those in data/runs"
    )

    command = commands.add_parser("bench", help="measure the engines on this machine")
    command.add_argument(
        "--of", choices=bench.BENCHES, default="arithmetic", help="what is measured"
    )
    command.add_argument("--seconds", type=positive, default=3.0, help="spent on each number")
    command.add_argument("--output", type=Path, help="write the table here, as CSV")

    command = commands.add_parser("verify", help="compute recorded runs again and compare")
    command.add_argument("--sample", type=count, default=10, help="how many runs, drawn at random")
    command.add_argument("--seed", type=int, help="of the draw; else another one each time")
    command.add_argument("--seconds", type=positive, help="leave out runs that took longer")
    command.add_argument("--store", type=Path, help="folder of records; else data/runs")
    return top


def specifications(arguments: argparse.Namespace):
    """The runs that a ``sweep`` command asks for.

    Raises:
        ValueError: the experiment has no such argument, or no such value.
    """
    known, given = options_of(EXPERIMENTS[arguments.name]), {}
    for function in EXPERIMENTS.values():
        for name in options_of(function):
            if (value := getattr(arguments, name)) is not None:
                given[name] = value
    for name in given.keys() - known.keys():
        raise ValueError(f"{arguments.name} has no --{name.replace('_', '-')}")
    if "values" in given and "parameter" not in given:
        raise ValueError("--values are those of a --parameter: name it as well")
    return EXPERIMENTS[arguments.name](**given)


def main(argv: Sequence[str] | None = None) -> int:
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.command == "bench":
        bench.main(arguments.seconds, arguments.output, arguments.of)
        return 0
    if arguments.command == "verify":
        store = Store(arguments.store or RECORDED)
        seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
        print(f"records drawn with --seed {seed}")
        table = verify(store, arguments.sample, seed, arguments.seconds)
        if not len(table):
            where = "there are none"
            if any(store.keys()):
                where = "all took longer, or are of an engine that this machine does not have"
            print(f"no record was compared: {where}", file=sys.stderr)
            return 1
        print(table.to_string(index=False))
        return int((table.result == "different").any())
    try:
        runs = specifications(arguments)
    except ValueError as error:
        top.error(str(error))
    if arguments.command == "record":
        table = record(runs, arguments.engine)
        print(table.groupby(["model", "operation", "result"], sort=False).size().to_string())
        return int(table.result.isin(["not computed", "uncommitted"]).any())
    try:
        table = sweep(runs, arguments.engine, arguments.store)
    except ValueError as error:  # an engine that this machine does not have, a damaged checkpoint
        top.error(str(error))
    if arguments.output:
        table.to_csv(arguments.output, index=False)
    print(outcome(table).to_string())
    return 0


def outcome(table):
    """What a sweep came to, a row a model, operation and whatever else was varied."""
    varied = [name for name in VARIED if name in table and table[name].nunique(dropna=False) > 1]
    by = ["model", "operation", *varied]
    groups = table.groupby(by, sort=False, dropna=False)
    if "solved" not in table:  # of one run alone, no one knows
        return groups[["best_epoch", "validation_error", "sparsity_error"]].mean()
    measured = table[table.solved].groupby(by, dropna=False)
    rates = groups.solved.agg(success_rate="mean", runs="size")
    return rates.join(measured[["solved_at", "sparsity_error"]].mean())


if __name__ == "__main__":
    sys.exit(main())
