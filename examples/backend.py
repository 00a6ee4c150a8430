"""A chatbot's backend with personalign inside: a route of its own, and personalign's routes and pages beside it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, Header

from personalign import Personalign
from personalign.errors import PersonalignError
from personalign.serve.app import create_app
from personalign.serve.failures import on_error

Messages = Annotated[list[dict[str, str]], Body(embed=True)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the store once; below /personalign are the pages, people's routes and OpenAI's."""
    with Personalign.open(os.environ.get("STORE", "sqlite:///profiles.db")) as app.state.people:
        app.mount("/personalign", create_app(app.state.people))
        yield


app = FastAPI(lifespan=lifespan, exception_handlers={PersonalignError: on_error})


@app.post("/chat")
async def chat(messages: Messages, x_user: Annotated[str, Header()]) -> dict[str, str | bool]:
    """Answer a user; put your own sign-in in the place of the header, and other requests go on meanwhile."""
    reply = await app.state.people.achat(x_user, messages, max_tokens=64)
    return {"text": reply.text, "guided": reply.guided}
