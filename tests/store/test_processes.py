"""Several processes at one file, and processes that are killed. The full sizes run with ``-m slow``."""

from __future__ import annotations

import pytest

SOUND = {"refused": 0, "wrong": 0}


@pytest.mark.parametrize("stdlib", [0, 1])
def test_no_update_is_lost(worker, stdlib: int) -> None:
    """Eight processes answer for the same people: no refusal, and every revision holds one answer more."""
    assert worker("answers", processes=8, rounds=6, stdlib=stdlib) == SOUND


def test_a_deferred_begin_would_be_seen(worker) -> None:
    """The control: with SQLAlchemy's usual BEGIN the same run is refused again and again."""
    assert worker("answers", processes=8, rounds=6, broken=1) != SOUND


@pytest.mark.slow
def test_no_update_is_lost_in_two_thousand(worker) -> None:
    """Eight processes of 250 answers each: none lost, no error."""
    assert worker("answers", processes=8, rounds=250, users=100) == SOUND


@pytest.mark.parametrize("stdlib", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_new_store_may_be_opened_by_all_at_once(worker, stdlib: int) -> None:
    """Eight processes make the same store at the same moment, and all of them get it."""
    assert worker("opens", stdlib=stdlib) == {"failed": 0}


@pytest.mark.slow
def test_thirty_new_stores_may_be_opened_by_all_at_once(worker) -> None:
    """The same thirty times over."""
    assert worker("opens", rounds=30) == {"failed": 0}


@pytest.mark.parametrize("stdlib", [0, 1])
def test_a_kill_at_any_statement_loses_nothing(worker, stdlib: int) -> None:
    """Kill -9 before each statement of opening and answering: what was acknowledged stays, and nothing half does."""
    found = worker("kill_writes", stdlib=stdlib)
    assert found.pop("kills") > 30
    assert found.pop("promised") > 0
    assert found == {"lost": 0, "wrong": 0, "problems": []}


@pytest.mark.slow
def test_eighty_kills_lose_nothing(worker) -> None:
    """Kill -9 at random moments."""
    found = worker("kill_writes", kills=80)
    assert found.pop("kills") == 80
    assert found.pop("promised") > 80
    assert found == {"lost": 0, "wrong": 0, "problems": []}


def test_a_kill_at_any_statement_of_a_first_schema_wedges_nothing(worker) -> None:
    """Kill -9 before every fifth statement that makes a new file's schema."""
    found = worker("kill_migrations", stride=5, new=1)
    assert found["killed"] > 3
    assert found["wedged"] == 0


@pytest.mark.slow
def test_a_kill_at_any_statement_of_a_migration_wedges_nothing(worker) -> None:
    """Kill -9 before every third statement of an upgrade: the next upgrade goes through, to the models' schema."""
    found = worker("kill_migrations", stride=3)
    assert found["killed"] > 30
    assert found["wedged"] == 0


def test_a_kill_at_any_statement_of_a_refit_loses_nobody(worker) -> None:
    """Kill -9 before every fifth statement of a refit on a new basis: run again, it ends as it would have in peace."""
    found = worker("kill_refits", stride=5)
    assert found["killed"] > 5
    assert found["wrong"] == 0


@pytest.mark.slow
def test_a_kill_at_each_statement_of_a_refit_loses_nobody(worker) -> None:
    """Kill -9 before each statement of a refit."""
    assert worker("kill_refits")["wrong"] == 0


def test_a_refit_without_its_transactions_would_be_seen(worker) -> None:
    """The control: committed statement by statement, the same kills leave answers without their profile."""
    assert worker("kill_refits", broken=1, stride=5)["wrong"] > 0


def test_a_migration_without_its_transaction_would_be_seen(worker) -> None:
    """The control: committed statement by statement, the same kills wedge the file."""
    assert worker("kill_migrations", broken=1, stride=9)["wedged"] > 1


@pytest.mark.slow
def test_fifteen_kills_of_a_migration_wedge_nothing(worker) -> None:
    """Kill -9 at random moments of an upgrade."""
    assert worker("kill_migrations", kills=15) == {"killed": 15, "wedged": 0}
