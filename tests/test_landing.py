"""What a restore finds where it shall arrive: its own unfinished work, or the user's data."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from offsite import discard, fits, landing, swap
from offsite.errors import UsageError, ZfsError
from offsite.fits import RootError
from offsite.landing import Landing, Step
from offsite.links import Link
from offsite.manifest import Base, Manifest, Receipt
from offsite.progress import Silent
from offsite.swap import Swap
from offsite.zfs import targets
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.records import Feature
from offsite.zfs.token import Token
from tests import repo

TARGET = "tank/new"
MARK = "20260117t120000-0123456789abcdef"
NOWHERE = Zfs(command=("/bin/false",))


def link(number: int, length: int = 1000, size: int = 500, flags: str = "-L") -> Link:
    """Of the snapshot 100 + number, on top of the one before; number 0 is a full backup."""
    head = repo.head(repo.snapshot(f"s{number}", 100 + number), f"20260117t120000-{number:016x}")
    head = msgspec.structs.replace(
        head,
        base=Base(99 + number, f"s{number - 1}", MARK) if number else None,
        send=msgspec.structs.replace(head.send, flags=[flags]),
    )
    manifest = Manifest(
        format=1,
        head=head,
        finished="2026-01-17T12:00:00Z",
        chunks=1,
        stream_bytes=length,
        stored_bytes=size,
        indexes=[],
    )
    receipt = Receipt(
        number=0, offset=0, length=length, size=size, sha256="ab" * 32, plain_xxh128="cd" * 16
    )
    return Link(manifest, [receipt], (), {}, f"s{number}")


CHAIN = [link(number) for number in range(4)]


def there(*guids: int, **facts: Any) -> Landing:
    """An existing dataset with snapshots of these guids."""
    snapshots = tuple(Snapshot(TARGET, f"s{guid - 100}", guid, guid, 0) for guid in guids)
    return Landing(NOWHERE, TARGET, exists=True, snapshots=snapshots, **facts)


def token(toguid: int, fromguid: int = 0) -> Token:
    return Token(1, 0, 0, toguid, "tank/photos@x", fromguid)


def left(found: Landing, *, update: bool = False) -> list[str]:
    """The links to receive; the one that goes on with a +."""
    steps = landing.steps(found, CHAIN, update=update)
    return [step.link.name + ("+" if step.token else "") for step in steps]


def refused(found: Landing, told: str, *, update: bool = False) -> str:
    with pytest.raises(UsageError, match=told) as caught:
        landing.steps(found, CHAIN, update=update)
    assert caught.value.hint is not None
    return caught.value.hint


ALL = ["s0", "s1", "s2", "s3"]


def test_nothing_is_there() -> None:
    assert left(Landing(NOWHERE, TARGET)) == ALL


@pytest.mark.parametrize("option", ["", "--update"])
def test_an_unfinished_restore_goes_on(option: str) -> None:
    update = option == "--update"
    for number in range(1, 5):
        guids = range(100, 100 + number)
        assert left(there(*guids, mark=MARK), update=update) == ALL[number:]
    assert left(there(mark=MARK, token=token(100)), update=update) == ["s0+", *ALL[1:]]
    assert left(there(token=token(100)), update=update) == ["s0+", *ALL[1:]]
    found = there(100, 101, mark=MARK, token=token(102, 101))
    assert left(found, update=update) == ["s2+", "s3"]


def test_an_unfinished_restore_of_something_else() -> None:
    hint = refused(there(100, 999, mark=MARK), "holds an unfinished restore of another backup")
    assert f"@{MARK}" in hint
    assert "zfs inherit offsite:restoring tank/new; or," in hint  # it may be the user's by now
    refused(there(101, mark=MARK), "of another backup")
    refused(there(100, 101, 102, 103, 104, mark=MARK), "of another backup")
    for wrong in (token(999), token(100, 1), token(101, 100)):
        assert "--restart" in refused(there(token=wrong), "of another snapshot")
    refused(there(100, mark=MARK, token=token(102, 101)), "of another snapshot")
    refused(there(*range(100, 104), mark=MARK, token=token(104, 103)), "of another snapshot")
    refused(there(mark=MARK), "nothing of that is left")


def test_an_interrupted_receive_of_another_stream_of_that_snapshot() -> None:
    """Somebody sent it by hand, without -L or -w: its blocks are of another size, or sealed."""
    for other in (replace(token(100), large_blocks=True), replace(token(100), raw=True)):
        assert "--restart" in refused(there(token=other), "of another snapshot")
    head = CHAIN[0].manifest.head
    send = msgspec.structs.replace(head.send, features=int(Feature.LARGE_BLOCKS))
    manifest = msgspec.structs.replace(
        CHAIN[0].manifest, head=msgspec.structs.replace(head, send=send)
    )
    large = replace(CHAIN[0], manifest=manifest)
    mine = there(mark=MARK, token=replace(token(100), large_blocks=True))
    assert len(landing.steps(mine, [large], update=False)) == 1
    with pytest.raises(UsageError, match="of another snapshot"):
        landing.steps(there(token=token(100)), [large], update=False)


def test_a_user_wrote_to_an_unfinished_restore() -> None:
    told = "4 KiB were written to tank/new after tank/new@s0"
    hint = refused(there(100, mark=MARK, written=4096), told)
    assert "zfs inherit offsite:restoring tank/new" in hint
    assert left(there(mark=MARK, token=token(100), written=4096))[0] == "s0+"  # by the receive


def test_hints_can_be_typed() -> None:
    odd = "tank/two words"
    hint = refused(replace(there(100), dataset=odd), "exists; it was not touched")
    assert "--as 'tank/two words-restored';" in hint
    hint = refused(replace(there(999, mark=MARK), dataset=odd), "of another backup")
    assert "zfs inherit offsite:restoring 'tank/two words'" in hint
    assert hint.endswith("zfs destroy -r 'tank/two words'")


@pytest.mark.parametrize("facts", [{}, {"token": token(101, 100)}, {"written": 1}])
def test_what_is_the_user_s_is_refused(facts: dict[str, Any]) -> None:
    hint = refused(there(100, **facts), "exists; it was not touched")
    assert all(way in hint for way in ("--as", "--update", "--replace"))
    refused(there(), "exists; it was not touched")


def test_update() -> None:
    assert left(there(100), update=True) == ["s1", "s2", "s3"]
    assert left(there(77, 102), update=True) == ["s3"]
    assert left(there(103), update=True) == []
    assert left(there(100, token=token(101, 100)), update=True) == ["s1+", "s2", "s3"]
    refused(there(100, 999), "its newest snapshot, @s899, is not what", update=True)
    refused(there(), "cannot be updated", update=True)
    assert left(there(100, written=1024), update=True) == ["s1", "s2", "s3"]  # a rollback does
    hint = refused(there(100, written=9216), "9 KiB were written", update=True)
    assert "zfs rollback tank/new@s0" in hint
    refused(there(100, token=token(999, 100)), "of another snapshot", update=True)


def test_a_raw_increment_for_what_the_key_of_another_opens() -> None:
    """Nothing would open it ever again."""
    raw, joined = [link(number, flags="-w") for number in range(2)], there(100, key_of="tank")
    with pytest.raises(UsageError, match="is opened by the key of tank, and raw") as caught:
        landing.steps(joined, raw, update=True)
    assert "zfs change-key -o keyformat" in str(caught.value.hint)
    assert len(landing.steps(replace(joined, key_of=TARGET), raw, update=True)) == 1
    assert landing.steps(there(101, key_of="tank"), raw, update=True) == []
    assert left(joined, update=True) == ["s1", "s2", "s3"]  # not raw: the target's key encrypts
    begun = there(mark=MARK, token=token(100), key_of="tank")
    assert len(landing.steps(begun, raw, update=False)) == 2  # a full one brings its own


def test_names_are_free_and_possible() -> None:
    taken = replace(there(100), snapshots=(
        Snapshot(TARGET, "s2", 55, 50, 0), Snapshot(TARGET, "s0", 100, 100, 0),
    ))  # fmt: skip
    refused(taken, "tank/new@s2 exists and is another snapshot", update=True)
    refused(Landing(NOWHERE, "tank/" + "n" * 249), "has 257 characters")


def test_a_pool_s_root_and_encryption() -> None:
    """zfs receive -F: nothing encrypted into it, and nothing into an encrypted one."""
    plain, raw = (link(0, flags=flags).manifest.head for flags in ("-L", "-w"))
    root = Landing(NOWHERE, "tank", blank=True)
    locked = replace(root, key_of="tank")
    used = replace(root, exists=True, blank=False)  # by what was restored below it
    for found, head in ((root, raw), (used, raw), (locked, raw), (locked, plain)):
        with pytest.raises(RootError, match="tank was not touched") as caught:
            fits.check_root_takes(found, head)
        assert "offsite --restore tank/photos@s0 --no-recursive --as tank/NAME" in str(
            caught.value.hint
        )
    no_pool, below = Landing(NOWHERE, "tank"), Landing(NOWHERE, "tank/a", exists=True)
    updated = replace(there(100), dataset="tank", key_of="tank")  # in increments, without -F
    for found in (root, used):
        fits.check_root_takes(found, plain)
    for found in (no_pool, below, updated):
        fits.check_root_takes(found, raw)


# --- with a zfs -----------------------------------------------------------------------------------


@pytest.fixture
def zfs(tmp_path: Path) -> Zfs:
    """Writes down what it is asked; the dataset has 1000 bytes left, and two snapshots."""
    script = tmp_path / "zfs"
    script.write_text(f"""\
