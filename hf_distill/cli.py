"""The command line: parses and calls. Heavy imports stand inside the commands, so that --help is immediate."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typing_extensions import override

from hf_distill.errors import HfDistillError
from hf_distill.secrets import Discreet, hidden, told
from hf_distill.signals import Stopped, leave, leave_together, stops_on_sigterm

# libgomp's spinning threads slow each other down by an order of magnitude on a busy machine; read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Bars of each data set mapping say less than the lines of a run.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Notes from libraries to their callers, not to the person at the terminal.
warnings.filterwarnings("ignore", category=FutureWarning)

_UsageError: type[Any] = typer.BadParameter.__bases__[0]  # Of click, or of typer's copy of it.


class _Commands(TyperGroup):
    """The commands: one that is called wrongly ends in one line, too."""

    @override
    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().main(*arguments, **options)
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                command = f" {error.ctx.info_name}" if error.ctx and error.ctx.parent else ""
                said = told(" ".join(error.format_message().split()).removesuffix("."))
                print(f"hf-distill: {said}; see hf-distill{command} --help", file=sys.stderr)
            raise SystemExit(error.exit_code) from None


app = typer.Typer(
    name="hf-distill",
    cls=_Commands,
    help="Distil big Transformers models into small ones from one recipe, and prove how good they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

FAULT = "this is a fault of hf-distill, please report it at https://github.com/hf-distill/hf_distill/issues"
_GOES_ON = "the same command goes on where this one stopped"

RecipeFile = Annotated[str, typer.Argument(help="A recipe: a YAML file.", metavar="RECIPE")]
RunPath = Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.", metavar="RUN")]
_OVERRIDES = "Keys to change, such as training.learning_rate=3e-5."
Overrides = Annotated[list[str] | None, typer.Argument(help=_OVERRIDES, metavar="[KEY=VALUE]...")]
Grid = Annotated[
    list[str],
    typer.Argument(
        help="Keys with values to try, such as objectives.1.temperature=1,2,4; and keys to change, such as seed=7.",
        metavar="KEY=VALUE,VALUE...",
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Run code that the recipe names, such as my_data:load. Read that code before."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]


@contextmanager
def _ending_in_one_line(debug: bool) -> Iterator[None]:
    """End with one line on stderr and an exit code, whatever is raised; ``debug`` shows all of it."""
    try:
        yield
    except HfDistillError as error:
        if debug:
            raise
        print(f"hf-distill: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except Stopped:
        leave()
        print(f"hf-distill: stopped by SIGTERM; {_GOES_ON}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print(f"hf-distill: interrupted; {_GOES_ON}", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        _end_unforeseen(error, debug)


def _command(*, models: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: an error is one line on stderr and an exit code, unless --debug shows all."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*, debug: bool, **arguments: Any) -> None:
            with _ending_in_one_line(debug):
                if models:
                    from transformers.utils import logging

                    logging.disable_progress_bar()  # Of files that are loaded or saved; training keeps its own.
                if arguments.get("allow_code"):
                    sys.path.append(os.getcwd())  # Code that a recipe names (my_data:load) lies in this folder.
                with stops_on_sigterm():
                    function(**arguments)
                if models:
                    leave_together()

        signature = inspect.signature(function, eval_str=True)
        parameter = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
        # Typer reads the options of a command from its signature.
        vars(guarded)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), parameter])
        app.command()(guarded)
        return guarded

    return decorate


@_command(models=True)
def run(
    recipe: RecipeFile, overrides: Overrides = None, runs: Runs = Path("runs"), allow_code: AllowCode = False
) -> None:
    """Distil: data, teacher, student, control, evaluation, card, and a push where the recipe says so."""
    from hf_distill.pipeline.run import run as run_recipe
    from hf_distill.report.card_contents import contents
    from hf_distill.report.tables import results_table

    result = run_recipe(recipe, overrides or [], runs=runs, report=_line, allow_code=allow_code)
    _show(results_table(result.results))
    _line(f"student: {result.student}")
    _line(f"card: {result.student / 'README.md'}; {contents(result.results)}")


@_command(models=True)
def check(recipe: RecipeFile, overrides: Overrides = None, allow_code: AllowCode = False) -> None:
    """Tell everything that can be known before training; loads no weights where configs are enough."""
    from hf_distill.pipeline.preflight import check as check_recipe

    check_recipe(recipe, overrides or [], report=_line, allow_code=allow_code)


@_command(models=True)
def cache(
    recipe: RecipeFile, overrides: Overrides = None, runs: Runs = Path("runs"), allow_code: AllowCode = False
) -> None:
    """Take a cached teacher's targets for all rows of a recipe, and train nothing; run finds them."""
    from hf_distill.pipeline.run import cache as cache_teacher

    cache_teacher(recipe, overrides or [], runs=runs, report=_line, allow_code=allow_code)


@_command(models=True)
def label(
    recipe: RecipeFile, overrides: Overrides = None, runs: Runs = Path("runs"), allow_code: AllowCode = False
) -> None:
    """Let the teacher write for all training rows, and train nothing; what it wrote is a data set to train on."""
    from hf_distill.pipeline.run import label as label_recipe

    label_recipe(recipe, overrides or [], runs=runs, report=_line, allow_code=allow_code)


