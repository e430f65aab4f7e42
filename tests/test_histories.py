"""Backups that share a name: what tells them apart, and which of them are of the past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from offsite import chain, histories, listing
from offsite.catalog import Backup
from offsite.errors import UsageError
from offsite.manifest import Base, Unchanged
from tests import repo
from tests.test_chain import bare, made

EARLIER = "of another dataset, which had this name before"
AGAIN = "destroyed, renamed or rolled back before another @monday was made"
NEW = 6666  # the guid of a dataset that was made later
LATER = "2026-01-09T00:00:00Z"


def on(one: Backup, base: Backup) -> Backup:
    """As an increment."""
    facts = base.manifest.head
    stands = Base(facts.snapshot.guid, facts.snapshot.name, base.id)
    head = msgspec.structs.replace(one.manifest.head, base=stands)
    assert one.signed is not None
    signed = replace(one.signed, document=msgspec.structs.replace(one.manifest, head=head))
    return replace(one, head=head, signed=signed)


def told(backups: Sequence[Backup]) -> list[tuple[str, str]]:
    """Of every backup: what a restore takes, and its note. A restore gets just that one."""
    points, notes = histories.points(backups), histories.notes(backups)
    for one in backups:
        if one.signed is not None and one.head is not None:
            host = one.head.host
            got = chain.choose(backups, one.head.dataset.name, points[one.id], host)
            assert got.manifest.head.snapshot.guid == one.head.snapshot.guid
    return [(points[one.id], notes.get(one.id, "")) for one in backups]


FULL = made(1, "sunday", 10)
MONDAY = on(made(2, "monday", 20, full=False), FULL)


def test_one_history_is_called_by_its_names() -> None:
    again = made(3, "monday", 20)  # the same snapshot, backed up in full, too
    other = made(4, "monday", 9, guid=NEW, dataset="tank/other")
    host = made(5, "monday", 9, guid=NEW, host="web")
    assert told([FULL, MONDAY, again, other, host]) == [
        ("sunday", ""),
        ("monday", ""),
        ("monday", ""),
        ("monday", ""),
        ("monday", ""),
    ]


def test_a_dataset_that_was_made_anew() -> None:
    """On another pool the numbers begin anew: its snapshots are the younger ones all the same."""
    new = made(3, "monday", 5, guid=NEW, created=LATER)
    last = on(made(4, "tuesday", 6, guid=NEW, created=LATER, full=False), new)
    assert told([FULL, MONDAY, new, last]) == [
        ("sunday", EARLIER),
        ("20260102t120000", EARLIER),
        ("20260103t120000", ""),
        ("tuesday", ""),
    ]


def test_a_dataset_that_was_restored_goes_on() -> None:
    """It is another one, with the same past; so is what was renamed and came back."""
    gone_on = on(made(3, "tuesday", 5, guid=NEW, created=LATER, full=False), MONDAY)
    full = made(4, "wednesday", 7, guid=NEW, created=LATER)
    away = on(made(5, "x", 30, full=False, dataset="tank/away"), MONDAY)
    assert {note for _, note in told([FULL, MONDAY, gone_on, full, away])} == {""}


def test_a_snapshot_that_was_made_anew_under_its_name() -> None:
    again = on(made(3, "monday", 30, full=False), FULL)
    assert told([FULL, MONDAY, again]) == [
        ("sunday", ""),
        ("20260102t120000", AGAIN),
        ("20260103t120000", ""),
    ]


def test_a_name_that_moved_on_to_a_snapshot_of_which_nothing_was_sent() -> None:
    """Next week's @monday is like this week's @tuesday: who asks for @monday is asked which."""
    tuesday = on(made(3, "tuesday", 30, full=False), MONDAY)
    other = made(9, "monday", 90, guid=NEW, dataset="tank/other")
    assert other.signed is not None
    same = msgspec.structs.replace(other.manifest, unchanged=[Unchanged(4711, tuesday.id)])
    other = replace(other, signed=replace(other.signed, document=same))
    everything = [FULL, MONDAY, tuesday, other]
    assert [point for point, _ in told(everything)] == [
        "sunday",
        "20260102t120000",
        "tuesday",
        "monday",
    ]
    with pytest.raises(UsageError, match="@monday could be any of 2 backups") as refused:
        chain.choose(everything, repo.DATASET, "monday", "nas")
    assert refused.value.hint == f"name one by its id: @{MONDAY.id}, @{tuesday.id}"


def test_two_that_began_in_one_second() -> None:
    """The longer part of the id is told."""
    again = on(made(3, "monday", 30, full=False), FULL)
    twin_id = f"{MONDAY.id[:16]}{'f' * 16}"
    assert again.head is not None
    head = msgspec.structs.replace(again.head, id=twin_id)
    assert again.signed is not None
    signed = replace(again.signed, document=msgspec.structs.replace(again.manifest, head=head))
    twin = replace(again, id=twin_id, head=head, signed=signed)
    assert [point for point, _ in told([FULL, MONDAY, twin])] == ["sunday", MONDAY.id, twin_id]


def test_what_nobody_vouches_for_makes_no_past() -> None:
    """But its name is not enough then either; what has no name is called by its id."""
    stranger = made(9, "monday", 5, guid=NEW, created=LATER, status="untrusted")
    damaged = bare(8, "damaged")
    assert told([FULL, MONDAY, stranger, damaged]) == [
        ("sunday", ""),
        ("20260102t120000", ""),
        ("20260109t120000", ""),
        (damaged.id, ""),
    ]


def test_rows_tell_the_guids() -> None:
    new = made(3, "monday", 5, guid=NEW, created=LATER)
    row, _, sealed = listing._rows([MONDAY, new, bare(4, "sealed")])
    assert (row.dataset_guid, row.guid) == ("5555", "5555000020")
    assert (row.snapshot, row.point, row.note) == ("monday", "20260102t120000", EARLIER)
    assert (sealed.dataset_guid, sealed.guid, sealed.point) == ("", "", sealed.id)
    noted = replace(MONDAY, note="something")
    assert listing._rows([noted, new])[0].note == f"something; {EARLIER}"
    assert row.dataset == repo.DATASET
