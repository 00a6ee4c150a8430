"""``personalign bench``: what measures speed, quality and learning. The product finds it by its entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.show import show_decode, show_learn, show_quality
from personalign.cli.options import AsJson, Device
from personalign.cli.output import out, print_json
from personalign.cli.show import show_people, show_report
from personalign.settings import Settings

NO_DATA = Path("data")  # named in "skipped" where it isn't there
bench = typer.Typer(help="Measure; the last line is one JSON object.", no_args_is_help=True)

Seeds = Annotated[int, typer.Option("--seeds", min=1, help="pairs of simulated people")]


@bench.command("people")
def bench_people(
    seeds: Seeds = 20,
    first: Annotated[int, typer.Option(min=0, help="the first pair's seed")] = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Onboard simulated people and ask their hidden tastes: agreement, utility, KL."""
    from lab.quality.people import run_people

    result = run_people(seeds, first, device or Settings().device)
    if as_json:
        print_json(result)
    else:
        show_people(out, result["rows"])
        show_report(out, result["figures"])


@bench.command("confidence")
def bench_confidence(seeds: Seeds = 20, device: Device = None, as_json: AsJson = False) -> None:
    """Ask whether profiles should act more gently while little is known: ρ against one constant for all."""
    from lab.quality.confidence import run_confidence

    result = run_confidence(seeds, device or Settings().device)
    print_json(result) if as_json else show_report(out, result["figures"])


@bench.command("decode")
def bench_decode(
    full: Annotated[bool, typer.Option("--full", help="every ratio of every model at every concurrency")] = False,
    only: Annotated[str, typer.Option(help="only figures whose names begin so", show_default="all")] = "",
    results: Annotated[Path | None, typer.Option("--out", help="a file that is renewed with each figure")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure what rewards, experts and many people at once cost in speed; takes nearly half an hour on two cores."""
    from lab.speed.decode import Plan, run_decode

    result = run_decode(device or Settings().device, Plan(is_full=full), only, results)
    print_json(result) if as_json else show_decode(out, result)


@bench.command("quality")
def bench_quality(
    prompts: Annotated[int, typer.Option(help="held-out prompts, of 100")] = 100,
    people: Annotated[int, typer.Option(help="simulated people")] = 8,
    data: Annotated[Path | None, typer.Option(help="folder that holds corpora/, for the expert's dialogues")] = None,
    work: Annotated[
        Path, typer.Option(help="where reward models are kept, and what a stopped run has measured")
    ] = Path(".zoo/rewards"),
    only: Annotated[str, typer.Option(help="only figures whose names begin so", show_default="all")] = "",
    results: Annotated[Path | None, typer.Option("--out", help="a file that is renewed with each figure")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure what people with known hidden tastes gain, and how far it moves the model; about 17 minutes."""
    from lab.quality.quality import Plan, run_quality

    plan, settings = Plan(num_people=people, num_prompts=prompts), Settings()
    result = run_quality(plan, device or settings.device, data or settings.data or NO_DATA, work, only, results)
    print_json(result) if as_json else show_quality(out, result)


@bench.command("learn")
def bench_learn(
    data: Annotated[Path | None, typer.Option(help="folder that holds jester5k/, alpaca_eval/ and the others")] = None,
    only: Annotated[str, typer.Option(help="only figures whose names begin so", show_default="all")] = "",
    results: Annotated[Path | None, typer.Option("--out", help="a file that is renewed with each figure")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="a picture of accuracy against answers")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what few answers tell of a person, and how long learning it takes; about 10 minutes on one core."""
    from lab.learning.learn import run_learn
    from lab.learning.sets import Plan

    result = run_learn(Plan(), data or Settings().data or NO_DATA, only, results)
    if picture is not None:
        from lab.learning.plot import plot_learn

        plot_learn(result["curves"], picture)
    print_json(result) if as_json else show_learn(out, result)


@bench.command("plot")
def bench_plot(
    result: Annotated[Path, typer.Argument(help="what bench quality --out left")],
    folder: Annotated[Path, typer.Argument(help="where quality.png and alpha.png go")],
    as_json: AsJson = False,
) -> None:
    """Draw a result of bench quality."""
    from lab.quality.plot import plot

    pictures = [str(path) for path in plot(result, folder)]
    print_json({"pictures": pictures}) if as_json else out.print(*pictures, sep="\n", markup=False)