@_command(models=True)
def sweep(recipe: RecipeFile, grid: Grid, runs: Runs = Path("runs"), allow_code: AllowCode = False) -> None:
    """Train a grid of students from one pass of their teacher, and choose by the validation rows."""
    from hf_distill.report.tables import sweep_table
    from hf_distill.search.sweep import sweep as sweep_grid

    result = sweep_grid(recipe, grid, runs=runs, report=_line, allow_code=allow_code)
    _show(sweep_table(result.results))
    _line(f"scores: {result.folder / 'scores.png'}")
    _line(f"best: hf-distill run {result.recipe}{' --allow-code' if allow_code else ''}")


@_command(models=True)
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    speedup: Annotated[float | None, typer.Option(help="Times the teacher's rows a second, at least.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Milliseconds for one row, at most.")] = None,
    max_parameters: Annotated[str | None, typer.Option(help="Parameters at most, such as 10M.")] = None,
    runs: Runs = Path("runs"),
    allow_code: AllowCode = False,
) -> None:
    """Find the largest student, by depth and width, that is as fast and as small as asked; trains nothing."""
    from hf_distill.report.tables import plan_table
    from hf_distill.search.plan import plan as plan_student

    bounds: dict[str, Any] = {"speedup": speedup, "max_latency_ms": max_latency_ms, "max_parameters": max_parameters}
    result = plan_student(recipe, overrides or [], **bounds, runs=runs, report=_line, allow_code=allow_code)
    _show(plan_table(result.results))
    _line(f"frontier: {result.folder / 'frontier.png'}")
    _line(f"student: {result.folder / 'student.yaml'}: {json.dumps(result.student)}")


@_command(models=True)
def evaluate(run_folder: RunPath, overrides: Overrides = None, allow_code: AllowCode = False) -> None:
    """Evaluate a run again, perhaps with other evaluate.* keys; writes its results and card anew."""
    from hf_distill.pipeline.run import evaluate as evaluate_run
    from hf_distill.report.tables import results_table

    result = evaluate_run(run_folder, overrides or [], report=_line, allow_code=allow_code)
    _show(results_table(result.results))


@_command()
def push(
    run_folder: RunPath,
    model_id: Annotated[
        str | None, typer.Option(help="user/name, or a name of yours; the recipe's hub.model_id unless given.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who may see it; the recipe's hub.private unless given.")
    ] = None,
    force: Annotated[
        bool | None, typer.Option("--force", help="Take the place of what others than this run put there.")
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Push a run's student to the Hub, with its card, in one commit; private unless said otherwise."""
    from hf_distill.pipeline.run import push as push_run

    push_run(run_folder, model_id, private=private, force=force, report=_line, allow_code=allow_code)


@_command()
def recipes(folder: Annotated[Path, typer.Argument(help="Where to look for recipes.")] = Path("recipes")) -> None:
    """List recipes: their files and what they say of themselves."""
    from hf_distill.recipe.templates import list_recipes

    for path, about in list_recipes(folder):
        _line(f"{path}: {about}")


@_command()
def init(
    task: Annotated[str, typer.Argument(help="A task, such as text-classification.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe to write.")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe for a task, with the objectives that proved best."""
    from hf_distill.recipe.templates import write_template

    write_template(task, output)
    _line(f"{output}: name your data and models in it, then: hf-distill check {output}")


def main() -> None:
    """Entry point of the console script."""
    sys.stdout, sys.stderr = map(Discreet, (sys.stdout, sys.stderr))
    sys.exit(app(standalone_mode=False))  # Else typer prints what is wrong with a call, in a box of many lines.


def _end_unforeseen(error: Exception, debug: bool) -> NoReturn:
    """End with one line on an error that nobody foresaw; its traceback, without any values, goes into a file."""
    if debug:
        raise error
    if isinstance(error, BrokenPipeError):  # Nobody reads on, as with `| head`: Python would say so once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    shortly = told(" ".join(f"{type(error).__name__}: {error}".split())[:300])
    if type(error).__module__.startswith(("pyarrow", "pandas")):  # What reads files, far down in a stream.
        print(f"hf-distill: data: a file cannot be read to its end: {shortly}; correct it", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        descriptor, path = tempfile.mkstemp(prefix="hf-distill-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(hidden(traceback.format_exc()))
        where = f"with {path}, which holds the traceback"
    except OSError:
        where = "with the traceback, which --debug shows"
    print(f"hf-distill: {FAULT} {where}: {shortly}", file=sys.stderr)
    raise SystemExit(70) from None


def _line(text: str) -> None:
    """A plain line, also where Rich would wrap or colour it; only on the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(told(text), flush=True)


def _show(table: Any) -> None:
    if os.environ.get("RANK", "0") == "0":
        from rich.console import Console

        # Not on a terminal the width is unknown: wide enough that no row is broken.
        Console(width=None if sys.stdout.isatty() else 120).print(table)
