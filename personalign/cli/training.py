"""What is made once per model: basis bootstrap, basis fit, expert train."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalign.cli.options import AsJson, Device, Model, NewOption, put_options, read_settings
from personalign.cli.output import err, out, print_row
from personalign.cli.show import show_report
from personalign.errors import InputError

if TYPE_CHECKING:
    from personalign.basis import Basis
    from personalign.train.log import AnswerLog
    from personalign.train.plans import Budget

basis = typer.Typer(help="Make a basis: reward axes, questions and head of a model.", no_args_is_help=True)
expert = typer.Typer(help="Make a domain expert.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--out", help="folder of the basis: a new one, or one to go on with")]
Seed = Annotated[int, typer.Option(min=0, help="seed of the split and of all draws")]
Replies = Annotated[int, typer.Option(min=1, help="number of replies to learn from, 4 to 64 for each prompt")]
MaxTokens = Annotated[
    int, typer.Option(min=1, help="largest number of tokens in a reply; no question shows one that is cut off")
]
Temperature = Annotated[
    float, typer.Option(min=0.01, max=10, help="temperature of the replies, as the model will be served")
]
TopP = Annotated[
    float, typer.Option(min=0.01, max=1, help="top-p of the replies, as the model will be served; 1 is off")
]
Axes = Annotated[
    str | None,
    typer.Option(help="set of named axes: dialogue or assistant", show_default="assistant, for tiny dialogue"),
]
Quick = Annotated[bool, typer.Option("--quick", help="calibrate on fewer settings and people, for a first look")]
BUDGET: tuple[NewOption, ...] = (
    ("replies", Replies, 11_000),
    ("max_tokens", MaxTokens, 64),
    ("temperature", Temperature, 1.0),
    ("top_p", TopP, 1.0),
    ("axes", Axes, None),
    ("quick", Quick, False),
)
# what a reward model has no use for
BASIS_ONLY = {"rank", "embedder", "prompts", "ask_log_prompts", *(name for name, *_ in BUDGET)}
takes_budget = partial(put_options, before="seed", options=BUDGET)


@basis.command("bootstrap")
@takes_budget
def basis_bootstrap(
    prompts: Annotated[
        Path, typer.Option(help='file of prompts: one a line, or JSONL of {"messages": […]} or {"prompt": "…"}')
    ],
    folder: Folder = Path("basis"),
    model: Model = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
    **budget: object,
) -> None:
    """Make the basis of a model from its own replies to prompts, without human data.

    Pass ideally a few hundred prompts, such as its users write. Replies are measured on the named axes, and a head
    learns to predict them. Pairs of replies become questions. Simulated people calibrate how strongly profiles act. If
    it is interrupted, run it again: it goes on where it was.

    With --json: basis (the folder), id, model, axes, questions, prompts (train, held_out, dev, repeated), replies,
    tokens, r2 and r2_forced (means over axes, held out), steering, utility and kl on dev prompts, unsteered utility.
    """
    settings = read_settings()
    from personalign.train.basis.build import make_basis

    made = make_basis(model or settings.model, prompts, folder, device or settings.device, _budget(seed, budget))
    row = {"basis": str(folder)} | made.row()
    _warn_if_unsteered(made.basis, folder)
    print_row(row, as_json, show_report, out, row)


@basis.command("fit")
@takes_budget
def basis_fit(
    context: typer.Context,
    log: Annotated[
        Path,
        typer.Argument(help="log in JSONL, CSV or Parquet: user, prompt, a, b and choice, or user, item and rating"),
    ],
    folder: Folder = Path("basis"),
    model: Model = None,
    rank: Annotated[str, typer.Option(help='number of axes to learn; "auto" takes what predicts people best')] = "auto",
    embedder: Annotated[
        str,
        typer.Option(
            help='measure of learnt axes: "hidden" (the model\'s own states), "reward:PATH", "encoder:NAME"; "items" '
            "takes the log's replies for all that there are"
        ),
    ] = "hidden",
    prompts: Annotated[
        Path | None, typer.Option(help="file of prompts that the model answers, as for bootstrap")
    ] = None,
    ask_log_prompts: Annotated[
        bool, typer.Option(help="ask about the log's prompts; everyone who is asked reads what its people wrote")
    ] = False,
    backbone: Annotated[
        bool, typer.Option("--backbone", help="train a reward model on the log instead, for the rule args")
    ] = False,
    bad_rows: Annotated[
        float, typer.Option(min=0, max=1, help="largest share of the log's rows that may be left out as unusable")
    ] = 0.1,
    strict: Annotated[bool, typer.Option("--strict", help="refuse the log at its first unusable row")] = False,
    axes_of: Annotated[
        Path | None,
        typer.Option(
            "--basis", help="folder of the basis whose axes the reward model scores", show_default="one reward for all"
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
    **budget: object,
) -> None:
    """Make the basis of a model from a log of many people's answers.

    What people differ in becomes axes beside the named ones. The population's prior and how people answer come from
    the log, too. A quarter of the people, 400 at most, take no part in that: they decide whether profiles may leave
    the population, and whether questions are chosen or drawn at random. The rest is made as bootstrap makes it. If it
    is interrupted, run it again: it goes on where it was.

    Where the model's replies can't be steered for these people, the basis keeps only what the log says of them. So does
    a basis of known items, such as jokes or canned replies: people are asked about them, and choose ranks them.

    With --json: basis (the folder), what bootstrap says, and log (rows, people, duplicates, repeats, contradictions,
    uninformative, constant_people, bad), unread (prompts the model can't read), people (with informative answers),
    held_out, answers, compared (different replies), learnt (axes found), left_out (on which the model's replies
    don't differ), noise, shares (of people whom nothing sets apart, and who feel about few axes), active, accuracy,
    calibration_error, after (0, 5, 10 and 20 answers), likeness (of the log's replies to the model's own, or
    null) and obstacle (why nothing is steered, or null).

    With --json and --backbone: reward (the folder), model, axes, pairs, people, accuracy, log_loss and helps.
    """
    if backbone:
        _refuse_beside_backbone(context)
    elif axes_of is not None:
        raise InputError(
            "--basis gives the axes of a reward model, expected with --backbone; leave it out, or add that"
        )
    settings = read_settings()
    model, device = model or settings.model, device or settings.device
    from personalign.train.log import read_log

    answers = read_log(log, bad_rows, strict=strict)
    if answers.counts.bad:
        err.print(f"{log.name}: some rows are left out: {answers.counts.describe_bad()}", markup=False)
    if backbone:
        _fit_backbone(answers, model, folder, axes_of, device, seed, as_json)
        return
    from personalign.train.basis.fit import fit_from_log

    how, size = _budget(seed, budget), int(rank) if rank.isdecimal() else rank
    fitted = fit_from_log(answers, model, folder, size, embedder, prompts, device, how, ask_log_prompts=ask_log_prompts)
    row = {"basis": str(folder)} | fitted.row()
    if row["shares"]["nothing"] == 1:
        err.print("nothing personal was found: held-out people are predicted no better than by everyone's mean")
    if fitted.made is not None:
        _warn_if_unsteered(fitted.basis, folder)
    print_row(row, as_json, show_report, out, row)


def _refuse_beside_backbone(context: typer.Context) -> None:
    options = [option for option in context.command.params if option.name in BASIS_ONLY]
    if given := [option.opts[0] for option in options if context.params[option.name] != option.default]:
        raise InputError(f"found {', '.join(given)}, which say how a basis is made; leave them out with --backbone")


def _budget(seed: int, given: dict[str, Any]) -> Budget:
    from personalign.learn.axes import named_axes
    from personalign.train.plans import QUICK, Budget, Calibration

    if given["axes"] is not None:
        named_axes(given["axes"])  # refused here, before a model is loaded
    calibration = QUICK if given.pop("quick") else Calibration()
    return Budget(seed=seed, calibration=calibration, **given)


def _fit_backbone(
    log: AnswerLog, model: str, folder: Path, axes_of: Path | None, device: str, seed: int, as_json: bool
) -> None:
    from personalign.train.reward.from_log import make_backbone

    made = make_backbone(model, log, folder, device, axes_of, seed=seed)
    if not made.helps:
        err.print("the reward model predicts held-out people no better than a coin; more answers may help")
    print_row(made.row(), as_json, show_report, out, made.row())


def _warn_if_unsteered(made: Basis, folder: Path) -> None:
    if not made.steering.beta:
        err.print(f"no setting steers this model within its bounds; {folder / 'README.md'} says what was tried")


@expert.command("train")
def expert_train(
    base: Annotated[str, typer.Option(help='small model to tune: "tiny", a path or a hub id')],
    data: Annotated[
        Path, typer.Option(help="file of JSONL dialogues (messages or turns) or texts (text), or of one text a line")
    ],
    name: Annotated[str, typer.Option(help="name of the expert and its folder")],
    folder: Annotated[Path, typer.Option("--out", help="folder that the expert's folder is put into")] = Path(),
    big: Annotated[
        str | None, typer.Option(help="model that it will be stacked on, so that it learns what that one lacks")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="number of steps, of 4,096 tokens each", show_default="three passes")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="learning rate of the LoRA", show_default="by the model's size")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Tune a LoRA on a small model, as an expert in a domain.

    α, its weight, is chosen on dev texts. Figures before and after are written into its card. Stacked, the logits are
    those of the big model + α (expert − small model). If it is interrupted, run it again: it goes on where it was.

    With --json: expert (the folder), name, alpha, texts (train, dev, held_out, repeated), steps, learning_rate, bits
    (per character, held out: small, expert, stack; big if given), sweep (dev bits for each α) and helps.
    """
    from personalign.train.expert.train import tune_expert

    device = device or read_settings().device
    made = tune_expert(base, data, name, folder, big, device, steps, learning_rate, seed)
    if not made.helps:
        err.print(
            "the expert doesn't help: it reads held-out texts no better than the small model; more texts may help"
        )
    print_row(made.row(), as_json, show_report, out, made.row())