echo "$*" >> {tmp_path}/calls
[ -e {tmp_path}/fails ] && case "$*" in $(cat {tmp_path}/fails)) echo busy >&2; exit 1 ;; esac
case "$*" in
"get -pHo value available "*) echo 1000 ;;
"get -pHo value written@"*) cat {tmp_path}/since ;;
"userspace "*) echo 1 ;;
"get -Ho value keystatus tank/none"*) echo "cannot open '$5': dataset does not exist" >&2; exit 1 ;;
"get -Ho value keystatus "*) echo unavailable ;;
"get -Ho value encryptionroot "*) echo tank ;;
"list -r -t all "*) echo tank ;;
"list -t filesystem,volume "*" tank") printf 'tank\\t5555\\tfilesystem\\tlz4\\t0\\t0\\toff\\n' ;;
"get -s local "*) [ ! -e {tmp_path}/mark ] || cat {tmp_path}/mark ;;
"get -Ho value receive_resume_token "*) [ ! -e {tmp_path}/token ] || cat {tmp_path}/token ;;
"receive -A "*) rm {tmp_path}/token ;;
"get -pHo property,value "*) [ ! -e {tmp_path}/state ] || cat {tmp_path}/state ;;
"list -r -t filesystem,volume "*) [ ! -e {tmp_path}/below ] || cat {tmp_path}/below ;;
"list -t snapshot "*) [ ! -e {tmp_path}/snapshots ] || cat {tmp_path}/snapshots ;;
"list -t filesystem,volume "*"tank/new") [ ! -e {tmp_path}/state ] ||
    printf '%s\\t5555\\tfilesystem\\tlz4\\t0\\t0\\toff\\n' tank/new ;;
