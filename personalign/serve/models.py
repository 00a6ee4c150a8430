"""Which models can be asked for: the one that is served, and it with each of its experts."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from personalign.options import OptionsDict
from personalign.serve.access import AnyCaller, Service
from personalign.serve.answer import ModelCard, ModelList
from personalign.serve.failures import Refusal
from personalign.service import Personalign

ALIAS = "personalign"  # the served model, whatever it is
CREATED = 0  # nobody knows when a model was made
router = APIRouter(prefix="/v1/models", tags=["openai"])


@router.get("")
async def models(service: Service, _: AnyCaller) -> ModelList:
    """The models that can be asked for."""
    return ModelList(data=[_card(name) for name in _experts(service)])


@router.get("/{model:path}")
async def model(model: str, service: Service, _: AnyCaller) -> ModelCard:
    """One of them."""
    return _card(find_model(service, model)[0])


def find_model(service: Personalign, name: str | None) -> tuple[str, str | None]:
    """The served name of a model, and its expert; None and "personalign" mean the model itself.

    Raises:
        Refusal: 404, there is no such model.
    """
    experts = _experts(service)
    itself = next(iter(experts))
    alias, plus, expert = (ALIAS if name is None else name).partition("+")
    wanted = f"{itself}{plus}{expert}" if alias == ALIAS else str(name)
    if wanted not in experts:
        message = f"found no model {name!r:.80}; expected one of {', '.join(experts)}"
        raise Refusal(404, message, "model", "model_not_found")
    return wanted, experts[wanted]


def drawn_as_usual(service: Personalign, options: OptionsDict) -> OptionsDict:
    """What is asked for, drawn as the model's own generation config draws where no temperature is sent; else greedy."""
    return options if "temperature" in options else _sampling(service) | options


def _sampling(service: Personalign) -> OptionsDict:
    bundled = service.source.generation
    if bundled is not None:
        return {"temperature": bundled.temperature, "top_p": bundled.top_p}
    config = service.models.base.model.generation_config
    if config is None or not config.do_sample:
        return {}
    return {"temperature": config.temperature or 1.0, "top_p": config.top_p or 1.0, "top_k": config.top_k or 0}


def _experts(service: Personalign) -> dict[str, str | None]:
    """What each name stands for, that of the model itself first; a folder is known by its last part."""
    source = service.source
    itself = Path(source.name).name if Path(source.name).exists() else source.name
    return {itself: None} | {f"{itself}+{expert}": expert for expert in source.experts}


def _card(name: str) -> ModelCard:
    return ModelCard(id=name, created=CREATED)
