"""LangChain: ``ChatPersonalign`` is ``ChatOpenAI`` that says for whom it writes, and keeps the account of each reply.

It talks to ``personalign serve``. ``ChatOpenAI`` itself does so, too, with the person's id in ``user``.
"""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from openai import BaseModel
from pydantic import Field

FIELD = "personalign"  # of requests and replies


class ChatPersonalign(ChatOpenAI):
    """A chat model of a Personalign server: ``ChatPersonalign(base_url="http://…/v1", api_key="pa_…", user="ada")``.

    Each reply's ``response_metadata["personalign"]`` says how it was steered.

    Args:
        user: for whom it writes; None with a user token, which says so itself.
        strength: multiplies the person's reward; 0 is the model's own reply.
        wishes: anything else of the body's field ``personalign``, such as ``{"rule": "blocks"}``.
    """

    model_name: str = Field(default=FIELD, alias="model")
    stream_usage: bool | None = True
    user: str | None = None
    strength: float | None = None
    wishes: dict[str, Any] = Field(default_factory=dict)

    def for_user(self, user: str) -> ChatPersonalign:
        """The same model, for somebody else."""
        return self.model_copy(update={"user": user})

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """A key and a person's id aren't written into files."""
        return False

    @property
    def _llm_type(self) -> str:
        return FIELD

    def _get_request_payload(
        self,
        input_: LanguageModelInput,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401 - as LangChain has it
    ) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        body = payload.get("extra_body") or {}
        wished = {"user": self.user, "strength": self.strength, **self.wishes, **body.get(FIELD, {})}
        return payload | {"extra_body": {**body, FIELD: {k: v for k, v in wished.items() if v is not None}}}

    def _create_chat_result(
        self, response: dict[str, Any] | BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        choices = response["choices"] if isinstance(response, dict) else getattr(response, "choices", ())
        for generation, choice in zip(result.generations, choices, strict=True):
            generation.message.response_metadata[FIELD] = _account(choice)
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        account = _account(chunk.get("chunk", chunk))  # the client's own stream of structured output wraps it
        if generation is not None and account is not None:
            generation.message.response_metadata[FIELD] = account
        return generation


def _account(part: object) -> dict[str, Any] | None:
    """The account in a choice or a chunk, as the client or JSON has it."""
    account: dict[str, Any] | None = part.get(FIELD) if isinstance(part, dict) else getattr(part, FIELD, None)
    return account
