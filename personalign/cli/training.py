"""What is made once per model: basis bootstrap, expert train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personalign.cli.options import AsJson, Device, Model
from personalign.cli.output import err, out, print_json
from personalign.settings import Settings
from personalign.show import show_report

basis = typer.Typer(help="Make a basis: reward axes, questions and head of a model.", no_args_is_help=True)
expert = typer.Typer(help="Make a domain expert.", no_args_is_help=True)

Seed = Annotated[int, typer.Option(min=0, help="of the split and of all draws")]


@basis.command("bootstrap")
def basis_bootstrap(
    prompts: Annotated[Path, typer.Option(help='a prompt a line, or JSONL of {"messages": […]} or {"prompt": "…"}')],
    folder: Annotated[
        Path, typer.Option("--out", help="where the basis goes: a new folder, or one to go on with")
    ] = Path("basis"),
    model: Model = None,
    replies: Annotated[int, typer.Option(min=1, help="to learn from, 4 to 64 for each prompt")] = 11_000,
    max_tokens: Annotated[int, typer.Option(min=1, help="of a reply; those cut off are no questions")] = 64,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make the basis of a model from its own replies to prompts, without human data; a killed run goes on.

    Some hundreds of prompts, such as its users write, are best. Every reply is measured on the named axes; a head
    learns to foresee them; pairs of replies become questions; simulated people calibrate how strongly profiles act.

    With --json: basis (the folder), id, model, axes, questions, prompts (train, held_out, dev, repeated), replies,
    tokens, r2 and r2_forced (means over axes, held out), steering, utility and kl on dev prompts, unsteered utility.
    """
    settings = Settings()
    from personalign.train.make import make_basis

    made = make_basis(model or settings.model, prompts, folder, device or settings.device, replies, max_tokens, seed)
    row = {"basis": str(folder)} | made.row()
    if not made.basis.steering.beta:
        err.print(f"no setting steers this model within its bounds; {folder / 'README.md'} says what was tried")
    print_json(row) if as_json else show_report(out, row)


@expert.command("train")
def expert_train(
    base: Annotated[str, typer.Option(help='the small model that is tuned: "tiny", a path or a hub id')],
    data: Annotated[
        Path, typer.Option(help="JSONL of dialogues (messages or turns) or texts (text); or a text a line")
    ],
    name: Annotated[str, typer.Option(help="of the expert and its folder")],
    folder: Annotated[Path, typer.Option("--out", help="where that folder goes")] = Path(),
    big: Annotated[
        str | None, typer.Option(help="the model it will be stacked on, to learn what that one lacks")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="of 4,096 tokens", show_default="three passes")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="of the LoRA", show_default="by the model's size")] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Tune a LoRA on a small model, choose its α on dev texts, and write figures before and after into its card.

    A killed run goes on. Stacked, the logits are those of the big model + α (expert − small model).

    With --json: expert (the folder), name, alpha, texts (train, dev, held_out, repeated), steps, learning_rate, bits
    (per character, held out: small, expert, stack; big if given), sweep (dev bits for each α) and helps.
    """
    from personalign.train.tune import tune_expert

    made = tune_expert(base, data, name, folder, big, device or Settings().device, steps, learning_rate, seed)
    if not made.helps:
        err.print("the expert doesn't help: held-out texts are read no better with it; more texts may", markup=False)
    print_json(made.row()) if as_json else show_report(out, made.row())
