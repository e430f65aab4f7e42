"""Which backup a restore means, and what a snapshot is called."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from offsite import chain
from offsite.catalog import Backup, Status
from offsite.errors import UsageError
from offsite.keys.trust import Standing
from offsite.manifest import Base, DatasetFacts, SnapshotFacts
from offsite.repository import Signed
from tests import repo

NOW = datetime(2026, 1, 17, 23, 59, 58, tzinfo=timezone(timedelta(hours=-8)))


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (None, "auto-20260117-235958"),
        ("today", "auto-20260117"),
        ("monday", "monday"),
        ("now", "now"),
        ("latest", "latest"),
    ],
)
def test_snapshot_names(asked: str | None, name: str) -> None:
    assert chain.snapshot_name(asked, "auto", NOW) == name


def test_the_prefix_and_the_user_s_own_day() -> None:
    assert chain.snapshot_name("today", "hourly", NOW) == "hourly-20260117"
    assert chain.snapshot_name("today", "hourly", NOW.astimezone(UTC)) == "hourly-20260118"


# --- choose ---------------------------------------------------------------------------------------

STRANGER = repo.Keys().public


def made(
    day: int,
    snapshot: str,
    txg: int,
    *,
    host: str = "nas",
    guid: int = 5555,
    status: Status = "complete",
    full: bool = True,
    dataset: str = repo.DATASET,
    created: str = "2026-01-01T00:00:00Z",
) -> Backup:
    """A finished backup uploaded on a day of January, of a snapshot made in ``txg``."""
    backup_id = f"202601{day:02d}t120000-{day:016x}"
    head = msgspec.structs.replace(
        repo.head(repo.snapshot(snapshot, txg), backup_id, host=host),
        dataset=DatasetFacts(dataset, guid, "filesystem"),
        snapshot=SnapshotFacts(snapshot, snapshot, guid * 10**6 + txg, txg, created),
        base=None if full else Base(1, "base", "20260101t120000-0000000000000001"),
    )
    document = repo.manifest(head)
    standing: Standing = "trusted" if status == "complete" else "unknown"
    signed = Signed(document, STRANGER, standing, "ab" * 32)
    return Backup(backup_id, status, ("one",), head=head, signed=signed)


def bare(day: int, status: Status, *, snapshot: str | None = None) -> Backup:
    """A backup without a manifest that could be read."""
    backup_id = f"202601{day:02d}t120000-{day:016x}"
    head = repo.head(repo.snapshot(snapshot), backup_id) if snapshot else None
    return Backup(backup_id, status, ("one",), head=head)


def chosen(backups: list[Backup], point: str | None = None, host: str | None = None) -> str:
    return chain.choose(backups, repo.DATASET, point, host).id[6:8]


def refusal(
    backups: list[Backup],
    point: str | None = None,
    host: str | None = None,
    dataset: str = repo.DATASET,
) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        chain.choose(backups, dataset, point, host)
    assert caught.value.hint is not None
    return str(caught.value), caught.value.hint


WEEK = [
    made(10, "tue", 200),
    made(11, "mon", 100),  # an older snapshot, uploaded later
    made(12, "wed", 300, full=False),
    made(13, "sun", 50),
    made(14, "elsewhere", 999, dataset="tank/photos2"),
]


@pytest.mark.parametrize(
    ("point", "day"),
    [
        (None, "12"),
        ("latest", "12"),
        ("latest-full", "10"),
        ("mon", "11"),
        ("sun", "13"),
        ("20260111", "11"),
        ("20260111t120000-000000000000000b", "11"),
    ],
)
def test_points(point: str | None, day: str) -> None:
    assert chosen(WEEK, point) == day
    assert chosen(WEEK[::-1], point) == day


def test_a_snapshot_may_be_called_as_we_call_points() -> None:
    """``latest`` is always the newest; a snapshot of that name is reached by its backup's id."""
    backups = [made(10, "latest", 100), made(11, "20260110", 200), made(12, "x", 300)]
    assert chosen(backups, "latest") == "12"
    assert chosen(backups, "20260110") == "11"  # a name comes before a prefix of an id
    assert chosen(backups, "20260110t") == "10"


def test_no_full_one() -> None:
    told, hint = refusal([made(10, "mon", 100, full=False)], "latest-full")
    assert told == "no finished backup of tank/photos@latest-full"
    assert hint == "there are: @mon"


def test_two_backups_of_one_snapshot_are_one_answer() -> None:
    backups = [made(10, "mon", 100), made(11, "mon", 100)]
    assert chosen(backups, "mon") == "11"
    assert chosen(backups, "20260110") == "10"


def test_two_snapshots_of_one_name_are_not() -> None:
    """The name was used again after the first snapshot was destroyed."""
    backups = [made(10, "mon", 100), made(11, "mon", 200)]
    told, hint = refusal(backups, "mon")
    assert told == "tank/photos@mon could be any of 2 backups"
    assert hint == (
        "name one by its id: @20260110t120000-000000000000000a, @20260111t120000-000000000000000b"
    )
    assert chosen(backups, "20260110") == "10"
    assert chosen(backups) == "11"


def test_a_prefix_that_fits_many() -> None:
    told, hint = refusal(WEEK, "2026")
    assert told == "tank/photos@2026 could be any of 4 backups"
    assert hint.count("@2026") == 4


