"""Self-supervised world models for radiographs: a bucket of images in, an encoder and a table of how good it is out."""

# The commands themselves are in commands/; what does their work is imported inside `run`, so that --help is instant.

import argparse
import contextlib
import dataclasses
import functools
import io
import operator
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from chexworld_ray import __version__, recipes
from chexworld_ray.addresses import masked, refuse_secrets
from chexworld_ray.commands.analysis import Analyze, Embed, Neighbours
from chexworld_ray.commands.benchmark import Benchmark
from chexworld_ray.commands.cluster import Doctor, Drain, Submit
from chexworld_ray.commands.data import Ingest, Inspect, Phantoms
from chexworld_ray.commands.evaluation import Evaluate, Export, Report
from chexworld_ray.commands.training import Demo, Import, Pretrain, Sweep
from chexworld_ray.errors import UserError

_BOX = re.compile(r"[╭╮╰╯│─]")
COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "phantoms": Phantoms,
    "ingest": Ingest,
    "inspect": Inspect,
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "analyze": Analyze,
    "embed": Embed,
    "neighbours": Neighbours,
    "report": Report,
    "import": Import,
    "export": Export,
    "benchmark": Benchmark,
    "submit": Submit,
    "doctor": Doctor,
    "drain": Drain,
}
WITH_RECIPE = ("pretrain", "sweep")
_ANY_COMMAND: Any = functools.reduce(
    operator.or_, (Annotated[command, tyro.conf.subcommand(name)] for name, command in COMMANDS.items())
)


def parse(argv: Sequence[str]) -> Any:
    """The command that the arguments ask for.

    Raises:
        UserError: they do not fit; one line.
        SystemExit: help was asked for.
    """
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name not in COMMANDS:
        return _quietly(
            lambda: tyro.cli(_ANY_COMMAND, prog="chexworld", args=list(argv) or ["--help"], description=__doc__)
        )
    default = _with_recipe(COMMANDS[name], rest) if name in WITH_RECIPE else None
    command = _quietly(lambda: tyro.cli(COMMANDS[name], prog=f"chexworld {name}", args=list(rest), default=default))
    if isinstance(command, Submit):
        _check_submitted(command.words)
    return command


def _check_submitted(words: Sequence[str]) -> None:
    """Mistakes are told here, not by a job."""
    if not words or words[0] not in COMMANDS or words[0] in ("submit", "drain"):
        raise UserError("submit: say which command after --, as in chexworld submit -- pretrain --data URL …")
    parse(words)


def _with_recipe(command: Any, words: Sequence[str]) -> Any:
    """A command's defaults out of the recipe that its words name; sizes of the model where `--init` tells them."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--recipe", default="small")
    peek.add_argument("--init")
    chosen = peek.parse_known_args(list(words))[0]
    settings = recipes.by_name(chosen.recipe)
    science = settings.science
    if chosen.init is not None:
        from chexworld_ray.training.initial import model_of

        science = dataclasses.replace(science, model=model_of(chosen.init, science.model))
    required = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(command)
        if field.default is field.default_factory is dataclasses.MISSING
    }
    return command(**required, recipe=chosen.recipe, runtime=settings.runtime, science=science)


def _quietly(parse_arguments: Any) -> Any:
    """tyro draws a box around its errors; a user of a log wants one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_arguments()
    except SystemExit as end:
        if end.code in (0, None):
            raise
        lines = [_BOX.sub("", line).strip() for line in said.getvalue().splitlines()]
        _title, *words = [line for line in lines if line and "--help" not in line and "full helptext" not in line]
        raise UserError(" ".join(words)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 where a check failed, or for a fault of this program; 2 with one line for a user's mistake."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console or pipe of few letters is no reason to fail
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(__version__)  # noqa: T201
        return 0
    try:
        for argument in arguments:
            refuse_secrets(argument)
        return parse(arguments).run() or 0
    except UserError as error:
        print(f"chexworld: {' '.join(masked(str(error)).split())}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("chexworld: interrupted; the same command goes on where it stopped", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:  # Python would print it too, but with the passwords of what it was doing
        print(masked(traceback.format_exc()), end="", file=sys.stderr)  # noqa: T201
        return 1
    return 0
