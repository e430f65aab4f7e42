"""What an increment stands on: chosen by guid, on a chain that the provider has whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from offsite import bases, manifest, marks, repository, storing, tasks
from offsite.bases import Base, Choice, Policy, Stock
from offsite.catalog import Backup
from offsite.errors import UsageError
from offsite.marks import Kept
from offsite.standing import Standing
from offsite.tasks import Source
from offsite.zfs.bookmarks import Point
from offsite.zfs.records import Feature
from tests import repo
from tests.interrupted import DATASET, Provider, Told
from tests.test_standing import OURS, THEIRS, complete, made_of

NAMES = ("a", "b", "c", "d", "e")
SNAPSHOTS = {
    name: repo.snapshot(name, 100 + number, 1000 * number)
    for number, name in enumerate(NAMES, start=1)
}
POLICY = Policy(OURS, raw=False)
ALL = ("one", "two")
ABSENT = "the source has no snapshot or bookmark left of what was backed up"
NOTHING_YET = "nothing is there yet to stand on"


def point(name: str, mark: str = "@") -> Point:
    one = SNAPSHOTS[name]
    return Point(f"{one.dataset}{mark}{name}", one.guid, one.createtxg)


def stored(
    name: str, on: Backup | None = None, *, where: Sequence[str] = ALL, raw: bool = False,
    recipients: str = OURS, number: int = 0, flags: Sequence[str] = ("-L",), features: int = 0,
) -> Backup:  # fmt: skip
    """A complete backup of the snapshot ``name``."""
    one = made_of(SNAPSHOTS[name], number or 10 + NAMES.index(name), recipients=recipients)
    assert one.head is not None
    head = one.head
    if on is not None:
        below = on.manifest.head
        base = manifest.Base(below.snapshot.guid, below.snapshot.name, below.id)
        head = msgspec.structs.replace(head, base=base)
    made_with = ["-w"] if raw else list(flags)
    sent = msgspec.structs.replace(head.send, flags=made_with, features=features)
    head = msgspec.structs.replace(head, send=sent)
    return complete(replace(one, head=head, providers=tuple(where)))


def trust(_: Point) -> None:
    """No point is in doubt."""


def choose(
    there: Sequence[Backup], points: Sequence[Point], policy: Policy = POLICY, gone: str = "",
    doubt: Callable[[Point], str | None] = trust, features: int | None = None, *, own: bool = True,
) -> Choice:  # fmt: skip
    """``features``: those of the stream that zfs would send from any point."""
    found = None if features is None else Feature(features)
    stock = Stock(there, lambda one: one.id != gone, doubt, lambda *_: found, own)
    return bases.choose(stock, points, SNAPSHOTS["e"].createtxg, policy)


def named(choice: Choice) -> str | None:
    return choice.base.point.short_name if choice.base else None


A = stored("a")
B = stored("b", A)
C = stored("c", B)
EVERY = [point("a"), point("b", "#"), point("c", "#"), point("c"), point("d")]


def test_the_newest_that_is_there_and_here() -> None:
    assert named(choose([A, B, C], EVERY)) == "@c"
    assert named(choose([A, B, C], EVERY[:3])) == "#c"
    assert named(choose([A, B], EVERY)) == "#b"
    chosen = choose([A, B, C], EVERY).base
    assert chosen is not None
    assert chosen.chain == (A, B, C)
    assert chosen.flags == ("-L",)


def test_the_flags_are_those_of_the_chain() -> None:
    """Also those that no new chain gets."""
    old = ("-L", "-e", "-c")
    below = stored("a", flags=old)
    chosen = choose([below, stored("b", below, flags=old)], EVERY).base
    assert chosen is not None
    assert chosen.flags == old


def test_nothing_in_common() -> None:
    assert choose([], EVERY, own=False) == Choice(None, NOTHING_YET)
    assert choose([A], [point("d")], own=False) == Choice(None, NOTHING_YET)
    assert choose([A], [point("d")]) == Choice(None, ABSENT)


def test_only_what_is_older_than_the_snapshot() -> None:
    """After a rollback zfs would refuse, and after --as of an old one there would be no sense."""
    assert named(choose([A, stored("e")], [point("a"), point("e")])) == "@a"


def test_a_chain_with_a_hole_is_not_stood_on() -> None:
    assert named(choose([A, C], EVERY)) == "@a"
    assert named(choose([A, B, C], EVERY, gone=C.id)) == "#b"
    assert named(choose([A, B, C], EVERY, gone=B.id)) == "@a"
    assert "is not whole there any more" in choose([A, B, C], EVERY, gone=A.id).why


def test_another_backup_of_the_same_snapshot_fills_the_hole() -> None:
    other = stored("b", number=99)
    found = choose([A, B, C, other], EVERY, gone=B.id).base
    assert found is not None
    assert found.chain == (other, C)


def test_other_keys_and_raw() -> None:
    theirs = stored("c", recipients=THEIRS)
    assert named(choose([A, theirs], EVERY)) == "@a"
    assert "keys or recipients" in choose([theirs], EVERY).why
    assert "raw, or not" in choose([stored("c", raw=True)], EVERY).why
    raw = replace(POLICY, raw=True)
    assert named(choose([stored("c", raw=True)], EVERY, raw)) == "@c"


def test_a_chain_whose_flags_this_zfs_lacks() -> None:
    """The pool was moved: what is sent on it would be refused, or, without -L, lose data."""
    old = replace(POLICY, lacks=frozenset({"-c", "-L"}))
    assert choose([A], EVERY, old) == Choice(
        None, "it was sent with -L, which this zfs send does not know"
    )
    assert named(choose([A], EVERY, replace(POLICY, lacks=frozenset({"-c"})))) == "@a"


LARGE, ZSTD = Feature.LARGE_BLOCKS, Feature.ZSTD


def test_large_blocks_that_got_lost() -> None:
    """Whichever link had them, zfs receive demands them of all that come after it."""
    below = stored("a", features=LARGE | ZSTD)
    without = stored("b", below, features=ZSTD)  # made before this was looked at
    for there in ([below], [below, without]):
        found = choose(there, EVERY, features=ZSTD)
        assert named(found) is None
        assert "was sent with large blocks and has none here any more" in found.why
        assert named(choose(there, EVERY, features=LARGE)) is not None
        assert named(choose(there, EVERY)) is not None  # nothing is known: a rehearsal
    with pytest.raises(UsageError, match="cannot serve: tank/photos@a was sent with large blocks"):
        choose([below], EVERY, replace(POLICY, named="@a"), features=0)


def test_an_older_base_without_large_blocks_serves() -> None:
    """They came with a later link; and what else a stream has comes and goes with its contents."""
    below = stored("a", features=ZSTD)
    large = stored("b", below, features=LARGE)
    found = choose([below, large], EVERY, features=0)
    assert (named(found), "large blocks" in found.why) == ("@a", True)
    assert named(choose([below], EVERY, features=LARGE)) == "@a"


def test_policy() -> None:
    assert named(choose([A, B, C], EVERY, replace(POLICY, max_chain=3))) == "@c"
    assert "MAX_CHAIN" in choose([A, B, C], EVERY, replace(POLICY, max_chain=2)).why
    # The snapshots are of 17 January 2026.
    assert "FULL_EVERY" in choose([A, B, C], EVERY, replace(POLICY, full_every=30)).why
    assert named(choose([A, B, C], EVERY, replace(POLICY, full_every=36500))) == "@c"
    # Sent today, however old the snapshot is.
    head = msgspec.structs.replace(A.manifest.head, started=f"{datetime.now(UTC):%FT%TZ}")
    recent = complete(replace(A, head=head))
    assert named(choose([recent, B, C], EVERY, replace(POLICY, full_every=30))) == "@c"
    assert choose([A, B, C], EVERY, replace(POLICY, full=True)).why == "--full was asked for"


@pytest.mark.parametrize(("early", "why"), [("00:05", "7 days old (FULL_EVERY)"), ("06:00", "")])
def test_a_full_backup_is_due_in_the_run_of_that_day(early: str, why: str) -> None:
    """Though it begins some minutes earlier in the night than the one seven days ago."""
    hours, minutes = map(int, early.split(":"))
    began = datetime.now(UTC) - timedelta(days=7) + timedelta(hours=hours, minutes=minutes)
    head = msgspec.structs.replace(A.manifest.head, started=f"{began:%FT%TZ}")
    recent = complete(replace(A, head=head))
    assert choose([recent], EVERY, replace(POLICY, full_every=7)).why.endswith(why)
    assert (named(choose([recent], EVERY, replace(POLICY, full_every=7))) is None) == bool(why)


def test_a_base_that_is_named() -> None:
    assert named(choose([A, B, C], EVERY, replace(POLICY, named="@a"))) == "@a"
    assert named(choose([A, B, C], EVERY, replace(POLICY, named="#c"))) == "#c"
    for name, why in (
        ("@never", "no such older snapshot or bookmark"),
        ("@d", "no backup of it is complete there"),
    ):
        with pytest.raises(UsageError, match=why) as refused:
            choose([A, B, C], EVERY, replace(POLICY, named=name))
        assert refused.value.hint == "these could serve: @a, #b, #c, @c"
    with pytest.raises(UsageError, match=r"cannot serve: tank/photos@a is not whole"):
        choose([A], EVERY, replace(POLICY, named="@a"), gone=A.id)


def test_the_reason_is_the_newest_ones() -> None:
    """What is wrong with an older one would not have mattered."""
    theirs = stored("a", recipients=THEIRS)
    why = choose([theirs, stored("c", raw=True)], EVERY).why
    assert "raw, or not" in why
    found = choose([A, stored("c", raw=True)], EVERY)
    assert (named(found), "raw, or not" in found.why) == ("@a", True)


# --- what an increment costs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "lines"),
    [(501, 1), (500, 0)],
)
def test_more_than_half_of_a_full_one_is_told_if_zfs_told_it(estimate: int, lines: int) -> None:
    assert A.signed is not None
    signed = replace(A.signed, document=msgspec.structs.replace(A.manifest, stream_bytes=1000))
    base = Base(point("b"), (replace(A, signed=signed), B))
    storing._tell_if_large(estimate, base, told := Told())
    assert ["than half of the full backup @a" in line for line in told.infos] == [True] * lines


# --- what is still in the source's past -----------------------------------------------------------


def source(*points: Point, made: bool = False, past: bool | None = None) -> Source:
    return Source(SNAPSHOTS["e"], "e", points, made=made, is_past=lambda _, __: past)


def test_a_bookmark_that_something_was_received_over() -> None:
    told = source(point("a"), point("c", "#"), past=False).doubt
    found = choose([A, B, C], [point("a"), point("c", "#")], doubt=told)
    assert named(found) == "@a"
    assert found.why == "something was received over what tank/photos#c tells of (zfs receive -F)"
    alone, mark = stored("c"), [point("c", "#")]
    assert choose([alone], mark, doubt=told) == Choice(None, found.why)
    with pytest.raises(UsageError, match="cannot serve: something was received"):
        choose([alone], mark, replace(POLICY, named="#c"), doubt=told)


def test_a_snapshot_that_is_there_is_in_the_past() -> None:
    mark = point("c", "#")
    assert source(mark, point("c"), point("d"), past=False).doubt(point("c")) is None
    assert source(mark, point("c"), point("d"), past=False).doubt(mark) is None
    again = replace(point("c"), createtxg=SNAPSHOTS["d"].createtxg)  # received once more
    assert source(mark, again, past=False).doubt(mark) is not None


def test_a_bookmark_where_no_log_tells() -> None:
    """What could have been received over it is a snapshot that is younger."""
    mark, wanted = point("c", "#"), point("e")
    assert source(point("a"), mark, wanted, made=True).doubt(mark) is None
    for points, made in (((mark, wanted), False), ((mark, point("d"), wanted), True)):
        why = source(*points, made=made).doubt(mark)
        assert why is not None
        assert "zpool history -i would tell" in why
        assert source(*points, made=made, past=True).doubt(mark) is None


# --- who lacks what -------------------------------------------------------------------------------


@pytest.fixture
def remotes(monkeypatch: pytest.MonkeyPatch) -> list[Provider]:
    monkeypatch.setattr(repository, "is_held", lambda *_: True)
    return [Provider("one"), Provider("two")]


def divided(
    remotes: Sequence[Provider],
    *backups: Backup,
    policy: Policy = POLICY,
    points: int = 5,
    given: bool = True,
    told: Told | None = None,
) -> list[tuple[str | None, list[str], str]]:
    """Base, providers and kind of each task."""
    known = Standing.of(sorted(backups, key=lambda one: one.id), DATASET, OURS)
    snapshot, left = SNAPSHOTS["e"], tuple(EVERY[:points])
    source = Source(snapshot, "e", left, given, is_past=lambda _, __: True)
    return [
        (
            named(task.choice) or (task.base_guid and str(task.base_guid)) or None,
            [remote.name for remote in task.remotes],
            "copy" if task.complete else "rest" if task.begun else "new",
        )
        for task in tasks.divide(known, source, remotes, policy, told or Told())
    ]


def test_one_task_for_all_that_stand_alike(remotes: list[Provider]) -> None:
    assert divided(remotes) == [(None, ["one", "two"], "new")]
    assert divided(remotes, A, B) == [("#b", ["one", "two"], "new")]


def test_why_a_full_backup_is_due_tells_whose_backups_are_there(remotes: list[Provider]) -> None:
    """Those of other datasets are nothing that is lacking here."""
    assert A.head is not None
    source = Source(SNAPSHOTS["e"], "e", (point("d"),), given=True, is_past=lambda _, __: True)
    for guid, name, why in (
        (6666, "tank/others", NOTHING_YET),
        (6666, DATASET.name, ABSENT),
        (DATASET.guid, "tank/was", ABSENT),
    ):
        facts = msgspec.structs.replace(A.head.dataset, guid=guid, name=name)
        there = replace(A, head=msgspec.structs.replace(A.head, dataset=facts))
        known = Standing.of([there], DATASET, OURS)
        (task,) = tasks.divide(known, source, remotes, POLICY, Told())
        assert task.choice.why == why


def test_one_task_for_each_base(remotes: list[Provider]) -> None:
    mine = stored("b", A, where=["one"])
    assert divided(remotes, A, mine) == [("#b", ["one"], "new"), ("@a", ["two"], "new")]


def test_one_task_for_each_of_two_bases_of_three_providers(remotes: list[Provider]) -> None:
    mine = stored("b", A, where=["one", "three"])
    full = stored("a", where=["one", "two", "three"])
    three = [*remotes, Provider("three")]
    assert divided(three, full, mine) == [
        ("#b", ["one", "three"], "new"), ("@a", ["two"], "new"),
    ]  # fmt: skip


def test_one_task_for_each_kind_of_chain(remotes: list[Provider]) -> None:
    """One snapshot was sent with other flags to the one than to the other: so go the increments."""
    mine = stored("b", where=["one"])
    other = stored("b", where=["two"], number=99, flags=("-L", "-c"))
    assert divided(remotes, mine, other) == [("#b", ["one"], "new"), ("#b", ["two"], "new")]


def test_different_backups_of_one_snapshot_are_one_base(remotes: list[Provider]) -> None:
    """They came together again."""
    mine, other = stored("b", A, where=["one"]), stored("b", where=["two"], number=99)
    assert divided(remotes, A, mine, other) == [("#b", ["one", "two"], "new")]


def test_a_copy_only_goes_where_its_base_is(remotes: list[Provider]) -> None:
    below = stored("b", A)
    done = stored("e", below, where=["one"])
    assert divided(remotes, A, below, done) == [("102", ["one", "two"], "copy")]
    mine = stored("b", A, where=["one"])
    done = stored("e", mine, where=["one"])
    assert divided(remotes, A, mine, done) == [("102", ["one"], "copy"), ("@a", ["two"], "new")]


def test_no_second_copy_goes_where_there_is_one(remotes: list[Provider]) -> None:
    one, two = stored("e", where=["one"]), stored("e", where=["two"], number=99)
    assert divided(remotes, one, two) == [(None, ["two"], "copy"), (None, ["one"], "copy")]


def test_full_is_asked_for_of_what_is_there_as_an_increment(remotes: list[Provider]) -> None:
    full, done = replace(POLICY, full=True), stored("e", A)
    assert divided(remotes, A, done) == [("101", ["one", "two"], "copy")]
    assert divided(remotes, A, done, policy=full) == [(None, ["one", "two"], "new")]
    again = stored("e", number=98)
    assert divided(remotes, A, done, again, policy=full) == [(None, ["one", "two"], "copy")]


def test_the_rest_of_what_was_begun(remotes: list[Provider]) -> None:
    whole = stored("e", A, number=7)
    begun = replace(whole, status="unfinished", signed=None, providers=("one",), held=3)
    assert divided(remotes, A, begun) == [("101", ["one", "two"], "rest")]
    assert divided(remotes, A, begun, policy=replace(POLICY, full=True)) == [
        (None, ["one", "two"], "new")
    ]


def unfinished(one: Backup, *where: str) -> Backup:
    return replace(one, status="unfinished", signed=None, providers=where, held=3)


def test_the_rest_only_goes_where_it_can_be_restored_from(
    remotes: list[Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain below it is not whole any more on one of them, or on none."""
    begun = unfinished(stored("e", B, number=7), "one", "two")
    part = replace(B, providers=("two",))
    told = Told()
    expected = [("102", ["two"], "rest"), ("@a", ["one"], "new")]
    assert divided(remotes, A, part, begun, told=told) == expected
    (warning,) = told.warnings
    assert f"{begun.id} is left as it is on one" in warning
    monkeypatch.setattr(repository, "is_held", lambda _, one: one.document.head.id != B.id)
    assert divided(remotes, A, B, begun) == [("@a", ["one", "two"], "new")]


