"""The commands about a job's file, which need no cluster: what it is checked for, costs, becomes, and how it runs here.

Each imports what it needs when it runs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from unimrg_api.exit_codes import ExitCode
from unimrg_api.stages import StageName
from unimrg_cli.options import JobFile, OutputOption

job_app = typer.Typer(rich_markup_mode=None)


@job_app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="File to write.")] = Path("job.yaml"),
    family: Annotated[str | None, typer.Option("--family", help="Model family; a wrong name lists them.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="SFT, RecA or UniMRG.")] = None,
    place: Annotated[str | None, typer.Option("--place", help="laptop or cluster.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the job. (default: METHOD-FAMILY)")] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="Folder or URI of images to train on. (default: generated ones)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    output: OutputOption = "table",
) -> None:
    """Write a commented first job.

    What is not given is asked on a terminal; elsewhere it is as in the quick start.
    """
    from unimrg_cli.first_job import FAMILIES, METHODS, PLACES, write_first_job

    family = _chosen(family, "--family", FAMILIES, FAMILIES[0])
    method = _chosen(method, "--method", METHODS, "UniMRG")
    place = _chosen(place, "--place", PLACES, "laptop")
    name = name or f"{method.lower()}-{family}"
    notes = write_first_job(file, family, method, place, name, images, force=force)
    following = [f"unimrg validate {file}", f"unimrg {'run' if place == 'laptop' else 'plan'} {file}"]
    if output == "json":
        import json

        chosen = {"family": family, "method": method, "place": place}
        typer.echo(json.dumps({"file": str(file), "job": name, **chosen, "notes": notes, "next": following}, indent=2))
        return
    typer.echo(f"wrote {file}")
    for note in notes:
        typer.echo(f"note: {note}")
    typer.echo("Next:")
    for command in following:
        typer.echo(f"  {command}")


def _chosen(given: str | None, option: str, known: tuple[str, ...], default: str) -> str:
    """Return what an option says or, if it is not given, what is answered on a terminal, else its default."""
    if given is None and sys.stdin.isatty():
        given = typer.prompt(f"{option.removeprefix('--')} ({', '.join(known)})", default=default, err=True)
    for choice in known:
        if _plain(given or default) == _plain(choice):
            return choice
    raise typer.BadParameter(f"{given!r} is none of {', '.join(known)}", param_hint=option)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


@job_app.command()
def validate(file: JobFile, output: OutputOption = "table") -> None:
    """Check a job's file.

    Every problem is shown at once, each with its line and a remedy.
    """
    import json

    from unimrg_api.errors import JobError
    from unimrg_api.load import is_sweep, read_document
    from unimrg_cli.check import check_job

    try:
        document = read_document(file)
        if is_sweep(document):
            from unimrg_cli.sweep_file import load_sweep

            swept = load_sweep(file, document)
            jobs = [job.name for job in swept.jobs]
            found = {"file": str(file), "valid": True, "sweep": swept.name, "jobs": jobs, "notes": [], "problems": []}
            text = f"{file}: {swept.name} is a valid sweep of {len(jobs)} jobs"
            typer.echo(json.dumps(found, indent=2) if output == "json" else text)
            return
        job, notes = check_job(file, document)
    except JobError as error:
        if output == "json":
            problems = [problem.to_json() for problem in error.problems]
            typer.echo(json.dumps({"file": str(file), "valid": False, "problems": problems}, indent=2))
        raise
    published = job.spec.model.published
    notes = [*notes, *([published.licence] if published is not None else [])]
    if output == "json":
        found = {"file": str(file), "valid": True, "job": job.metadata.name, "notes": notes, "problems": []}
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{file}: {job.metadata.name} is a valid job")
    for note in notes:
        typer.echo(f"note: {note}")


@job_app.command()
def plan(
    file: JobFile,
    device: Annotated[str, typer.Option("--device", help="GPU whose memory counts; a wrong name lists them.")] = "H20",
    mfu: Annotated[
        float, typer.Option("--mfu", min=0.01, max=1, help="Share of its peak that useful operations use.")
    ] = 0.4,
    question_tokens: Annotated[int, typer.Option("--question-tokens", min=1, help="Tokens of a question.")] = 150,
    answer_tokens: Annotated[int, typer.Option("--answer-tokens", min=1, help="Tokens of its answer.")] = 150,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Tokens of a request.")] = 26,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Images of the data. (default: those that the job generates)")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Compute what a job needs before GPUs are spent.

    That is parameters, memory, operations, hours and bytes; nothing is started. Ends with exit code 64, after the plan,
    where training would refuse the job.
    """
    from unimrg_api.arithmetic.plan import Assumed, plan_of
    from unimrg_api.arithmetic.rows import Texts
    from unimrg_api.errors import UserError
    from unimrg_api.load import load_job

    job = load_job(file)
    if not job.spec.trains:
        raise UserError(
            "a plan is about training, and this job does not train (spec.stages.train.mode: Never)",
            remedy="leave spec.stages.train out of a copy to see the model's parameters and its memory",
        )
    texts = Texts(question_tokens, answer_tokens, prompt_tokens)
    planned = plan_of(job, Assumed(texts, mfu, device.upper(), images))
    if output == "json":
        typer.echo(planned.model_dump_json(by_alias=True, indent=2))
    else:
        from unimrg_cli.plan_view import print_plan

        print_plan(planned)
    if planned.refused:
        raise typer.Exit(ExitCode.CONFIGURATION)


