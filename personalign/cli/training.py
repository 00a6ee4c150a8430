"""What is made once per model: basis bootstrap, basis fit, expert train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalign.basis import Basis
from personalign.cli.options import AsJson, Device, Model
from personalign.cli.output import err, out, print_json
from personalign.cli.show import show_report
from personalign.errors import InputError
from personalign.settings import Settings

if TYPE_CHECKING:
    from personalign.train.basis.plans import Budget
    from personalign.train.log import AnswerLog

basis = typer.Typer(help="Make a basis: reward axes, questions and head of a model.", no_args_is_help=True)
expert = typer.Typer(help="Make a domain expert.", no_args_is_help=True)

# options that a reward model has no use for, as they are by default
BASIS_ONLY = ("auto", "hidden", None, False, 11_000, 64, False)
Seed = Annotated[int, typer.Option(min=0, help="draws the split and all replies")]
Replies = Annotated[int, typer.Option(min=1, help="number of replies to learn from, 4 to 64 for each prompt")]
MaxTokens = Annotated[int, typer.Option(min=1, help="length of a reply; one that is cut off is not asked about")]
Quick = Annotated[bool, typer.Option("--quick", help="calibrate on fewer settings and people: a first look")]


@basis.command("bootstrap")
def basis_bootstrap(
    prompts: Annotated[Path, typer.Option(help='a prompt a line, or JSONL of {"messages": […]} or {"prompt": "…"}')],
    folder: Annotated[
        Path, typer.Option("--out", help="where the basis goes: a new folder, or one to go on with")
    ] = Path("basis"),
    model: Model = None,
    replies: Replies = 11_000,
    max_tokens: MaxTokens = 64,
    quick: Quick = False,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make the basis of a model from its own replies to prompts, without human data; a killed run goes on.

    Pass ideally a few hundred prompts, such as its users write. Replies are measured on the named axes; a head
    learns to predict them; pairs of replies become questions; simulated people calibrate how strongly profiles act.

    With --json: basis (the folder), id, model, axes, questions, prompts (train, held_out, dev, repeated), replies,
    tokens, r2 and r2_forced (means over axes, held out), steering, utility and kl on dev prompts, unsteered utility.
    """
    settings = Settings()
    from personalign.train.basis.bootstrap import make_basis

    budget = _budget(replies, max_tokens, seed, quick=quick)
    made = make_basis(model or settings.model, prompts, folder, device or settings.device, budget)
    row = {"basis": str(folder)} | made.row()
    _say_if_still(made.basis, folder)
    print_json(row) if as_json else show_report(out, row)


