"""What is stored about a person: profile, pause, resume, forget, export. None of them creates a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personalign.cli.options import AsJson, BasisPath, Model, StoreUrl, User, open_service, open_store
from personalign.cli.output import err, out, print_row
from personalign.cli.show import show_profile
from personalign.messages import check_user

if TYPE_CHECKING:
    from personalign.types import Profile


def profile(
    user: User, store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False
) -> None:
    """Show what is known of a person, in words and as bars.

    With --json: user, known (whether anything is stored about them), the profile, and drift in words.
    """
    with open_service(store, model, basis, create=False) as p:
        known, profile, drift = p.is_known(user), p.profile(user), p.drift(user).explain()

        def show() -> None:
            _say_if_unknown(user, known)
            show_profile(out, profile, p.basis.prior)
            out.print(drift)

        print_row(profile_row(profile) | {"known": known, "drift": drift}, as_json, show)


def pause(user: User, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Let a person have plain replies until they resume; nothing that they said is lost.

    Who isn't known is added, and paused.

    With --json: user, known (whether anything was stored about them) and paused.
    """
    _set_paused(user, store, as_json, is_paused=True)


def resume(user: User, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Let a person's profile act again.

    With --json: user, known (whether anything was stored about them) and paused.
    """
    _set_paused(user, store, as_json, is_paused=False)


def _set_paused(user: str, store: str | None, as_json: bool, *, is_paused: bool) -> None:
    with open_store(store) as opened:
        known = opened.person(check_user(user)).created_at is not None
        opened.pause(user, is_paused=is_paused)
    _say_if_unknown(user, known)
    text = "paused: replies are the model's own" if is_paused else "not paused: replies go by the profile"
    print_row({"user": user, "known": known, "paused": is_paused}, as_json, out.print, text)


def forget(user: User, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Erase everything about a person.

    With --json: forgotten (the id) and known (whether anything was stored about them).
    """
    with open_store(store) as opened:
        known = opened.forget(check_user(user))
    text = "forgotten" if known else f"no one called {user!r} is known; nothing was erased"
    print_row({"forgotten": user, "known": known}, as_json, out.print, text, markup=False)


def export(user: User, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Print everything stored about a person as JSON.

    A row that was damaged is printed as it is stored, marked "damaged".

    With --json: user, known (whether anything is stored about them) and tables, on one line.
    """
    from personalign.store.erase import num_damaged

    with open_store(store) as opened:
        known = opened.person(check_user(user)).created_at is not None
        row = opened.export(user) | {"known": known}
    _say_if_unknown(user, known)
    if damaged := num_damaged(row):
        err.print(
            f'{damaged} rows were damaged; they are printed as they are stored, marked "damaged"; restore a backup '
            "with: personalign db restore",
            markup=False,
            soft_wrap=True,
        )
    print_row(row, as_json, out.print_json, data=row)


def _say_if_unknown(user: str, known: bool) -> None:
    if not known:
        err.print(f"no one called {user!r} is known", markup=False, soft_wrap=True)


def profile_row(profile: Profile) -> dict[str, Any]:
    """A profile as JSON values."""
    return {
        "user": profile.user,
        "basis": profile.basis_id,
        "revision": profile.revision,
        "answers": profile.answers,
        "informative": profile.informative,
        "axes": [axis.name for axis in profile.axes],
        "mean": profile.mean.tolist(),
        "sd": [float(profile.covariance[j, j] ** 0.5) for j in range(len(profile.mean))],
        "paused": profile.is_paused,
        "stated": [vars(statement) for statement in profile.stated],
        "explain": profile.explain(),
    }
