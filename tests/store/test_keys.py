"""Keys: shown once, stored as a digest, and good until they are revoked; secrets that all processes share."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from personalign.errors import InputError, StoreError
from personalign.store import Store, once, upkeep
from personalign.store.keys import MAX_STALE_S, Keys
from tests.store.store_worker import is_known

ON_BOTH = True  # databases

TOMORROW = datetime.now(UTC) + timedelta(days=1)


def test_a_key_is_found_by_its_text_alone(store: Store) -> None:
    """The whole text finds it, whatever else there is; anything near it, or its id, finds nothing."""
    others = [store.keys.create("backend", f"shop {number}")[1] for number in range(3)]
    key, text = store.keys.create("operator", "me")
    assert store.keys.find(text) == key
    assert (key.kind, key.name, key.revoked_at) == ("operator", "me", None)
    assert [store.keys.find(other).name for other in others] == ["shop 0", "shop 1", "shop 2"]
    for near in (
        text[:-1],
        text + "a",
        text.swapcase(),
        text.removeprefix("pa_"),
        f" {text}",
        key.id,
        "",
        "pa_",
        "\ud800",
    ):
        assert store.keys.find(near) is None


def test_a_key_has_256_bits_and_is_not_stored(store: Store, path: Path) -> None:
    """Its random part is 32 bytes, another one each time, of which no file has a trace; of its id the database has."""
    made = [store.keys.create("backend", "shop") for _ in range(20)]
    assert {len(base64.urlsafe_b64decode(text.removeprefix("pa_") + "=")) for _, text in made} == {32}
    assert len({text for _, text in made}) == len({key.id for key, _ in made}) == 20
    store.close()
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not any(text.removeprefix("pa_").encode() in content for _, text in made)
    assert all(key.id.encode() in content for key, _ in made)  # the control


def test_a_revoked_key_is_good_for_nothing_at_once(store: Store, url: str, soon) -> None:
    """Also in a process that used it before; it stays in the list, with when that was, and others stay good."""
    key, text = store.keys.create("backend", "shop")
    _, other = store.keys.create("backend", "shop")
    with Store.open(url) as elsewhere:
        assert elsewhere.keys.find(text) == key
        revoked = store.keys.revoke(key.id)
        assert revoked.revoked_at is not None
        assert soon(lambda: elsewhere.keys.find(text) is None)
        assert elsewhere.keys.find(other) is not None
        assert revoked in elsewhere.keys.list()
        assert elsewhere.keys.revoke(key.id) == revoked
    with pytest.raises(InputError, match="personalign key list"):
        store.keys.revoke("ada")


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "two\nlines", "\ud800"], ids=repr)
def test_a_name_that_can_not_be_shown_is_refused(store: Store, name: str) -> None:
    """Nothing is made; a sound one is taken (the control)."""
    with pytest.raises(InputError):
        store.keys.create("backend", name)
    store.keys.create("backend", "a" * 64)
    assert len(store.keys.list()) == 1


def test_known_keys_go_on_while_the_store_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """For five minutes, and not for those that were never seen; then the store's error comes, until it is back."""
    time = [0.0]
    keys = Keys(store._connections, lambda: time[0])
    key, text = keys.create("backend", "shop")
    with monkeypatch.context() as away:
        away.setattr(store._connections, "version", _refuse)
        with pytest.raises(StoreError):
            keys.find(text)
    assert keys.find(text) == key
    with monkeypatch.context() as away:
        away.setattr(store._connections, "version", _refuse)
        time[0] = MAX_STALE_S
        assert keys.find(text) == key
        assert keys.find("pa_other") is None
        time[0] += 1
        with pytest.raises(StoreError):
            keys.find(text)
    assert keys.find(text) == key


def _refuse() -> int:
    raise StoreError("it is away")


def test_all_on_one_file_share_a_secret(store: Store, url: str, path: Path) -> None:
    """Those who ask for the first time at once, too; each purpose has its own, and so has another database."""
    stores = [Store.open(url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda each: each.keys.secret("links"), stores))
    for each in stores:
        each.close()
    with Store.open(f"sqlite:///{path.with_name('other.db')}") as other:
        others = {store.keys.secret("tokens"), other.keys.secret("links")}
    assert len(secrets) == 1
    assert len(secrets | others) == 3
    assert {len(secret) for secret in secrets | others} == {32}


def test_a_secret_is_lasting(store: Store, url: str, path: Path) -> None:
    """After a restart, an erasure and a way back from a backup it is the same."""
    secret = store.keys.secret("links")
    copy = path.with_name("copy.db")
    store.backup(copy)
    store.forget("ada")
    assert store.keys.secret("links") == secret
    store.close()
    upkeep.restore(url, copy)
    with Store.open(url) as restored:
        assert restored.keys.secret("links") == secret
        assert not is_known(restored, "ada")


def test_a_lost_key_file_is_told_and_not_replaced(store: Store, url: str, path: Path) -> None:
    """A new one would end every session without a word; a store that never needed it opens (the control)."""
    store.close()
    Store.open(url).close()
    with Store.open(url) as opened:
        opened.keys.secret("links")
    path.with_name("profiles.db.key").unlink()
    with pytest.raises(StoreError, match="restore the key"):
        Store.open(url)


def test_what_is_good_for_one_use_is_spent(store: Store, url: str) -> None:
    """In every process on the file; sent again by the same attempt it counts as that use."""
    assert store.keys.spend("nonce", TOMORROW, "first")
    with Store.open(url) as other:
        assert other.keys.spend("nonce", TOMORROW, "first")
        assert not other.keys.spend("nonce", TOMORROW, "second")
        assert not other.keys.spend("nonce", TOMORROW)
        assert other.keys.spend("another", TOMORROW)
        assert not other.keys.spend("another", TOMORROW)


def test_a_nonce_is_remembered_until_it_would_have_expired(
    store: Store, sql: Callable[..., list[tuple[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than changes are; then its row goes with the next one."""
    start = datetime.now(UTC)
    store.keys.spend("nonce", start + timedelta(days=7))
    for days, num_rows in ((6, 2), (8, 1)):
        monkeypatch.setattr(once, "now", lambda days=days: start + timedelta(days=days))
        assert store.keys.spend(f"day {days}", start + timedelta(days=days + 1))
        assert len(sql("SELECT digest FROM writes")) == num_rows
