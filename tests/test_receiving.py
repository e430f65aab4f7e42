"""How a stream is handed to ``zfs receive``; whole restores are in tests/lab."""

from __future__ import annotations

from itertools import pairwise, product
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsite import landing, receiving
from offsite.errors import UsageError
from offsite.landing import Landing
from offsite.progress import Silent
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.records import HEADER_SIZE
from tests import repo

ROOT = Landing(Zfs(command=("/bin/false",)), "tank")
STREAM = bytes(range(256)) * 8


@given(st.lists(st.integers(0, len(STREAM)), max_size=20).map(sorted))
def test_a_pool_s_root_gets_the_end_of_its_stream_once_it_was_looked_at(cuts: list[int]) -> None:
    """However the stream is cut into pieces: all but the END record is there by then."""
    pieces = [memoryview(STREAM)[a:b] for a, b in pairwise([0, *cuts, len(STREAM)])]
    came, before = bytearray(), list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receiving, "_check_root", lambda _: before.append(len(came)))
        for piece in receiving._end_held_back(pieces, ROOT):
            came += piece
    assert (bytes(came), before) == (STREAM, [len(STREAM) - HEADER_SIZE])


PLACES = list(product(("tank", "tank/a"), (True, False), ((), (repo.snapshot("auto"),))))


@pytest.mark.parametrize(("dataset", "first", "snapshots"), PLACES)
def test_only_what_the_root_of_a_pool_begins_with_is_received_over_it(
    dataset: str,
    first: bool,  # noqa: FBT001
    snapshots: tuple[Snapshot, ...],
) -> None:
    """zfs receive -F; never for --update, which has snapshots, nor what is restored beside."""
    found = Landing(ROOT.zfs, dataset, exists=True, snapshots=snapshots)
    way = receiving._Way(
        found, Mock(), new=None, into_root=first, resumable=True, stop=Mock(), progress=Silent()
    )
    assert way.over_root == (dataset == "tank" and first and not snapshots)


def test_it_never_gets_it_if_something_was_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def written(_: Landing) -> None:
        raise UsageError("not empty any more")

    monkeypatch.setattr(receiving, "_check_root", written)
    pieces = receiving._end_held_back([memoryview(STREAM)], ROOT)
    assert len(next(pieces)) + len(next(pieces)) == len(STREAM) - HEADER_SIZE
    with pytest.raises(UsageError, match="not empty"):
        next(pieces)


def test_nor_if_a_snapshot_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sanoid and the like make one of everything that is there; it would be destroyed."""
    made = Landing(ROOT.zfs, "tank", exists=True, snapshots=(repo.snapshot("auto"),))
    monkeypatch.setattr(landing, "look", lambda *_: made)
    with pytest.raises(
        UsageError, match=f"{made.snapshots[0].full_name} was made meanwhile"
    ) as told:
        list(receiving._end_held_back([memoryview(STREAM)], ROOT))
    assert "zfs destroy" in str(told.value.hint)
