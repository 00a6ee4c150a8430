"""
title: personalign
description: Answer each user under their own reward, and learn from their thumbs and edits.
version: 0.1.0
requirements: httpx
"""

# The lines above are read by Open WebUI (0.9 or newer), to which this file is a filter.

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import BaseModel

KEPT_S = 3600.0  # for how long the server takes feedback on a reply
THUMBS = {"1": "up", "-1": "down"}
Body = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass
class Written:
    """A reply that may get a thumb or an edit."""

    user: str
    chat: str
    completion: str
    until: float = field(default_factory=lambda: time.monotonic() + KEPT_S)
    reports: set[str] = field(default_factory=set)  # what the server knows


class Filter:
    """Says for whom Open WebUI asks, and reports what they think of replies.

    Open WebUI doesn't tell filters of thumbs and edits. So the filter looks for them in the user's chats after each
    reply.
    """

    class Valves(BaseModel):
        """What an administrator sets: where the server is, and a backend's key."""

        url: str = "http://127.0.0.1:8000"
        key: str = ""
        timeout_s: float = 30.0

    def __init__(self) -> None:
        self.valves = self.Valves()
        self._replies: dict[str, Written] = {}  # by Open WebUI's own id of the message

    async def inlet(self, body: Body, __user__: Body | None = None) -> Body:
        """Name the user; the field goes to the server as it is."""
        return body | {"personalign": {"user": __user__["id"]}} if __user__ else body

    async def stream(self, event: Body, __metadata__: Body | None = None) -> Body:
        """Note which completion becomes which message."""
        place = __metadata__ or {}
        if event.get("id") and place.get("chat_id") and place.get("message_id"):
            written = Written(place["user_id"], place["chat_id"], event["id"])
            self._replies.setdefault(place["message_id"], written)
        return event

    async def outlet(self, body: Body, __user__: Body | None = None) -> Body:
        """Report the user's new thumbs and edits; a chat goes on where the server can't be reached."""
        try:
            await self._report(__user__["id"] if __user__ else "")
        except httpx.HTTPError as error:
            log.warning("feedback waits for the next reply: %s", type(error).__name__)
        return body

    async def _report(self, user: str) -> None:
        self._replies = {name: written for name, written in self._replies.items() if written.until > time.monotonic()}
        replies = {message: written for message, written in self._replies.items() if written.user == user}
        chats = {chat: await _messages(chat, user) for chat in {written.chat for written in replies.values()}}
        async with httpx.AsyncClient(base_url=self.valves.url, timeout=self.valves.timeout_s) as client:
            for message, written in replies.items():
                for opinion in _opinions(chats[written.chat].get(message, {})):
                    await self._send(client, written, {"completion": written.completion, **opinion})

    async def _send(self, client: httpx.AsyncClient, written: Written, feedback: Body) -> None:
        """Send what the server doesn't know; by the key it counts once, whichever process of Open WebUI sends it."""
        content = json.dumps(feedback).encode()
        report = hashlib.sha256(content).hexdigest()
        if report in written.reports:
            return
        path = f"/v1/people/{quote(written.user, safe='')}/feedback"
        headers = {"Authorization": f"Bearer {self.valves.key}", "Idempotency-Key": report}
        response = await client.post(path, content=content, headers=headers | {"Content-Type": "application/json"})
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            response.raise_for_status()
        if response.is_error:  # the hour is over, or the key is wrong; neither gets better by itself
            log.warning("the server took no feedback: %s", response.text)
        written.reports.add(report)


def _opinions(message: Body) -> list[Body]:
    """What a user thinks of a message as Open WebUI stores it."""
    thumb = THUMBS.get(str((message.get("annotation") or {}).get("rating")))
    is_edited = message.get("originalContent") not in {None, message.get("content")}
    thumbs = [{"kind": "thumbs", "thumb": thumb}] if thumb else []
    return thumbs + ([{"kind": "edit", "text": message["content"]}] if is_edited else [])


async def _messages(chat: str, user: str) -> Body:
    """The messages of a user's chat, by id."""
    from open_webui.models.chats import Chats

    stored = await Chats.get_chat_by_id_and_user_id(chat, user)
    messages: Body = stored.chat.get("history", {}).get("messages", {}) if stored else {}
    return messages
