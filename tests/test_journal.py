"""The local journal: on the disk before the next receipt, and readable whatever became of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsite import journal, manifest
from offsite.errors import OffsiteError
from offsite.journal import Journal
from offsite.manifest import Index, Receipt
from tests import repo, whole

FEATURES = 5


def receipt(number: int) -> Receipt:
    return Receipt(
        number=number,
        offset=number * 1000,
        length=1000,
        size=1200,
        sha256=f"{number:064x}",
        plain_xxh128=f"{number:032x}",
        hashes={"md5": f"{number:032x}"},
        first_write=(2**64 - 1, number),
    )


RECEIPTS = [receipt(number) for number in range(5)]


@pytest.fixture
def written(tmp_path: Path) -> Journal:
    return Journal(repo.ID, tmp_path / "journals")


def told(one: Journal) -> list[Receipt]:
    return [receipt for entry in one.read() for receipt in entry.receipts]


def filled(one: Journal) -> Journal:
    one.begin(FEATURES, RECEIPTS[:2])
    for receipt in RECEIPTS[2:]:
        one.add(FEATURES, receipt)
    return one


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class Disk:
    """What would be there after a power failure: files as they were at their last fsync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.synced: dict[str, bytes] = {}
        self._fsync, self._replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", self.replace)

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self.events.append(f"fsync {path.name}")
        if path.is_file():
            self.synced[path.name] = path.read_bytes()

    def replace(self, old: str | Path, new: str | Path) -> None:
        self._replace(old, new)
        self.events.append(f"replace {Path(new).name}")
        self.synced[Path(new).name] = self.synced.pop(Path(old).name)


def test_what_was_written_is_read(written: Journal) -> None:
    entries = list(filled(written).read())
    assert told(written) == RECEIPTS
    assert {(entry.id, entry.features) for entry in entries} == {(repo.ID, FEATURES)}
    assert manifest.decode(written.path.read_bytes().splitlines()[0], Index) == entries[0]


def test_whether_a_manifest_may_have_been_written(written: Journal) -> None:
    assert not written.is_unsigned
    assert filled(written).is_unsigned
    written.sign()
    assert not written.is_unsigned
    assert told(written) == RECEIPTS
    filled(written)
    assert written.is_unsigned


def test_where_zfs_could_not_read_on(written: Journal) -> None:
    written.fail(7, 0)
    assert written.failed is None
    assert not written.path.exists()
    filled(written).fail(7, 1 << 40)
    assert written.failed == (7, 1 << 40)
    assert told(written) == RECEIPTS
    assert written.is_unsigned
    filled(written)  # a run went on since then
    assert written.failed is None