def test_several_hosts() -> None:
    backups = [made(10, "mon", 100, host="nas"), made(11, "mon", 900, host="attic", guid=6666)]
    for point in (None, "mon", "latest-full"):
        told, hint = refusal(backups, point)
        assert told == "tank/photos was backed up by several hosts: attic, nas"
        assert hint == "say which: --host attic"
    assert chosen(backups, None, "nas") == "10"
    assert chosen(backups, "mon", "attic") == "11"
    told, hint = refusal(backups, None, "cellar")
    assert told == "no backup of tank/photos of host cellar"
    assert hint == "it was backed up by: attic, nas"


TWO_HISTORIES = [
    made(10, "old", 900_000, guid=1, created="2026-01-01T00:00:00Z"),
    made(11, "old-2", 900_100, guid=1, created="2026-01-02T00:00:00Z"),
    made(12, "new", 40, guid=2, created="2026-01-12T00:00:00Z"),
    made(13, "new-2", 50, guid=2, created="2026-01-13T00:00:00Z"),
]


def test_a_pool_made_anew_counts_from_the_start() -> None:
    """Transaction groups compare within one pool only; the newer dataset's snapshots are newer."""
    for order in (TWO_HISTORIES, TWO_HISTORIES[::-1]):
        assert chosen(order) == "13"
        assert chosen(order, "latest-full") == "13"
        assert chosen(order, "old-2") == "11"


def test_within_a_dataset_the_clock_counts_for_nothing() -> None:
    backups = [
        made(10, "first", 100, created="2038-01-01T00:00:00Z"),
        made(11, "second", 200, created="1999-01-01T00:00:00Z"),
    ]
    assert chosen(backups) == "11"


UNUSABLE = [
    bare(10, "unfinished", snapshot="mon"),
    bare(11, "damaged"),
    bare(12, "sealed"),
]


def test_what_is_not_finished_is_never_offered() -> None:
    assert chosen([made(9, "sun", 1), *UNUSABLE]) == "09"
    told, hint = refusal([made(9, "sun", 1), *UNUSABLE], "mon")
    assert told == "no finished backup of tank/photos@mon"
    assert hint == "there are: @sun"
    told, hint = refusal(UNUSABLE)
    assert told == "no finished backup of tank/photos: 1 unfinished or damaged"
    assert hint == "see: offsite --list tank/photos"
    refusal(UNUSABLE, UNUSABLE[0].id)


def test_nothing_there() -> None:
    assert refusal([]) == (
        "no backup of tank/photos",
        "nothing signed is there: is it the right provider and path? See offsite --list",
    )
    told, hint = refusal(WEEK, dataset="tank/fotos")
    assert (told, hint) == ("no backup of tank/fotos", "there are: tank/photos, tank/photos2")
    assert "tank/photos2" not in chain.choose(WEEK, repo.DATASET, None, None).id
    told, hint = refusal([bare(11, "sealed"), bare(12, "sealed")])
    assert told == "2 backups, but no key here opens them"
    assert "AGE_PRIVATE_KEY_FILE" in hint


def test_no_flood_of_candidates() -> None:
    many = [made(day, f"day{day}", day) for day in range(1, 30)]
    _, hint = refusal(many, "never")
    assert hint == "there are: @day25, @day26, @day27, @day28, @day29"


def test_strangers_are_offered_only_where_nobody_vouched_for_answers() -> None:
    ours = [made(10, "mon", 100), made(11, "tue", 200)]
    theirs = [
        made(12, "mon", 800, status="untrusted", host="his", guid=666),
        made(13, "wed", 900, status="untrusted"),
    ]
    assert [chosen(ours + theirs, point) for point in (None, "latest-full", "mon")] == [
        "11", "11", "10",
    ]  # fmt: skip
    assert chosen(theirs, "wed", "nas") == "13"  # the restore then says whom one would trust
    assert chosen([*ours, theirs[1]], "wed") == "13"
    _, hint = refusal(ours + theirs, "never")
    assert hint == "there are: @mon, @tue"


def test_the_newest_that_is_not_younger() -> None:
    backups = [
        made(10, "mon", 100, created="2026-01-05T12:00:00Z"),
        made(11, "tue", 200, created="2026-01-06T12:00:00Z"),
        made(12, "odd", 300, created="2026-02-31T12:00:00Z"),
    ]

    def at(text: str) -> str:
        moment = datetime.fromisoformat(text)
        return chain.choose(backups, repo.DATASET, None, None, moment).id[6:8]

    assert at("2026-01-05T12:00:00+00:00") == "10"
    assert at("2026-01-06T12:59:59+01:00") == "10"
    assert at("2026-01-06T13:00:00+01:00") == "11"
    assert at("2030-01-01T00:00:00+00:00") == "11"
    with pytest.raises(UsageError, match="is as old as 2026-01-05 11:59") as caught:
        at("2026-01-05T11:59:59+00:00")
    assert str(caught.value.hint).startswith("the oldest is @mon of 2026-01-05")


def test_a_moment_of_two_histories_under_one_name() -> None:
    """The pool was made anew, and counts from the start; each moment is of one of them."""
    for order in (TWO_HISTORIES, TWO_HISTORIES[::-1]):
        days = [
            chain.choose(order, repo.DATASET, None, None, datetime(2026, 1, day, 12, tzinfo=UTC)).id
            for day in (1, 2, 11, 12, 13)
        ]
        assert [one[6:8] for one in days] == ["10", "11", "11", "12", "13"]
