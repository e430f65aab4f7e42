"""The whole command while a provider misbehaves: what the user is told, and what is stored.

The provider ``cloud`` is SeaweedFS behind a proxy that breaks things, ``disk`` a local folder.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lab.world import Ran, wait_for
from offsite import fetching, indexes, remote, sources
from offsite.remote import RcloneRemote
from offsite.repository import MANIFEST, chunk_name, index_name, object_path
from tests import repo, whole
from tests.storage.clients import SWIFT, connect, through
from tests.storage.proxy import Fault, Kind, Proxy
from tests.storage.servers import Server
from tests.test_remote_faults import BROKEN
from tests.thorough import few
from tests.whole import DATASET, TARGET, Home

pytest_plugins = ["tests.storage.fixtures"]

MIB = 1 << 20
STREAM = repo.stream(77, [repo.noise(6 * MIB)])  # seven chunks
CHUNKS = 7
POINT = f"{DATASET}@monday"
THIRD = b"chunk-00000003"
LAST = b"chunk-00000006"
GET, PUT = b"GET ", b"PUT "
IN_MID_BACKUP: list[tuple[Kind, str]] = [
    ("quota", "QuotaExceeded"),
    ("deny", "AccessDenied"),  # the credentials were revoked
    ("stall", "timeout|deadline|canceled"),
    ("skew", "RequestTimeTooSkewed"),  # the clock is wrong
    ("spoil", "the stored object differs: md5 "),
    ("half", "sizes differ"),
]


@dataclass(frozen=True)
class Site:
    """A home with two providers; ``raw`` reaches the cloud on a way without faults."""

    home: Home
    proxy: Proxy
    raw: RcloneRemote
    disk: Path

    def backup(self, *more: str) -> Ran:
        return self.bounded("--backup", POINT, "--json", *more)

    def restore(self, *more: str) -> Ran:
        return self.bounded("--restore", POINT, "--as", TARGET, "--json", *more)

    def bounded(self, *arguments: str) -> Ran:
        with repo.soon(3 * repo.LONG):
            return self.home.offsite(*arguments)

    def rows(self, *more: str) -> list[tuple[str, int, list[str]]]:
        """Status, percent and providers of all backups that are listed."""
        listed = self.home.offsite("--list", "--json", *more).json["backups"]
        return [(row["status"], row["percent"], row["providers"]) for row in listed]

    @property
    def kept(self) -> int:
        """How many chunks the journals tell of."""
        return sum(path.read_bytes().count(b"\n") for path in self.home.journals)

    def on_disk(self) -> dict[str, bytes]:
        files = (path for path in self.disk.rglob("*") if path.is_file())
        return {str(path.relative_to(self.disk)): path.read_bytes() for path in files}

    def in_cloud(self, backup_id: str) -> dict[str, bytes]:
        folder = f"offsite/backups/{backup_id}"
        names = [f"{folder}/{entry.name}" for entry in self.raw.list(folder)]
        return {name: self.raw.get(name, limit=2 * MIB) for name in ["offsite/FORMAT", *names]}

    def check_both_whole(self, backup_id: str) -> None:
        assert self.rows() == [("complete", 100, ["cloud", "disk"])]
        assert self.in_cloud(backup_id) == self.on_disk()
        assert self.restore("--provider", "cloud").status == 0
        assert self.home.received == STREAM

    def damage(self, backup_id: str, name: str) -> None:
        """One bit of an object is another one in the cloud, whose own hash is of that."""
        path = object_path(backup_id, name)
        body = bytearray(self.raw.get(path, limit=2 * MIB))
        body[len(body) // 2] ^= 1
        self.raw.put(path, bytes(body), {})


@contextmanager
def site(folder: Path, seaweed: Server) -> Iterator[Site]:
    place = f"{seaweed.remote}/{uuid.uuid4().hex}"
    disk = folder / "disk"
    with (
        Proxy(seaweed.port) as proxy,
        whole.home(folder / "home") as home,
        closing(connect(seaweed, place=place)) as raw,
    ):
        behind = through(proxy, seaweed, folder / "rclone.conf")
        home.configure(
            RCLONE_CONFIG_PATH=str(behind.conf),
            CLOUD_REMOTE=place,
            DISK_REMOTE=str(disk),
            SHARD_SIZE="1M",
            RCLONE_FLAGS="--low-level-retries=1",
        )
        home.snapshot("monday", STREAM, guid=77)
        yield Site(home, proxy, raw, disk)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tries and short pauses."""
    monkeypatch.setattr(remote, "Retry", lambda: SWIFT)
    monkeypatch.setattr(fetching, "Retry", lambda tries=SWIFT.tries: replace(SWIFT, tries=tries))
    monkeypatch.setattr(sources, "_ROUNDS", 3)
    monkeypatch.setattr(sources, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(sources, "_LONGEST_PAUSE", 0.05)


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """rclone gives up a silent provider after some seconds; a busy one is silent for one."""
    monkeypatch.setenv("RCLONE_FLAGS", "--timeout=3s --low-level-retries=1")


# --- backups --------------------------------------------------------------------------------------


@pytest.fixture
def new(tmp_path: Path, seaweed: Server) -> Iterator[Site]:
    with site(tmp_path, seaweed) as made:
        yield made


@pytest.mark.parametrize(("kind", "said"), few(IN_MID_BACKUP))
@pytest.mark.usefixtures("timeouts")
def test_one_of_two_providers_fails_in_mid_backup(new: Site, kind: Kind, said: str) -> None:
    """The other is complete and says so; the next run gives the first what it lacks."""
    new.proxy.fault = Fault(kind, PUT, path=THIRD)
    ran = new.backup()
    assert ran.status == 3
    done = ran.json["backup"]
    assert done["providers"] == ["disk"]
    assert list(done["failed"]) == ["cloud"]
    assert re.search(said, done["failed"]["cloud"]), done
    assert "cloud" in ran.stderr
    new.proxy.fault = None
    assert new.rows() == [("complete", 100, ["disk"])]
    ((status, percent, _),) = new.rows("--provider", "cloud")
    assert status == "unfinished"
    assert 0 < percent < 100

    before = new.on_disk()
    ran = new.backup()
    assert (ran.status, ran.json["backup"]["sent_bytes"]) == (0, 0)
    assert new.on_disk() == before
    new.check_both_whole(done["backup_id"])


@pytest.mark.parametrize(
    ("kind", "said", "hint"),
    [
        ("reset", BROKEN, "the same command goes on"),
        ("quota", "QuotaExceeded", "raise its quota"),
        ("deny", "AccessDenied", "check the provider's credentials"),
        ("skew", "RequestTimeTooSkewed", "the clock of this machine is wrong"),
    ],
)
def test_the_only_provider_refuses(new: Site, kind: Kind, said: str, hint: str) -> None:
    """In mid-backup: what is stored is kept, and the same command goes on."""
    new.proxy.fault = Fault(kind, PUT, path=LAST, first=lambda: wait_for(lambda: new.kept))
    ran = new.backup("--provider", "cloud")
    assert ran.status == 1
    assert re.search(said, ran.json["error"]), ran
    assert hint in ran.json["hint"]
    assert "the same command goes on" in ran.json["hint"]
    new.proxy.fault = None
    ((status, percent, holders),) = new.rows()
    assert (status, holders) == ("unfinished", ["cloud"])
    assert 0 < percent < 100
    assert new.restore().status == 2
    assert new.home.received is None
    (journal,) = new.home.journals
    kept = new.kept
    ran = new.backup()
    assert (ran.status, ran.json["backup"]["backup_id"]) == (0, journal.stem)
    assert ran.json["backup"]["resumed_chunks"] == kept
    new.check_both_whole(ran.json["backup"]["backup_id"])


def test_a_backup_stops_at_once_while_a_provider_hangs(new: Site) -> None:
    """Long before rclone gives that up; and goes on."""
    new.proxy.fault = Fault("stall", PUT, path=THIRD)

    default = signal.getsignal(signal.SIGTERM)

    def terminate() -> None:
        wait_for(lambda: new.proxy.struck)
        if signal.getsignal(signal.SIGTERM) is not default:  # else it would end us
            os.kill(os.getpid(), signal.SIGTERM)

    user = threading.Thread(target=terminate)
    user.start()
    try:
        with repo.soon(30):
            ran = new.home.offsite("--backup", POINT, "--json")
    finally:
        user.join()
    assert ran.status == 130, ran
    new.proxy.fault = None
    ran = new.backup()
    assert ran.status == 0, ran
    new.check_both_whole(ran.json["backup"]["backup_id"])


@pytest.mark.parametrize("kind", ["reset", "429", "half"])
def test_faults_that_pass_are_no_news_for_the_result(new: Site, kind: Kind) -> None:
    new.proxy.fault = Fault(kind, PUT, times=2)
    ran = new.backup()
    assert (ran.status, new.proxy.struck) == (0, 2)
    assert ran.json["backup"]["failed"] == {}
    new.check_both_whole(ran.json["backup"]["backup_id"])


@pytest.mark.parametrize("kind", ["500", "503"])
def test_trouble_while_a_resumed_run_looks_at_what_is_stored(
    new: Site, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, which has no journal. If it lasts, nothing is lost or stored anew."""
    monkeypatch.setattr(indexes, "RECEIPTS", 2)
    backup_id = new.backup("--provider", "cloud").json["backup"]["backup_id"]
    new.raw.delete(object_path(backup_id, MANIFEST))
    listed = new.rows()
    assert listed == [("unfinished", 99, ["cloud"])]

    new.proxy.fault = Fault(kind, GET, path=index_name(1).encode())
    ran = new.backup("--provider", "cloud")
    assert ran.status == 1, ran
    assert re.search(f"{index_name(1)} on cloud: .*({kind}|does not give it)", ran.json["error"])
    assert new.proxy.struck >= SWIFT.tries
    assert "what is stored is kept" in ran.json["hint"]
    new.proxy.fault = None
    assert new.rows() == listed

    new.proxy.fault = Fault(kind, GET, times=2, path=index_name(1).encode())
    ran = new.backup()
    assert (ran.status, ran.json["backup"]["backup_id"]) == (0, backup_id)
    assert ran.json["backup"]["resumed_chunks"] == CHUNKS
    new.check_both_whole(backup_id)


# --- restores -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, seaweed: Server) -> Iterator[Site]:
    """A site with a backup on both providers."""
    with site(tmp_path_factory.mktemp("site"), seaweed) as made:
        assert made.home.offsite("--backup", POINT).status == 0
        yield made


@dataclass(frozen=True)
class Object:
    """One object of the backup in the cloud."""

    site: Site
    backup_id: str
    name: str

    def damage(self) -> None:
        self.site.damage(self.backup_id, self.name)

    def cut(self, size: int) -> None:
        path = object_path(self.backup_id, self.name)
        self.site.raw.put(path, self.site.raw.get(path, limit=2 * MIB)[:size], {})

    def remove(self) -> None:
        self.site.raw.delete(object_path(self.backup_id, self.name))


@contextmanager
def harmed(stored: Site, name: str) -> Iterator[Object]:
    """All is as it was at the end."""
    (folder,) = (stored.disk / "offsite/backups").iterdir()
    path = object_path(folder.name, name)
    try:
        yield Object(stored, folder.name, name)
    finally:
        stored.raw.put(path, (folder / name).read_bytes(), {})


@pytest.fixture
def chunk(stored: Site) -> Iterator[Object]:
    with harmed(stored, chunk_name(3)) as made:
        yield made


@pytest.fixture
def index(stored: Site) -> Iterator[Object]:
    with harmed(stored, index_name(1)) as made:
        yield made


@pytest.fixture(autouse=True)
def no_fault(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "stored" in request.fixturenames:
        site: Site = request.getfixturevalue("stored")
        site.proxy.fault = None


def check_restored(stored: Site, ran: Ran, *told: str) -> dict[str, int]:
    """All of it, and what was wrong is told; the bytes that came from each provider."""
    assert ran.status == 0, ran
    assert stored.home.received == STREAM
    for each in told:
        assert re.search(each, ran.stderr), ran.stderr
    sizes: dict[str, int] = ran.json["restore"]["providers"]
    assert sum(sizes.values()) == ran.json["restore"]["stored_bytes"]
    return sizes


def check_refused(stored: Site, ran: Ran, told: str, chunks: int) -> None:
    """One clear line, and no byte reached zfs that was not verified."""
    assert ran.status == 1, ran
    assert re.search(told, ran.json["error"]), ran.json
    received = stored.home.received
    if chunks == 0:
        assert received is None
    elif received is not None:  # the failure may end zfs before it has opened a file
        assert len(received) <= chunks * MIB
        assert STREAM.startswith(received)


def test_a_restore_without_faults_takes_all_from_the_first(stored: Site) -> None:
    assert check_restored(stored, stored.restore())["disk"] == 0


def test_a_damaged_chunk_comes_from_the_other_provider(stored: Site, chunk: Object) -> None:
    chunk.damage()
    told = f"cloud failed at .*{chunk.name}.* is not the one that was stored.*going on with disk"
    sizes = check_restored(stored, stored.restore(), told)
    assert sizes["disk"] > 0


def test_a_damaged_chunk_on_the_only_provider(stored: Site, chunk: Object) -> None:
    chunk.damage()
    ran = stored.restore("--provider", "cloud")
    check_refused(stored, ran, f"{chunk.name} cannot be had: cloud: chunk 3 is not the one", 3)


def test_a_missing_chunk_comes_from_the_other_provider(stored: Site, chunk: Object) -> None:
    chunk.remove()
    sizes = check_restored(stored, stored.restore(), "cloud lacks 1 objects of this backup")
    assert sizes["cloud"] == 0  # the one that has all is asked first


def test_a_missing_chunk_on_the_only_provider(stored: Site, chunk: Object) -> None:
    """Told before the first byte moves."""
    chunk.remove()
    ran = stored.restore("--provider", "cloud")
    check_refused(stored, ran, f"gone or cut on cloud: {chunk.name}", 0)


def test_a_chunk_that_is_listed_but_never_given(stored: Site) -> None:
    stored.proxy.fault = Fault("404", GET, path=THIRD)
    told = "cloud failed at .*it is there, but the provider does not give it.*going on with disk"
    check_restored(stored, stored.restore(), told)
    ran = stored.restore("--provider", "cloud")
    check_refused(stored, ran, "the provider does not give it", 3)


@pytest.mark.parametrize("size", [0, MIB // 2])
def test_a_chunk_of_another_size(stored: Site, chunk: Object, size: int) -> None:
    """By the size that is listed; told before the first byte moves, if nobody else has it."""
    chunk.cut(size)
    sizes = check_restored(stored, stored.restore(), "cloud lacks 1 objects of this backup")
    assert sizes["cloud"] == 0
    ran = stored.restore("--provider", "cloud")
    check_refused(stored, ran, f"gone or cut on cloud: {chunk.name}", 0)


def test_a_damaged_index_comes_from_the_other_provider(stored: Site, index: Object) -> None:
    index.damage()
    check_restored(stored, stored.restore())
    ran = stored.restore("--provider", "cloud")
    check_refused(stored, ran, f"{index.name} cannot be had: cloud: ", 0)


@pytest.mark.parametrize("kind", ["flip", "truncate", "freeze"])
@pytest.mark.usefixtures("timeouts")
def test_answers_that_are_wrong_once_are_asked_for_again(stored: Site, kind: Kind) -> None:
    stored.proxy.fault = Fault(kind, GET, after=MIB // 2, times=1, path=THIRD)
    check_restored(stored, stored.restore("--provider", "cloud"))


def test_a_restore_on_a_bad_day(stored: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is cut within a chunk, one in twenty falls silent."""
    monkeypatch.setenv("RCLONE_FLAGS", "--timeout=1s --low-level-retries=1")
    stored.proxy.given, stored.proxy.fault = 0, Fault("bad day", GET, after=MIB // 5)
    check_restored(stored, stored.restore("--provider", "cloud"))
    assert stored.proxy.struck > 5 * CHUNKS
    assert stored.proxy.given < 1.05 * len(STREAM)


@pytest.mark.parametrize("kind", ["flip", "truncate", "freeze"])
@pytest.mark.usefixtures("timeouts")
def test_answers_that_are_always_wrong_come_from_the_other_provider(
    stored: Site, kind: Kind
) -> None:
    stored.proxy.fault = Fault(kind, GET, path=b"chunk-")
    sizes = check_restored(stored, stored.restore(), "cloud failed at .*; going on with disk")
    assert sizes["cloud"] == 0


@pytest.mark.parametrize(
    ("kind", "told"), [("flip", "is not the one that was stored"), ("truncate", "bytes early")]
)
def test_answers_that_are_always_wrong_on_the_only_provider(
    stored: Site, kind: Kind, told: str
) -> None:
    stored.proxy.fault = Fault(kind, GET, path=THIRD)
    check_refused(stored, stored.restore("--provider", "cloud"), f"cannot be had: .*{told}", 3)


@pytest.mark.soak
@pytest.mark.usefixtures("timeouts")
def test_the_only_provider_always_falls_silent(stored: Site) -> None:
    stored.proxy.fault = Fault("freeze", GET, path=THIRD)
    ran = stored.restore("--provider", "cloud")
    check_refused(stored, ran, f"{chunk_name(3)} cannot be had: cloud: cannot read", 3)


def test_a_provider_of_which_nothing_can_be_read(stored: Site) -> None:
    stored.proxy.fault = Fault("deny", GET)
    check_restored(stored, stored.restore(), "cloud cannot be read and is left out: .*AccessDenied")
    ran = stored.restore("--provider", "cloud")
    check_refused(stored, ran, "no provider can be read: .*AccessDenied", 0)
    ran = stored.home.offsite("--list", "--json")
    assert ran.status == 3
    assert list(ran.json["problems"]) == ["cloud"]