"list -t filesystem,volume "*-restoring) [ ! -e {tmp_path}/mark ] ||
    printf '%s\\t5555\\tfilesystem\\tlz4\\t0\\t0\\toff\\n' tank/new-restoring ;;
"list -t filesystem,volume "*-before-*) echo "dataset: '$7': dataset does not exist" >&2; exit 1 ;;
esac
""")
    return Zfs(command=("/bin/sh", str(script)))


def calls(tmp_path: Path, verb: str) -> list[str]:
    path = tmp_path / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith(verb)]


def room(zfs: Zfs, *chain: Link) -> str | None:
    found = Landing(zfs, TARGET)
    left = landing.steps(found, chain, update=False)
    return fits.check_room(found, fits.need(left))


def test_room(zfs: Zfs) -> None:
    assert room(zfs, link(0)) is None
    tight = room(zfs, link(0), link(1, 500, 400))
    assert tight is not None
    assert "1.46 KiB are to be received, tank has room for 0.98 KiB" in tight
    with pytest.raises(UsageError, match="not enough room"):
        room(zfs, link(0), link(1, 700, 600))
    for flags in ("-w", "-c"):  # of such a stream, 5/8 is data at least
        with pytest.raises(UsageError, match="not enough room"):
            room(zfs, link(0), link(1, 900, 400, flags))
        assert room(zfs, link(0), link(1, 700, 400, flags)) is not None


def test_the_key_that_is_to_encrypt_it_is_loaded(zfs: Zfs, tmp_path: Path) -> None:
    """A raw stream brings its own; and where nothing is to be received, none is needed."""
    told = "tank/new is to be encrypted by the key of tank, which is not loaded"
    for found in (Landing(zfs, TARGET), Landing(zfs, TARGET, exists=True)):
        with pytest.raises(UsageError, match=told) as caught:
            fits.check_key(found, [Step(link(0, flags="-L"))])
        assert caught.value.hint == "zfs load-key tank; or choose another --as"
        fits.check_key(found, [Step(link(0, flags="-w"))])
        fits.check_key(found, [])
    asked = [line.split()[-1] for line in calls(tmp_path, "get -Ho value keystatus")]
    assert asked == ["tank", TARGET]
    # The parent of one of a tree may be made on the way: it was left out of the backup.
    fits.check_key(Landing(zfs, "tank/none/new"), [Step(link(0, flags="-L"))])


def is_there(tmp_path: Path, found: Landing) -> None:
    """What zfs tells of the dataset from now on."""
    rows = (f"{one.full_name}\t{one.guid}\t{one.createtxg}\t0\n" for one in found.snapshots)
    (tmp_path / "snapshots").write_text("".join(rows))
    mounted = "yes" if found.mounted else "no"
    (tmp_path / "state").write_text(f"written\t{found.written}\nmounted\t{mounted}\n")
    (tmp_path / "mark").write_text(found.mark or "")


def test_start_over_destroys_only_what_is_known(zfs: Zfs, tmp_path: Path) -> None:
    """As it is by then, whatever was found before: a user mounts it, and writes."""
    known = {100, 101}
    ours = replace(there(100, 101, mark=MARK), zfs=zfs)
    for other in (
        replace(ours, written=1),
        replace(ours, mounted=True),
        there(100, 999, mark=MARK),
        there(mark=MARK),
    ):
        is_there(tmp_path, other)
        with pytest.raises(UsageError, match="holds more than") as caught:
            discard.start_over(ours, known)
        assert caught.value.hint == (
            "make it yours as it is: zfs inherit offsite:restoring tank/new;"
            " or, if nothing in it is needed: zfs destroy -r tank/new"
        )
    unmarked = replace(ours, mark=None)
    is_there(tmp_path, unmarked)
    with pytest.raises(UsageError, match="exists; it was not touched"):
        discard.start_over(ours, known)
    assert discard.start_over(unmarked, known) == unmarked
    assert calls(tmp_path, "destroy") == []
    is_there(tmp_path, ours)
    assert not discard.start_over(ours, known).exists
    assert calls(tmp_path, "destroy") == ["destroy tank/new@s0%s1", "destroy tank/new"]


def test_snapshots_that_a_service_made_meanwhile(zfs: Zfs, tmp_path: Path) -> None:
    """One of all datasets every hour: zfs receives over those that hold no change, unless raw."""
    mark = CHAIN[-1].id
    mine, since = replace(there(100, 999, mark=mark), zfs=zfs), tmp_path / "since"
    since.write_text("0\n")
    assert left(mine) == ["s1", "s2", "s3"]
    between = replace(there(100, 999, 101, mark=mark, token=token(102, 101)), zfs=zfs)
    assert left(between) == ["s2+", "s3"]
    raw = [link(number, flags="-w") for number in range(4)]
    with pytest.raises(UsageError, match="tank/new@s899 was made while the restore was not") as no:
        landing.steps(mine, raw, update=False)
    assert "needed: zfs rollback -r tank/new@s0; or make it yours" in str(no.value.hint)
    since.write_text("512\n")
    refused(mine, "zfs receives nothing over it")
    whole = replace(there(100, 101, 102, 103, 999, mark=mark), zfs=zfs)
    assert left(whole) == []
    assert landing.steps(whole, raw, update=False) == []
    since.write_text("9000\n")
    refused(whole, "zfs receives nothing over it")
    done = replace(whole, mark=None)
    assert not landing.holds_just(done, 103)
    since.write_text("0\n")
    assert landing.holds_just(done, 103)
    assert not landing.holds_just(done, 104)
    assert not landing.holds_just(whole, 103)


def test_a_pool_s_root_is_begun_anew(zfs: Zfs, tmp_path: Path) -> None:
    """As nothing was ever put in it, it need not be destroyed, which zfs would not do."""
    (tmp_path / "zpool").touch()
    (tmp_path / "mark").write_text(MARK)
    (tmp_path / "state").write_text("written\t0\nmounted\tno\n")
    (tmp_path / "token").write_text("1-nonsense")
    root = landing.look(zfs, "tank")
    assert (root.ours, root.blank) == (True, True)
    assert discard.start_over(root, set()) == Landing(zfs, "tank", blank=True)
    gone = ["receive -A tank", "inherit -S canmount tank", "inherit offsite:restoring tank"]
    assert calls(tmp_path, "receive") + calls(tmp_path, "inherit") == gone
    (tmp_path / "token").write_text("1-nonsense")
    (tmp_path / "snapshots").write_text("tank@s0\t100\t100\t0\n")
    with pytest.raises(UsageError, match="is a pool's root, which cannot be received twice"):
        discard.start_over(landing.look(zfs, "tank"), {100})
    assert calls(tmp_path, "receive") == gone[:1]


def test_a_token_that_cannot_be_read(zfs: Zfs, tmp_path: Path) -> None:
    """What is of it can be thrown away, and nothing else."""
    is_there(tmp_path, there(mark=MARK))
    (tmp_path / "token").write_text("1-nonsense")
    found = landing.look(zfs, TARGET)
    assert (found.ours, found.token) == (True, None)
    with pytest.raises(ZfsError, match="the resume token is damaged") as caught:
        landing.steps(found, CHAIN, update=False)
    assert "--restart" in str(caught.value.hint)
    is_there(tmp_path, there(100))
    theirs = landing.look(zfs, TARGET)
    refused(theirs, "exists; it was not touched")
    assert calls(tmp_path, "receive") == []
    after = discard.start_over(theirs, {100})
    assert calls(tmp_path, "receive") == ["receive -A tank/new"]
    assert (after.partial, after.snapshots) == (False, theirs.snapshots)
    assert calls(tmp_path, "destroy") == []


def test_swap(zfs: Zfs, tmp_path: Path) -> None:
    one = Swap(zfs, "tank/a", "tank/a-restoring", "tank/a-before-restore-20260117")
    swap.carry_out(one, Silent())
    there_and_back = [
        "rename tank/a tank/a-before-restore-20260117",
        "rename tank/a-restoring tank/a",
    ]
    assert calls(tmp_path, "rename") == there_and_back
    (tmp_path / "calls").unlink()
    (tmp_path / "fails").write_text("rename tank/a-restoring *")
    with pytest.raises(ZfsError, match="busy"):
        swap.carry_out(one, Silent())
    undone = "rename tank/a-before-restore-20260117 tank/a"
    assert calls(tmp_path, "rename") == [*there_and_back, undone]
    (tmp_path / "fails").write_text("rename tank/a-*")
    with pytest.raises(ZfsError, match="tank/a is now tank/a-before-restore-20260117") as caught:
        swap.carry_out(one, Silent())
    assert caught.value.hint == "it is whole: zfs rename tank/a-restoring tank/a"


def test_the_name_under_which_the_old_one_is_kept_is_too_long(zfs: Zfs) -> None:
    """Told before anything is fetched: zfs would refuse the rename at the end, every time."""
    name = "s" * 220  # tank/new-before-restore-20260117@… has 253 characters with it
    found = replace(there(100), zfs=zfs)
    fits = replace(found, snapshots=(Snapshot(TARGET, name, 100, 100, 0),))
    one = swap.prepare(zfs, fits, date(2026, 1, 17))[1]
    assert one == Swap(zfs, TARGET, f"{TARGET}-restoring", f"{TARGET}-before-restore-20260117")
    long = replace(found, snapshots=(Snapshot(TARGET, name + "ssss", 100, 100, 0),))
    with pytest.raises(UsageError, match="that is too long for zfs") as caught:
        swap.prepare(zfs, long, date(2026, 1, 17))
    assert "without --replace: zfs rename tank/new NAME" in str(caught.value.hint)


def test_what_was_made_below_meanwhile_does_not_move_away(zfs: Zfs, tmp_path: Path) -> None:
    (tmp_path / "below").write_text("tank/a\ntank/a/new\n")
    one = Swap(zfs, "tank/a", "tank/a-restoring", "tank/a-before-restore-20260117")
    with pytest.raises(ZfsError, match="which would move away with it: tank/a/new") as caught:
        swap.carry_out(one, Silent())
    assert "the same command again" in str(caught.value.hint)
    assert calls(tmp_path, "rename") == []


def test_an_interrupted_swap_is_told(zfs: Zfs, tmp_path: Path) -> None:
    (tmp_path / "mark").write_text(MARK)
    with pytest.raises(UsageError, match="tank/new-restoring, an unfinished restore") as caught:
        swap.check_none_begun(Landing(zfs, TARGET))
    assert "the same command with --replace" in str(caught.value.hint)
    swap.check_none_begun(Landing(NOWHERE, TARGET, exists=True))
    swap.check_none_begun(Landing(NOWHERE, "tank/" + "n" * 250))


@pytest.mark.parametrize("value", ["", "-", "yes", "20260117", "20260117t120000-0123456789ABCDEF"])
def test_a_mark_is_a_backup_s_id(zfs: Zfs, tmp_path: Path, value: str) -> None:
    (tmp_path / "mark").write_text(MARK)
    assert targets.state(zfs, TARGET) == targets.State(MARK, 1, mounted=False)
    (tmp_path / "mark").write_text(value)
    assert targets.state(zfs, TARGET).mark is None
    assert calls(tmp_path, "get")[-1] == "get -s local -Ho value offsite:restoring tank/new"


def test_a_pool_is_not_replaced(zfs: Zfs) -> None:
    found = Landing(zfs, "tank", exists=True)
    with pytest.raises(UsageError, match="its root cannot be replaced"):
        swap.prepare(zfs, found, date(2026, 1, 17))