def test_the_rest_of_what_is_due_as_a_full_one_meanwhile(remotes: list[Provider]) -> None:
    """Days of work are in it: it is finished, whatever a new one would stand on."""
    begun = unfinished(stored("e", A, number=7), "one", "two")
    assert divided(remotes, A, B, begun) == [("101", ["one", "two"], "rest")]
    for policy in (replace(POLICY, max_chain=0), replace(POLICY, raw=True)):
        assert divided(remotes, A, begun, policy=policy) == [("101", ["one", "two"], "rest")]


@pytest.mark.parametrize("raw", [True, False])
def test_a_copy_only_goes_where_it_is_wanted(remotes: list[Provider], *, raw: bool) -> None:
    """Not if the keys are other ones now; nor raw on what is not, or the other way round."""
    policy = replace(POLICY, raw=raw)
    below = stored("a", raw=raw)
    other = stored("e", stored("a", raw=not raw), raw=not raw, where=["one"], number=7)
    theirs = stored("e", stored("a", raw=raw), raw=raw, where=["one"], recipients=THEIRS, number=7)
    for done in (other, theirs):
        assert divided(remotes, below, done, policy=policy) == [
            ("101", ["one"], "copy"),
            ("@a", ["two"], "new"),
        ]
    for full in (
        stored("e", raw=not raw, where=["one"]),
        stored("e", raw=raw, where=["one"], recipients=THEIRS),
    ):
        assert divided(remotes, full, policy=policy) == [
            (None, ["one"], "copy"),
            (None, ["two"], "new"),
        ]
    good = stored("e", below, raw=raw, where=["one"])
    assert divided(remotes, below, good, policy=policy) == [("101", ["one", "two"], "copy")]