@job_app.command()
def run(
    file: JobFile,
    processes: Annotated[
        int | None, typer.Option("--processes", "-p", min=1, max=64, help="Training processes on this machine.")
    ] = None,
) -> None:
    """Run a job on this machine, or resume it.

    It is prepared, trained and evaluated; run again, it goes on from its last checkpoint.
    """
    from unimrg_trainer.launch.signals import StopRequest  # a signal counts from here on: the imports below take time

    with StopRequest().installed() as stop:
        try:
            with stop.interruptible():
                from unimrg_cli.check import check_job, stands_at
                from unimrg_cli.extras import require

                job, _ = check_job(file)
                require("trainer")
                from unimrg_trainer.launch.local import run_job
        except KeyboardInterrupt:
            sys.stderr.write("interrupted before anything began\n")
            raise typer.Exit(ExitCode.INTERRUPTED_TWICE if stop.twice else ExitCode.INTERRUPTED) from None
        code = run_job(job, stands_at(file), processes, stop=stop)
    raise typer.Exit(code)


@job_app.command()
def crd() -> None:
    """Print the CustomResourceDefinition of jobs.

    unimrg crd | kubectl apply -f -
    """
    from importlib.resources import files

    typer.echo((files("unimrg_api") / "crd.yaml").read_text(encoding="utf-8"), nl=False)


@job_app.command()
def render(
    file: JobFile,
    profile: Annotated[Path | None, typer.Option("--profile", help="The cluster's site profile, a YAML file.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the file's, else `default`)")
    ] = None,
    stage: Annotated[StageName | None, typer.Option("--stage", help="One stage only.")] = None,
) -> None:
    """Print what the operator creates for a job.

    These are the objects of the first attempts, as YAML; no cluster is needed.
    """
    from unimrg_cli.check import check_cluster_job, namespace_of
    from unimrg_cli.extras import require

    job, _ = check_cluster_job(file)
    require("operator")
    from unimrg_cli.render import render_job

    typer.echo(render_job(job, profile, namespace_of(job, namespace), stage), nl=False)


@job_app.command()
def selfcheck(
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="The one to check; a wrong name lists them. (default: all)")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Check that each strategy trains as one process does.

    On the installed versions of torch and DeepSpeed.
    """
    from typing import get_args

    from unimrg_api.spec_platform import StrategyName
    from unimrg_cli.extras import require

    names = [name for name in get_args(StrategyName) if strategy in (None, name)]
    if not names:
        message = f"{strategy!r} is none of {', '.join(get_args(StrategyName))}"
        raise typer.BadParameter(message, param_hint="--strategy")
    require("trainer")
    from unimrg_cli.tables import print_checks
    from unimrg_trainer.engine.strategies.selfcheck import failure
    from unimrg_trainer.engine.strategies.selfcheck_ranks import check_on_ranks

    outcomes = check_on_ranks(names)
    if output == "json":
        import json
        import math

        shown = [
            {
                "strategy": outcome.strategy,
                "case": outcome.case,
                "error": None if math.isnan(outcome.error) else outcome.error,
                "passed": outcome.passed,
            }
            for outcome in outcomes
        ]
        typer.echo(json.dumps(shown, indent=2))
    else:
        print_checks((outcome.strategy, f"{outcome.error:.1e}", outcome.passed, outcome.case) for outcome in outcomes)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if failed:
        raise failure(failed)