@basis.command("fit")
def basis_fit(
    log: Annotated[Path, typer.Argument(help="JSONL, CSV or Parquet with the columns user, prompt, a, b and choice")],
    folder: Annotated[
        Path, typer.Option("--out", help="where the basis goes: a new folder, or one to go on with")
    ] = Path("basis"),
    model: Model = None,
    rank: Annotated[str, typer.Option(help='how many axes to learn; "auto" takes what predicts people best')] = "auto",
    embedder: Annotated[
        str,
        typer.Option(help='measures learnt axes: "hidden", the model\'s own states, "reward:PATH" or "encoder:NAME"'),
    ] = "hidden",
    prompts: Annotated[Path | None, typer.Option(help="what the model answers, as for bootstrap")] = None,
    ask_log_prompts: Annotated[
        bool, typer.Option(help="ask about the log's prompts: everyone who is asked reads what its people wrote")
    ] = False,
    replies: Replies = 11_000,
    max_tokens: MaxTokens = 64,
    backbone: Annotated[
        bool, typer.Option("--backbone", help="train a reward model on the log instead, for rule args")
    ] = False,
    bad_rows: Annotated[
        float,
        typer.Option(min=0, max=1, help="share of the log's rows that may be left out as unusable"),
    ] = 0.1,
    strict: Annotated[bool, typer.Option("--strict", help="refuse the log at its first unusable row")] = False,
    quick: Quick = False,
    axes_of: Annotated[
        Path | None,
        typer.Option("--basis", help="whose axes are its rewards", show_default="one reward, everyone's"),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make the basis of a model from a log of many people's answers; a killed run goes on.

    What people differ in becomes axes beside the named ones; from the log come the population's prior and how people
    answer, too. A quarter of the people have no part in that: they decide whether profiles may leave the population,
    and whether questions are chosen or asked at random. The rest is made as bootstrap makes it.

    Where the model's replies can't be steered for these people, the basis keeps what the log says of them alone.

    With --json: basis (the folder), what bootstrap says, and log (rows, people, duplicates, repeats, contradictions,
    uninformative, constant_people, bad), unread (prompts the model can't read), people (with informative answers),
    held_out, answers, compared (different replies), learnt (axes found), left_out (on which the model's replies
    don't differ), noise, kappa, share, active, accuracy, calibration_error, after (0, 5, 10 and 20 answers), likeness
    (of the log's replies to the model's own) and obstacle (why nothing is steered, or null).
    With --backbone: reward (the folder), model, axes, pairs, people, accuracy, log_loss and helps.
    """
    settings = Settings()
    model, device = model or settings.model, device or settings.device
    from personalign.train.log import read_log

    answers = read_log(log, bad_rows, strict=strict)
    if answers.counts.bad:
        err.print(f"{log.name}: some rows are left out: {answers.counts.describe_bad()}", markup=False)
    if backbone:
        given = (rank, embedder, prompts, ask_log_prompts, replies, max_tokens, quick)
        _fit_backbone(answers, model, folder, axes_of, device, seed, as_json, is_plain=given == BASIS_ONLY)
        return
    if axes_of is not None:
        raise InputError(
            "--basis gives the axes of a reward model, expected with --backbone; leave it out, or add that"
        )
    from personalign.train.basis.fit import fit_from_log

    fitted = fit_from_log(
        answers,
        model,
        folder,
        int(rank) if rank.isdecimal() else rank,
        embedder,
        prompts,
        device,
        _budget(replies, max_tokens, seed, quick=quick),
        ask_log_prompts=ask_log_prompts,
    )
    row = {"basis": str(folder)} | fitted.row()
    if not row["kappa"]:
        err.print("nothing personal was found: held-out people are predicted no better than by everyone's mean")
    if fitted.made is not None:
        _say_if_still(fitted.basis, folder)
    print_json(row) if as_json else show_report(out, row)


def _budget(replies: int, max_tokens: int, seed: int, *, quick: bool) -> Budget:
    from personalign.train.basis.plans import QUICK, Budget, Calibration

    return Budget(replies, max_tokens, seed, calibration=QUICK if quick else Calibration())


def _fit_backbone(
    log: AnswerLog,
    model: str,
    folder: Path,
    axes_of: Path | None,
    device: str,
    seed: int,
    as_json: bool,
    *,
    is_plain: bool,
) -> None:
    if not is_plain:
        raise InputError(
            "--rank, --embedder, --prompts, --ask-log-prompts, --replies, --max-tokens and --quick say how a basis is "
            "made; leave them out with --backbone"
        )
    from personalign.train.reward.from_log import backbone_from_log

    made = backbone_from_log(log, model, folder, axes_of, device, seed)
    if not made.helps:
        err.print("the reward model predicts held-out people no better than a coin; more answers may help")
    print_json(made.row()) if as_json else show_report(out, made.row())


def _say_if_still(made: Basis, folder: Path) -> None:
    if not made.steering.beta:
        err.print(f"no setting steers this model within its bounds; {folder / 'README.md'} says what was tried")


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
    from personalign.train.expert.train import tune_expert

    made = tune_expert(base, data, name, folder, big, device or Settings().device, steps, learning_rate, seed)
    if not made.helps:
        err.print("the expert doesn't help: held-out texts are read no better with it; more texts may", markup=False)
    print_json(made.row()) if as_json else show_report(out, made.row())
