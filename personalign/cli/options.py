"""The options that several verbs share, and what is opened by them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from personalign.options import Options

if TYPE_CHECKING:
    from personalign.service import Personalign

STORE, OUTPUT = "Store", "Output"
User = Annotated[str, typer.Argument(help="the person's id")]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", help="database URL", show_default="sqlite:///profiles.db", rich_help_panel=STORE),
]
Model = Annotated[
    str | None, typer.Option("--model", help='"tiny", a path or a hub id', show_default="tiny", rich_help_panel=STORE)
]
BasisPath = Annotated[
    Path | None, typer.Option("--basis", help="basis folder", show_default="the bundled one", rich_help_panel=STORE)
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="where the model runs: auto, cpu, cuda …", show_default="auto", rich_help_panel=STORE
    ),
]
Reward = Annotated[
    str | None,
    typer.Option("--reward", help="reward model for the rule args: a path or a hub id", rich_help_panel=STORE),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="one JSON object on stdout, all else on stderr", rich_help_panel=OUTPUT)
]
# the options of a request by help panel; a mapping, such as logit_bias, is for Python alone
HELP = {
    "Steering": {
        "rule": "what gives the rewards: successor or args; args is the default with --reward",
        "strength": "multiplies the person's reward; 0 turns it off",
        "expert": "domain expert to stack, such as hotels",
        "alpha": "weight of the expert; its own by default",
        "schema": "JSON schema that the reply keeps to: a file, or the JSON itself",
        "regex": "pattern that the whole reply matches",
    },
    "Sampling": {
        "max_tokens": "most tokens that the reply may have",
        "stop": "text that ends the reply; may be given several times",
        "temperature": "temperature of the draw; 0 takes the likeliest token",
        "top_k": "draw from this many of the likeliest tokens; 0 draws from all",
        "top_p": "draw from the likeliest tokens that make up this much probability",
        "min_p": "draw from tokens at least this fraction as likely as the best",
        "seed": "number that makes a draw repeatable; a fresh one by default",
        "repetition_penalty": "divide the logits of tokens in prompt or reply by this; 1 is off",
        "presence_penalty": "take this off the logits of tokens in the reply",
        "frequency_penalty": "take this off the logits of tokens, once for each time they are in the reply",
    },
    OUTPUT: {"logprobs": "number of likeliest tokens to report beside each one drawn"},
}
TYPES: dict[str, Any] = {"rule": str | None, "schema": str | None, "stop": list[str] | None}


def takes_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb an option for each field of ``Options``, in place of its ``**options``, before the store's."""
    *own, _ = inspect.signature(verb, eval_str=True).parameters.values()
    first = [parameter.name for parameter in own].index("reward")
    parameters = [*own[:first], *_option_parameters(), *own[first:]]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verb


def _option_parameters() -> Iterator[inspect.Parameter]:
    hints, defaults = get_type_hints(Options), Options()
    for panel, texts in HELP.items():
        for name, text in texts.items():
            kind: Any = TYPES.get(name, hints[name])
            hint = Annotated[kind, typer.Option(help=text, rich_help_panel=panel)]
            default = None if name in TYPES else getattr(defaults, name)
            yield inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hint)


def open_service(
    store: str | None,
    model: str | None,
    basis: Path | None,
    device: str | None = None,
    reward: str | None = None,
    *,
    create: bool = True,
) -> Personalign:
    """Open what the options name, or else the environment."""
    from personalign.service import Personalign
    from personalign.settings import Settings

    settings = Settings()
    return Personalign.open(
        store=store or settings.store,
        model=model or settings.model,
        basis=basis,
        reward=reward or settings.reward,
        device=device or settings.device,
        pinned=settings.pinned,
        shadow=settings.shadow,
        half_life_days=settings.half_life_days,
        create=create,
    )
