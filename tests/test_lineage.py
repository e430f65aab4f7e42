"""Which backups an incremental one needs, whatever the manifests of others say."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from offsite import lineage
from offsite.catalog import Backup, Status
from offsite.errors import IntegrityError
from offsite.keys.trust import Standing
from offsite.manifest import Base, SendFacts
from offsite.repository import Signed
from tests import repo


def made(
    day: int,
    guid: int,
    base: int | None = None,
    *,
    parent: int = 0,
    status: Status = "complete",
    raw: bool = False,
    flags: str = "-L",
    name: str | None = None,
    host: str = "nas",
) -> Backup:
    """A backup of a day of January: of the snapshot ``guid``, on top of the snapshot ``base``."""
    backup_id = id_of(day)
    head = msgspec.structs.replace(
        repo.head(repo.snapshot(name or f"s{guid}", guid), backup_id, host=host),
        base=None if base is None else Base(base, f"s{base}", id_of(parent)),
        send=SendFacts(["-w" if raw else flags], "zfs-2.2.2"),
    )
    document = repo.manifest(head)
    standing: Standing = "trusted" if status == "complete" else "unknown"
    signed = Signed(document, repo.Keys().public, standing, "ab" * 32)
    return Backup(backup_id, status, ("one",), head=head, signed=signed)


def id_of(day: int) -> str:
    return f"202601{day:02d}t120000-{day:016x}"


def days(backups: list[Backup], wanted: int, lost: tuple[int, ...] = ()) -> list[int]:
    (one,) = [each for each in backups if each.id == id_of(wanted)]
    found = lineage.resolve(backups, one, {id_of(day) for day in lost})
    return [int(each.id[6:8]) for each in found]


def refusal(backups: list[Backup], wanted: int, lost: tuple[int, ...] = ()) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        days(backups, wanted, lost)
    return caught.value


LINE = [made(1, 1), made(2, 2, 1, parent=1), made(3, 3, 2, parent=2)]


def test_a_full_backup_stands_alone() -> None:
    assert days(LINE, 1) == [1]


def test_full_first() -> None:
    assert days(LINE, 3) == [1, 2, 3]
    assert days(LINE[::-1], 3) == [1, 2, 3]


def test_any_backup_of_the_base_will_do() -> None:
    backups = [made(1, 1), made(2, 2, 1, parent=99), made(3, 3, 2, parent=98)]
    assert days(backups, 3) == [1, 2, 3]


def test_the_parent_is_tried_first_then_full_ones_then_the_newest() -> None:
    backups = [*LINE[:2], made(4, 2), made(5, 2, 1, parent=1), made(9, 3, 2, parent=2)]
    assert days(backups, 9) == [1, 2, 9]
    assert days(backups, 9, (2,)) == [4, 9]
    assert days(backups, 9, (2, 4)) == [1, 5, 9]


def test_raw_stands_on_raw_only() -> None:
    plain, raw = made(1, 1, flags="-c"), made(2, 1, raw=True)
    assert days([plain, raw, made(3, 2, 1, parent=1, raw=True)], 3) == [2, 3]
    backups = [plain, raw, made(3, 2, 1, parent=2, flags="-c")]
    assert days(backups, 3) == [1, 3]
    assert "stands on @s1" in str(refusal(backups, 3, (1,)))


def test_streams_with_and_without_large_blocks_do_not_mix() -> None:
    backups = [made(1, 1, flags="-c"), made(2, 1), made(3, 2, 1, parent=1)]
    assert days(backups, 3) == [2, 3]
    assert "does not fit" in str(refusal(backups, 3, (2,)))


def test_a_dead_end_is_left_again() -> None:
    backups = [
        made(1, 1),
        made(2, 2, 99, parent=9),
        made(3, 2, 1, parent=1),
        made(4, 3, 2, parent=2),
    ]
    assert days(backups, 4) == [1, 3, 4]


def test_many_dead_ends_are_tried_once_each() -> None:
    """Two backups of each of many snapshots: as many ways as there are not seconds in a life."""
    twins = [made(n + 50 * twin, n, n - 1, parent=n - 1) for n in range(1, 41) for twin in (0, 1)]
    refusal(twins, 40)


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_circles_lead_nowhere(length: int) -> None:
    ring = [made(day, day, (day - 2) % length + 1, parent=(day - 2) % length + 1)
            for day in range(1, length + 1)]  # fmt: skip
    assert "cannot be restored" in str(refusal(ring, length))
    if length > 1:
        assert days([*ring, made(60, 1)], length)[0] == 60


def test_nothing_stands_on_its_own_snapshot() -> None:
    refusal([made(1, 1, 1, parent=2), made(2, 1)], 1)


def test_a_chain_longer_than_any_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "LONGEST", 3)
    assert days(LINE, 3) == [1, 2, 3]
    refusal([*LINE, made(4, 4, 3, parent=3)], 4)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("damaged", "is damaged"),
        ("unfinished", "is not finished"),
        ("sealed", "opens with no key that is here"),
        ("unreadable", "cannot be read"),
        ("untrusted", "which nothing here vouches for"),
    ],
)
def test_why_a_link_is_missing(status: Status, told: str) -> None:
    backups = [LINE[0], made(2, 2, 1, parent=1, status=status), LINE[2]]
    error = refusal(backups, 3)
    assert f"backup {id_of(2)} of that" in str(error)
    assert told in str(error)
    assert ("--trust-signer SHA256:" in (error.hint or "")) == (status == "untrusted")


def test_a_link_of_a_key_that_is_revoked() -> None:
    forged = made(2, 2, 1, parent=1, status="untrusted")
    assert forged.signed is not None
    forged = replace(forged, signed=replace(forged.signed, standing="revoked"))
    error = refusal([LINE[0], forged, LINE[2]], 3)
    assert "which is revoked here" in str(error)
    assert "--trust-signer" not in (error.hint or "")


def test_a_link_that_is_gone() -> None:
    assert str(refusal(LINE[1:], 3)) == (
        f"@s3 (backup {id_of(3)}) cannot be restored: @s2 (backup {id_of(2)}) stands on @s1,"
        f" and backup {id_of(1)} of that is not there any more"
    )
    assert "cannot be had whole" in str(refusal(LINE, 3, (1,)))


def test_alternatives_are_of_the_same_snapshot_name_and_host() -> None:
    backups = [made(1, 1), made(2, 1), made(3, 1, name="other"), made(4, 1, host="attic"),
               made(5, 2), made(6, 1, status="damaged")]  # fmt: skip
    assert [one.id for one in lineage.alternatives(backups, backups[0])] == [id_of(1), id_of(2)]


def test_names() -> None:
    heads = [made(1, 1, name="x").head, made(2, 2, name="y").head, made(3, 3, name="x").head]
    assert lineage.names([head for head in heads if head]) == ["x-00000000", "y", "x"]
    many = [made(day, day, name="x").head for day in (1, 2, 3)]
    assert lineage.names([head for head in many if head]) == [
        "x-0000000000000001", "x-00000000", "x",
    ]  # fmt: skip
