"""The options that several verbs share, and what is opened by them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from personalign.errors import BasisError
from personalign.options import Options, Rule

if TYPE_CHECKING:
    from personalign.service import Personalign
    from personalign.settings import Settings
    from personalign.store import Store

STORE, OUTPUT = "Store", "Output"
NewOption = tuple[str, Any, object]  # its name, its annotation and its default
DEVICES = "where the model runs: auto, cpu, cuda …"


def _setting(flag: str, text: str, default: str | bool = True) -> OptionInfo:
    """An option that may stand in the environment instead; ``default`` is what holds otherwise."""
    option: OptionInfo = typer.Option(flag, help=text, show_default=default, rich_help_panel=STORE)
    return option


User = Annotated[str, typer.Argument(help="id of the person")]
StoreUrl = Annotated[str | None, _setting("--store", "URL of the database", "sqlite:///profiles.db")]
Model = Annotated[
    str | None, _setting("--model", 'model to use: "tiny", "smollm2", a folder, a GGUF file or a hub id', "tiny")
]
BasisPath = Annotated[Path | None, _setting("--basis", "folder of the basis", "the bundled one")]
Device = Annotated[str | None, _setting("--device", DEVICES, "auto")]
Reward = Annotated[str | None, _setting("--reward", "reward model for the rule args: a path or a hub id")]
AsJson = Annotated[
    bool, typer.Option("--json", help="print one JSON object on stdout, all else on stderr", rich_help_panel=OUTPUT)
]
# the options of a request by help panel; a mapping, such as logit_bias, is for Python alone
HELP = {
    "Steering": {
        "rule": "how the reward acts; args is the default with --reward, otherwise successor",
        "num_siblings": "number of versions that the rules blocks and best_of choose from",
        "block_tokens": "number of tokens between two choices of the rule blocks",
        "strength": "factor of the person's reward; 0 turns it off",
        "expert": "domain expert to stack under the reward, such as hotels",
        "alpha": "weight of the expert; by default the one in its card",
        "schema": "JSON schema that the reply keeps to: a file, or the JSON itself",
        "regex": "pattern that the whole reply matches",
    },
    "Sampling": {
        "max_tokens": "largest number of tokens in the reply",
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
TYPES: dict[str, Any] = {"rule": Rule | None, "schema": str | None, "stop": list[str] | None}


def takes_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb an option for each field of ``Options``, before the store's."""
    return put_options(verb, "reward", _request_options())


def put_options(verb: Callable[..., None], before: str, options: Iterable[NewOption]) -> Callable[..., None]:
    """Put options in place of a verb's ``**options``, before one of its parameters."""
    *parameters, _ = inspect.signature(verb, eval_str=True).parameters.values()
    place = [parameter.name for parameter in parameters].index(before)
    parameters[place:place] = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hint)
        for name, hint, default in options
    ]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verb


def _request_options() -> Iterator[NewOption]:
    hints, defaults = get_type_hints(Options), Options()
    for panel, texts in HELP.items():
        for name, text in texts.items():
            kind: Any = TYPES.get(name, hints[name])
            hint = Annotated[kind, typer.Option(help=text, rich_help_panel=panel)]
            yield name, hint, None if name in TYPES else getattr(defaults, name)


def read_settings() -> Settings:
    """What the environment says; what reads it is imported here, so that ``--help`` comes fast."""
    from personalign.settings import Settings

    return Settings()


def open_store(url: str | None) -> Store:
    """Open the database that an option or the environment names, which has to be there."""
    from personalign.store import Store

    return Store.open(url or read_settings().store, create=False)


def open_service(
    store: str | None,
    model: str | None,
    basis: Path | None,
    device: str | None = None,
    reward: str | None = None,
    *,
    create: bool = True,
    is_asking: bool = False,
    vllm: str | None = None,
) -> Personalign:
    """Open what the options name, or else the environment; who is asking needs a basis before a store is made."""
    from personalign.bundled import locate, no_basis
    from personalign.service import Personalign

    settings = read_settings()
    basis = basis or settings.basis
    if is_asking and locate(model or settings.model, basis).basis is None:
        raise BasisError(no_basis(model or settings.model))
    return Personalign.open(
        store=store or settings.store,
        model=model or settings.model,
        basis=basis,
        reward=reward or settings.reward,
        device=device or settings.device,
        pinned=settings.pinned,
        shadow=settings.shadow,
        half_life_days=settings.half_life_days,
        embedder=settings.embedder,
        create=create,
        vllm=vllm,
    )
