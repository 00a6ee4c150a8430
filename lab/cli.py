"""``personalign bench`` measures speed, quality and learning. The product finds it by its entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lab.show import show_decode, show_figures, show_learn, show_quality
from personalign.cli.options import AsJson, Device, read_settings
from personalign.cli.output import out, print_row
from personalign.cli.show import show_people, show_report
from personalign.errors import InputError

NO_DATA = Path("data")  # named in "skipped" where it isn't there
bench = typer.Typer(help="Measure speed, quality and learning.", no_args_is_help=True)

Measured = Literal["tiny", "smollm2"]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="number of pairs of simulated people")]
Only = Annotated[str, typer.Option(help="measure only figures whose names begin like this", show_default="all")]
Results = Annotated[Path | None, typer.Option("--out", help="file of results, written again after each figure")]


@bench.command("people")
def bench_people(
    seeds: Seeds = 20,
    first: Annotated[int, typer.Option(min=0, help="seed of the first pair")] = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Onboard simulated people and judge their replies by their hidden tastes: agreement, utility, KL."""
    from lab.quality.people import run_people

    result = run_people(seeds, first, device or read_settings().device)
    print_row(result, as_json, _show_people_and_figures, result)


def _show_people_and_figures(result: dict[str, Any]) -> None:
    show_people(out, result["rows"])
    show_report(out, result["figures"])


@bench.command("decode")
def bench_decode(
    full: Annotated[
        bool, typer.Option("--full", help="measure every ratio of every model at every concurrency")
    ] = False,
    only: Only = "",
    results: Results = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure what rewards, experts and many people at once cost in speed; takes nearly half an hour on two cores."""
    from lab.speed.decode import Plan, run_decode

    result = run_decode(device or read_settings().device, Plan(is_full=full), only, results)
    print_row(result, as_json, show_decode, out, result)


@bench.command("serve")
def bench_serve(
    only: Only = "",
    results: Results = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure the HTTP server: its speed over the engine's, first tokens, overload, and ten minutes with kills."""
    from lab.speed.serving import Plan, run_serve

    result = run_serve(Plan(), device or "cpu", only, results)
    print_row(result, as_json, show_figures, out, result)


@bench.command("scale")
def bench_scale(
    people: Annotated[
        int, typer.Option(min=40_000, help="number of people; seconds are told for a million")
    ] = 1_000_000,
    full: Annotated[bool, typer.Option("--full", help="compare the memory of one million and four")] = False,
    only: Only = "",
    results: Results = None,
    as_json: AsJson = False,
) -> None:
    """Measure everybody's fit at once: seconds, memory, Ray beside this machine's cores, and a Postgres that takes it.

    It takes about ten minutes and 15 GB of the temporary folder, with --full 25 minutes and 30 GB.
    """
    from lab.speed.scale import Plan, run_scale

    plan = Plan(num_people=people, num_grown=4 * people if full else people, num_ray=min(people, 100_000))
    result = run_scale(plan, only, results)
    print_row(result, as_json, show_figures, out, result)


@bench.command("vllm")
def bench_vllm(only: Only = "", results: Results = None, as_json: AsJson = False) -> None:
    """Measure people's rewards inside vLLM and our engine beside it, where vLLM is installed; about ten minutes."""
    from lab.speed.vllm import Plan, run_vllm

    result = run_vllm(Plan(), only, results)
    print_row(result, as_json, show_figures, out, result)


@bench.command("quality")
def bench_quality(
    model: Annotated[Measured, typer.Option(help="model that writes; each has people and prompts of its own")] = "tiny",
    prompts: Annotated[int, typer.Option(help="number of held-out prompts, at most 100")] = 100,
    people: Annotated[
        int | None, typer.Option(min=1, help="number of simulated people", show_default="8, or 40 with smollm2")
    ] = None,
    first: Annotated[int, typer.Option(min=0, help="number of the first of smollm2's people")] = 0,
    data: Annotated[Path | None, typer.Option(help="folder that holds corpora/, for the expert's dialogues")] = None,
    work: Annotated[
        Path, typer.Option(help="folder of the reward models, and of what an interrupted run has measured")
    ] = Path(".zoo/rewards"),
    only: Only = "",
    results: Results = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure what people with known hidden tastes gain, and how far it moves the model.

    It takes about 17 minutes for tiny and some hours for smollm2, where --only names an arm, such as tilt; a run goes
    on where another was interrupted.
    """
    settings = read_settings()
    device = device or settings.device
    if model == "tiny" and first:
        raise InputError(f"found --first {first} with the model tiny, expected --model smollm2; leave it out")
    if model == "tiny":
        from lab.quality.quality import Plan, run_quality

        plan = Plan(num_people=people or 8, num_prompts=prompts)
        result = run_quality(plan, device, data or settings.data or NO_DATA, work, only, results)
    else:
        from lab.prose.bench import Plan as ProsePlan
        from lab.prose.bench import run_prose

        prose = ProsePlan(num_people=people or 40, num_prompts=prompts, first_person=first)
        result = run_prose(prose, device, work / "prose", only, results)
    print_row(result, as_json, show_quality, out, result)


@bench.command("stick")
def bench_stick(
    work: Annotated[Path, typer.Option(help="folder of what an interrupted run has written")] = Path(".zoo/rewards"),
    only: Only = "",
    results: Results = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether what people gain on SmolLM2 lasts for twenty turns of a conversation; over an hour on one core.

    With --only tilt only that arm is measured; a run goes on after the last arm that an interrupted one has finished.
    """
    from lab.prose.bench import Plan as ProsePlan
    from lab.prose.stick import Plan, run_stick

    result = run_stick(Plan(ProsePlan()), device or read_settings().device, work / "prose", only, results)
    print_row(result, as_json, show_quality, out, result)


@bench.command("learn")
def bench_learn(
    data: Annotated[Path | None, typer.Option(help="folder that holds jester5k/, alpaca_eval/ and the others")] = None,
    only: Only = "",
    results: Results = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="picture of accuracy against answers, to be drawn")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well few answers predict a person, and how long learning takes; over an hour on one core."""
    from lab.learning.learn import run_learn
    from lab.learning.sets import Plan

    result = run_learn(Plan(), data or read_settings().data or NO_DATA, only, results)
    if picture is not None:
        from lab.plots import plot_learn

        plot_learn(result["curves"], picture)
    print_row(result, as_json, show_learn, out, result)


@bench.command("knowledge")
def bench_knowledge(
    data: Annotated[Path | None, typer.Option(help="folder that holds corpora/, with the questions and sums")] = None,
    work: Annotated[
        Path, typer.Option(help="folder of the expert, and of what an interrupted run has measured")
    ] = Path(".zoo/knowledge"),
    results: Results = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether steering SmolLM2 keeps what tuning it forgets, by closed-book questions.

    The first run tunes an expert. It takes about an hour on one core, and goes on where another was interrupted.
    """
    from lab.prose.knowledge import Plan, run_knowledge

    settings = read_settings()
    result = run_knowledge(Plan(), device or settings.device, data or settings.data or NO_DATA, work, results)
    print_row(result, as_json, show_figures, out, result)


@bench.command("plot")
def bench_plot(
    result: Annotated[Path, typer.Argument(help="file that bench quality --out wrote")],
    folder: Annotated[Path, typer.Argument(help="folder for quality.png and alpha.png")],
    as_json: AsJson = False,
) -> None:
    """Draw a result of bench quality."""
    from lab.plots import plot

    pictures = [str(path) for path in plot(result, folder)]
    print_row({"pictures": pictures}, as_json, out.print, *pictures, sep="\n", markup=False)
