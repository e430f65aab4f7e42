"""What the pool's history tells of a bookmark: is its moment still in the dataset's past?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from offsite.zfs import swaps
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs

# Of real pools: `zpool history -i` of 2.1.11 and 2.3.2, with what stands between these lines.
MARKED = """\
2026-11-26.12:20:34 [txg:17] snapshot p/d@s1 (114)  
2026-11-26.12:20:34 (50ms) ioctl bookmark
    input:
        p/d#bm: 'p/d@s1'

2026-11-26.12:20:34 zfs bookmark p/d@s1 p/d#bm
2026-11-26.12:20:34 [txg:18] bookmark p/d (81) name=bm creation_txg=17 target_snap=114 redact_obj=0
2026-11-26.12:20:35 [txg:19] destroy p/d@s1 (114)  
"""  # noqa: W291 - as zpool writes it
RECEIVED = """\
2026-11-26.12:20:36 [txg:20] receive {0}/%recv (123)  
2026-11-26.12:20:36 [txg:22] finish receiving {0}/%recv (123) snap=x
2026-11-26.12:20:36 [txg:22] clone swap {0}/%recv (123) parent=d
2026-11-26.12:20:36 [txg:22] snapshot {0}@x (133)  
2026-11-26.12:20:36 [txg:22] destroy {0}/%recv (123) (bptree, mintxg={1})
"""  # noqa: W291
ROLLED_BACK = """\
2026-11-26.12:20:42 [txg:34] clone swap p/d/%rollback (165) parent=d
2026-11-26.12:20:42 [txg:34] destroy p/d/%rollback (165) (bptree, mintxg=31)
"""
MOVED = """\
2026-11-26.12:20:42 [txg:35] create p/e/up (175)  
2026-11-26.12:20:43 [txg:37] rename p/d (81) -> p/e/up/my data
2026-11-26.12:20:44 [txg:40] rename p/e/up (175) -> p/UP
2026-11-26.12:20:44 [txg:41] rename p/UP/my data@s (81) -> @t
"""  # noqa: W291
CLONED = "2026-11-26.12:20:47 [txg:50] clone p/cl (207) origin=p/d@2 (201)\n"
BOOKMARK = Point("p/d#bm", 1, 17)


@pytest.fixture
def zfs(tmp_path: Path) -> Zfs:
    """A zfs with a zpool beside it, which writes what is in ``told``."""
    program = tmp_path / "zpool"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\nexec cat {tmp_path}/told\n')
    program.chmod(0o755)
    return Zfs((str(tmp_path / "zfs"),))


def is_past(zfs: Zfs, told: str, bookmark: Point = BOOKMARK, before: int = 99) -> bool | None:
    Path(zfs.command[0]).with_name("told").write_text(told)
    swaps._events.cache_clear()
    return swaps.is_past(zfs, bookmark, before)


def test_nothing_was_received_over_it(zfs: Zfs) -> None:
    assert is_past(zfs, MARKED) is True
    assert is_past(zfs, MARKED + RECEIVED.format("p/other", 12)) is True
    assert is_past(zfs, RECEIVED.format("p/d", 12) + MARKED) is True
    assert (Path(zfs.command[0]).with_name("calls")).read_text() == "history -i p\n" * 3


@pytest.mark.parametrize("to", [1, 12, 16])
def test_something_was_received_over_it(zfs: Zfs, to: int) -> None:
    """1: of a full stream."""
    assert is_past(zfs, MARKED + RECEIVED.format("p/d", to)) is False
    assert is_past(zfs, MARKED + RECEIVED.format("p/d", to) + ROLLED_BACK) is False


def test_what_came_on_top_of_it_does_not_matter(zfs: Zfs) -> None:
    assert is_past(zfs, MARKED + RECEIVED.format("p/d", 17) + ROLLED_BACK) is True


def test_a_swap_whose_base_is_not_told_is_not_trusted(zfs: Zfs) -> None:
    *lines, _ = RECEIVED.format("p/d", 17).splitlines(keepends=True)
    assert is_past(zfs, MARKED + "".join(lines)) is False


def test_other_names_that_it_had(zfs: Zfs) -> None:
    """Renamed, with its parent too; and a clone of it that was promoted, and has its bookmarks."""
    moved, clone = replace(BOOKMARK, full_name="p/UP/my data#bm"), "p/cl#bm"
    assert is_past(zfs, MARKED + MOVED, moved) is True
    assert is_past(zfs, MARKED + RECEIVED.format("p/d", 12) + MOVED, moved) is False
    assert is_past(zfs, MARKED + MOVED + RECEIVED.format("p/UP/my data", 12), moved) is False
    promoted = replace(BOOKMARK, full_name=clone)
    assert is_past(zfs, MARKED + CLONED, promoted) is True
    assert is_past(zfs, MARKED + CLONED + RECEIVED.format("p/d", 12), promoted) is True
    assert is_past(zfs, MARKED + CLONED + RECEIVED.format("p/cl", 12), promoted) is False


def test_what_the_log_does_not_tell(zfs: Zfs, tmp_path: Path) -> None:
    assert is_past(zfs, "") is None
    assert is_past(zfs, MARKED, replace(BOOKMARK, full_name="p/d#other")) is None
    copied = MARKED.replace("target_snap=114", "source_guid=1")  # of another bookmark: who knows?
    assert is_past(zfs, copied) is None
    assert is_past(zfs, MARKED, replace(BOOKMARK, createtxg=18)) is False
    (tmp_path / "zpool").write_text("#!/bin/sh\necho 'permission denied' >&2; exit 1")
    assert is_past(zfs, MARKED) is None
    assert swaps.is_past(Zfs(("/opt/my-wrapper",)), BOOKMARK, 99) is None


def test_a_log_is_read_once_for_all_datasets_of_a_moment(zfs: Zfs) -> None:
    is_past(zfs, MARKED)
    swaps.is_past(zfs, replace(BOOKMARK, full_name="p/d/child#bm"), 99)
    calls = Path(zfs.command[0]).with_name("calls")
    assert calls.read_text().count("history") == 1
    swaps.is_past(zfs, BOOKMARK, 100)
    assert calls.read_text().count("history") == 2


def test_a_long_log(zfs: Zfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a read, with lines across its bounds; and older than what is kept of it."""
    noise = RECEIVED.format("p/other", 12) * 3000
    assert is_past(zfs, MARKED + noise) is True
    monkeypatch.setattr(swaps, "_MOST", 5000)
    assert is_past(zfs, MARKED + noise) is None
