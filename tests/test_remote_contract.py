"""What every Remote must do, tried on real servers and on the one in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import xxhash

from offsite.digests import cheapest
from offsite.errors import ProviderError
from offsite.remote import Entry, Remote
from tests import repo, whole
from tests.storage.clients import connect
from tests.storage.memory import MemoryRemote
from tests.storage.servers import Server

pytest_plugins = ["tests.storage.fixtures"]

MIB = 1 << 20
KINDS = [
    *("memory", "local_store", "seaweed", "sftp"),
    *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("azurite", "gcs", "sftp_shell")),
]
STREAM = repo.stream(77, [repo.noise(MIB, number) for number in range(5)])


@pytest.fixture(scope="module", params=KINDS)
def remote(request: pytest.FixtureRequest) -> Iterator[Remote]:
    if request.param == "memory":
        yield MemoryRemote()
        return
    server: Server = request.getfixturevalue(request.param)
    connected = connect(server)
    yield connected
    connected.close()


def digests(body: bytes | memoryview) -> dict[str, str]:
    told = {
        kind: hashlib.new(kind, body, usedforsecurity=False).hexdigest()
        for kind in ("sha256", "sha1", "md5")
    }
    return {**told, "xxh128": xxhash.xxh3_128_hexdigest(body)}


def put(remote: Remote, path: str, body: bytes) -> None:
    remote.put(path, body, digests(body))


@pytest.mark.parametrize("size", [0, 1, 65_537, 9 * MIB])
def test_what_was_put_comes_back(remote: Remote, size: int) -> None:
    body, path = os.urandom(size), f"sizes/object-{size}"
    put(remote, path, body)
    into = memoryview(bytearray(size + 7))
    assert remote.get_into(path, into) == size
    assert into[:size] == body
    assert remote.get_into(path, into[:size]) == size
    assert remote.get(path, limit=size) == body
    assert remote.stat(path) == Entry(name=f"object-{size}", size=size, is_dir=False)


def test_parts_of_an_object(remote: Remote) -> None:
    body, path = os.urandom(3 * MIB), "tank_photos/tank_photos:auto-1-s001.zfs.gz.age"
    put(remote, path, body)
    for offset, length in [(0, 3 * MIB), (0, 1), (MIB - 1, MIB + 2), (3 * MIB - 1, 1)]:
        into = memoryview(bytearray(length))
        remote.get_part(path, offset, into)
        assert into == body[offset : offset + length]
    for other, offset in [(path, 3 * MIB - 1), (path, 4 * MIB), ("no/such/object", 0)]:
        with pytest.raises(ProviderError, match="cannot read"):
            remote.get_part(other, offset, memoryview(bytearray(2)))
    assert remote.get(path, limit=3 * MIB) == body


def test_a_sample_is_what_comes_in_time(remote: Remote) -> None:
    put(remote, "samples/one", os.urandom(3 * MIB))
    assert remote.sample("samples/one", 60) == 3 * MIB
    assert remote.sample("samples/none", 60) == 0
    assert remote.sample("samples/one", 0) < 3 * MIB
    assert remote.get("samples/one", limit=3 * MIB)


def test_a_slice_of_a_larger_buffer_is_stored_as_is(remote: Remote) -> None:
    buffer = memoryview(bytearray(os.urandom(3 * MIB)))
    part = buffer[MIB : 2 * MIB]
    remote.put("slice", part, digests(part))
    assert remote.get("slice", limit=MIB) == part


def test_a_second_put_replaces_the_first(remote: Remote) -> None:
    put(remote, "twice", b"a longer first object")
    put(remote, "twice", b"second")
    assert remote.get("twice", limit=100) == b"second"


def test_an_object_larger_than_the_buffer_is_an_error(remote: Remote) -> None:
    put(remote, "large", b"x" * 100_000)
    with pytest.raises(ProviderError, match="100000"):
        remote.get("large", limit=99_999)
    into = memoryview(bytearray(99_999))
    with pytest.raises(ProviderError, match="100000"):
        remote.get_into("large", into)
    assert remote.get("large", limit=100_000) == b"x" * 100_000  # and nothing is stuck


def test_a_missing_object(remote: Remote) -> None:
    assert remote.stat("no/such/object") is None
    remote.delete("no/such/object")
    with pytest.raises(ProviderError, match="no/such/object"):
        remote.get("no/such/object", limit=10)
    with pytest.raises(ProviderError, match="no/such/object"):
        remote.get_into("no/such/object", memoryview(bytearray(10)))


def test_delete(remote: Remote) -> None:
    put(remote, "gone/soon", b"x")
    remote.delete("gone/soon")
    assert remote.stat("gone/soon") is None
    assert remote.list("gone") == []


def test_list_is_one_level_of_names(remote: Remote) -> None:
    for path in ("top/a", "top/b", "top/deep/c", "top/deep/deeper/d"):
        put(remote, path, b"12345")
    assert sorted(remote.list("top"), key=lambda entry: entry.name) == [
        Entry(name="a", size=5, is_dir=False),
        Entry(name="b", size=5, is_dir=False),
    ]
    assert remote.list("top", dirs=True) == [Entry(name="deep", size=0, is_dir=True)]
    assert "top" in [entry.name for entry in remote.list("", dirs=True)]
    assert remote.list("no/such/folder") == []
    assert remote.list("no/such/folder", dirs=True) == []


def test_names_are_taken_as_they_are(remote: Remote) -> None:
    names = [
        "a b",
        "50%",
        "100%25",
        "ü",
        "q?x=1",
        "h#1",
        "semi;colon",
        "plus+",
        "quote'\"",
        "-dash",
    ]
    for name in names:
        put(remote, f"odd/{name}", name.encode())
    assert sorted(entry.name for entry in remote.list("odd")) == sorted(names)
    for name in names:
        assert remote.get(f"odd/{name}", limit=100) == name.encode()


@pytest.mark.parametrize("path", ["", "/a", "a//b", "../a", "a/../../b", "a/.", "a/"])
def test_paths_that_lead_elsewhere_are_refused(remote: Remote, path: str) -> None:
    with pytest.raises(ProviderError, match="is not a path for an object"):
        remote.put(path, b"x", {})
    with pytest.raises(ProviderError, match="is not a path for an object"):
        remote.get(path, limit=10)


def test_many_threads_at_once(remote: Remote) -> None:
    bodies = {f"many/{number:03}": os.urandom(200_000 + number) for number in range(40)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda path: put(remote, path, bodies[path]), bodies))
        read = pool.map(lambda path: remote.get(path, limit=MIB), bodies)
        assert list(read) == list(bodies.values())
    assert len(remote.list("many")) == len(bodies)


def test_a_wrong_digest_is_a_failed_upload(remote: Remote) -> None:
    if not remote.hash_kinds:  # only the size can be compared
        remote.put("wrong", b"what is stored", digests(b"what was meant"))
        return
    with pytest.raises(ProviderError, match="differs"):
        remote.put("wrong", b"what is stored", digests(b"what was meant"))
    assert remote.stat("wrong") is None


def test_the_hashes_a_provider_tells_of(local_store: Server, seaweed: Server, sftp: Server) -> None:
    every = ("xxh128", "sha256", "md5", "sha1")
    for server, kinds in ((local_store, every), (seaweed, ("md5",)), (sftp, ())):
        remote = connect(server)
        assert remote.hash_kinds == kinds
        remote.close()


@pytest.mark.soak
def test_the_hashes_that_the_other_machine_computes(sftp_shell: Server) -> None:
    """As rclone finds out by itself where ssh gives a shell: most NAS and servers do."""
    with closing(connect(sftp_shell)) as remote:
        assert {"md5", "sha1"} <= {*remote.hash_kinds}
        body, path = b"what is stored", "it's a name; $(false)"
        kind = cheapest(remote.hash_kinds, digests(body))
        assert kind
        remote.put(path, body, digests(body))
        assert remote.holds(path, len(body), digests(body))
        assert not remote.holds(path, len(body), digests(b"what was meant"))
        with pytest.raises(ProviderError, match=f"differs: {kind} "):
            remote.put(path, body, digests(b"what was meant"))


@pytest.mark.parametrize("kind", ["xxh128", "sha256", "md5", "sha1"])
def test_each_hash_is_compared(local_store: Server, kind: str) -> None:
    remote = connect(local_store)
    body, path = b"what is stored", f"hashes/{kind}"
    right, wrong = ({kind: digests(one)[kind]} for one in (body, b"what was meant"))
    remote.put(path, body, right)
    assert remote.holds(path, len(body), right)
    assert not remote.holds(path, len(body), wrong)
    with pytest.raises(ProviderError, match=f"differs: {kind}"):
        remote.put(path, body, wrong)
    remote.close()


def test_a_folder_of_ten_thousand(local_store: Server) -> None:
    remote = connect(local_store)
    put(remote, "big/first", b"1")
    (folder,) = Path(local_store.remote).glob("*/big")
    for number in range(9_999):
        (folder / f"chunk-{number:08}").touch()
    entries = remote.list("big")
    assert len({entry.name for entry in entries}) == 10_000
    assert remote.list("big", dirs=True) == []
    remote.close()


@pytest.mark.parametrize("kind", KINDS[2:])
def test_whole_commands(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """A backup, the list, a restore; and no temporary file is left behind."""
    server: Server = request.getfixturevalue(kind)
    with whole.home(tmp_path / "home") as home, pytest.MonkeyPatch.context() as patch:
        (tmp_path / "temporary").mkdir()
        patch.setenv("TMPDIR", str(tmp_path / "temporary"))
        home.snapshot("monday", STREAM, guid=77)
        home.configure(
            STORE_REMOTE=f"{server.remote}/whole",
            RCLONE_CONFIG_PATH=str(server.conf),
            SHARD_SIZE="1M",
        )
        done = home.offsite("--backup", f"{whole.DATASET}@monday", "--json").json["backup"]
        assert (done["providers"], done["stream_bytes"]) == (["store"], len(STREAM))
        (row,) = home.offsite("--list", "--json").json["backups"]
        assert (row["status"], row["stored_bytes"]) == ("complete", done["stored_bytes"])
        home.offsite("--restore", f"{whole.DATASET}@monday", "--as", whole.TARGET)
        assert home.received == STREAM
        assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