def test_a_receipt_is_on_the_disk_when_add_returns(
    written: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written.begin(FEATURES, RECEIPTS[:1])
    disk = Disk(monkeypatch)
    for count in range(2, 6):
        written.add(FEATURES, RECEIPTS[count - 1])
        after = Journal(repo.ID, tmp_path / f"after-{count}")
        after.folder.mkdir()
        after.path.write_bytes(disk.synced[written.path.name])
        assert told(after) == RECEIPTS[:count]
        assert disk.synced[written.path.name] == written.path.read_bytes()


def test_beginning_replaces_the_whole_journal_at_once(
    written: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(written)
    disk = Disk(monkeypatch)
    written.begin(FEATURES, RECEIPTS[:3])
    name = written.path.name
    part = name.replace("jsonl", "part")
    assert disk.events == [f"fsync {part}", f"replace {name}", "fsync journals"]
    assert disk.synced[name] == written.path.read_bytes()
    assert told(written) == RECEIPTS[:3]
    assert list(written.folder.iterdir()) == [written.path]


def test_beginning_that_fails_leaves_the_journal_as_it_was(
    written: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(written)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        check_told(lambda: written.begin(FEATURES, []), "No space left on device")
    assert told(written) == RECEIPTS
    written.begin(FEATURES, RECEIPTS[:1])  # whatever the failure left
    assert told(written) == RECEIPTS[:1]


def check_told(act: Callable[[], None], why: str) -> None:
    with pytest.raises(OffsiteError, match=f"the journal /.* cannot be written: {why}") as error:
        act()
    assert type(error.value) is OffsiteError
    assert str(error.value).isprintable()
    assert error.value.hint is not None
    assert error.value.hint.startswith("make room in /")


def test_a_full_disk(written: Journal) -> None:
    filled(written)
    written.path.unlink()
    written.path.symlink_to("/dev/full")
    check_told(lambda: written.add(FEATURES, RECEIPTS[0]), "No space left on device")


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = Journal(repo.ID, tmp_path / "file" / "journals")
    check_told(lambda: one.begin(None, []), "Not a directory")
    check_told(lambda: one.add(None, RECEIPTS[0]), "Not a directory")


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_only_its_owner_reads_it(written: Journal, mask: int) -> None:
    """Whatever the umask, and whatever a run that died has left."""
    with umask(mask):
        written.folder.mkdir(mode=0o700)
        written.path.with_suffix(".part").write_text("left")
        filled(written)
        Journal("new", written.folder.parent / "fresh").begin(None, [])
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o600
    assert stat.S_IMODE((written.folder.parent / "fresh").stat().st_mode) == 0o700


def test_a_line_cut_anywhere_is_as_if_never_written(written: Journal) -> None:
    data = filled(written).path.read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    for length in range(last, len(data)):
        written.path.write_bytes(data[:length])
        assert told(written) == RECEIPTS[: 5 if length == len(data) - 1 else 4]


@given(garbage=st.binary(max_size=60), after=st.integers(0, 5), cut=st.booleans())
def test_garbage_ends_the_journal(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, after: int, *, cut: bool
) -> None:
    """What stands before it counts, and nothing behind it."""
    one = filled(Journal(repo.ID, tmp_path_factory.mktemp("garbage")))
    lines = one.path.read_bytes().splitlines(keepends=True)
    bad = b"\xff" + garbage + (b"" if cut else b"\n")
    one.path.write_bytes(b"".join([*lines[:after], bad, *lines[after:]]))
    assert told(one) == RECEIPTS[:after]


@pytest.mark.parametrize(
    "line",
    [
        b"[]", b"{}", b"null", b'{"format":2,"id":"x"}', b'{"format":1,"number":-1}', b"\0" * 4096,
        b'{"format":1,"kind":"manifest"}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_lines_of_another_kind(written: Journal, line: bytes) -> None:
    data = filled(written).path.read_bytes()
    written.path.write_bytes(data + line + b"\n" + data)
    assert told(written) == RECEIPTS


def test_none_and_an_empty_one(written: Journal) -> None:
    assert not list(written.read())
    written.begin(None, [])
    assert written.path.read_bytes() == b""
    assert not list(written.read())


def test_one_that_cannot_be_read_is_told(written: Journal) -> None:
    written.path.mkdir(parents=True)
    with pytest.raises(OffsiteError, match="jsonl cannot be read: Is a directory"):
        list(written.read())


def test_it_goes_when_it_is_not_needed(written: Journal) -> None:
    filled(written).remove()
    assert list(written.folder.iterdir()) == []
    written.remove()


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Journal(repo.ID).path == tmp_path / "offsite" / "journals" / f"{repo.ID}.jsonl"
    assert journal.directory() == tmp_path / "offsite" / "journals"


def test_the_whole_hint_says_everything_once(tmp_path: Path) -> None:
    with whole.home(tmp_path / "home") as home:
        home.configure(ONE_REMOTE=str(tmp_path))
        home.snapshot("monday", repo.stream(77, [b"x" * 100]), guid=77)
        journal.directory().parent.mkdir(parents=True, exist_ok=True)
        journal.directory().write_text("no folder")
        ran = home.offsite("--backup", f"{whole.DATASET}@monday", "--quiet")
        where = journal.directory()
    assert ran.status == 1
    error, hint = ran.stderr.splitlines()[-2:]
    assert "cannot be written" in error
    assert hint == f"HINT: make room in {where}"  # and nothing is said to be kept