def test_what_was_begun_raw_does_not_go_on_what_is_not(remotes: list[Provider]) -> None:
    begun = unfinished(stored("e", stored("a", raw=True), raw=True, number=7), "one")
    raw = stored("a", raw=True, where=["one"])
    plain = stored("a", where=["two"], number=8)
    assert divided(remotes, raw, plain, begun) == [("101", ["one"], "rest"), ("@a", ["two"], "new")]


def test_an_increment_whose_base_is_gone_cannot_be_finished(remotes: list[Provider]) -> None:
    gone = stored("c")
    whole = stored("e", gone, number=7)
    begun = replace(whole, status="unfinished", signed=None, providers=("one",), held=3)
    with pytest.raises(UsageError, match="its base tank/photos@c is gone") as refused:
        divided(remotes, A, gone, begun, points=1)
    assert "--restart" in str(refused.value.hint)
    assert divided(remotes, A, gone, begun, points=1, given=False) == [
        ("@a", ["one", "two"], "new")
    ]
    done = stored("e", A, number=8)
    assert divided(remotes, A, gone, begun, done, points=1) == [("101", ["one", "two"], "copy")]


# --- bookmarks ------------------------------------------------------------------------------------


def test_the_bookmarks_that_are_needed() -> None:
    """Two for each provider, however far behind it is."""
    backups = {name: stored(name) for name in NAMES}
    kept = [Kept(backups[name].manifest.head, ("one",)) for name in NAMES]
    kept += [Kept(backups[name].manifest.head, ("two",)) for name in ("a", "b")]
    points = [point(name, "#") for name in NAMES]
    needed = marks._needed(points, kept, {"one", "two"})
    assert needed == {SNAPSHOTS[name].guid for name in ("a", "b", "d", "e")}
