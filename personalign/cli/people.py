"""What is kept of a person: profile, forget, export."""

from __future__ import annotations

from typing import Any

from personalign.cli.options import AsJson, BasisPath, Model, StoreUrl, User, open_service
from personalign.cli.output import out, print_json
from personalign.cli.show import show_profile
from personalign.types import Profile


def profile(
    user: User, store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False
) -> None:
    """Show what is known of a person, in words and as bars."""
    with open_service(store, model, basis) as p:
        found, drift = p.profile(user), p.drift(user).explain()
        if as_json:
            print_json(profile_row(found) | {"drift": drift})
        else:
            show_profile(out, found, p.basis.prior)
            out.print(drift)


def forget(
    user: User, store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False
) -> None:
    """Erase everything about a person."""
    with open_service(store, model, basis) as p:
        p.forget(user)
    print_json({"forgotten": user}) if as_json else out.print("forgotten")


def export(
    user: User, store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False
) -> None:
    """Print everything stored about a person as JSON."""
    with open_service(store, model, basis) as p:
        found = p.export(user)
    print_json(found) if as_json else out.print_json(data=found)


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
        "explain": profile.explain(),
    }
