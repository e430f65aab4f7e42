"""A machine that dies between two changes of what outlives it: objects stored, the journal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from offsite import connect
from offsite.config import Config, Provider
from offsite.errors import ProviderError
from offsite.journal import Journal
from offsite.remote import Entry, Remote


class Killed(BaseException):
    """As by SIGKILL: nobody's handler counts, and nothing that follows happens."""


class World:
    """What there is, on each of the ``stores``. The machine dies instead of its change ``end``.

    With ``torn`` that share of the object that was to be stored is there. Every object reaches the
    provider ``leader`` first. Those that are ``down`` cannot be reached.
    """

    def __init__(self, stores: Sequence[Remote]) -> None:
        self.stores = {store.name: store for store in stores}
        self.leader = stores[0].name
        self.down: set[str] = set()
        self.changes: list[str] = []
        self.dead = False
        self.end: int | None = None
        self.torn: float | None = None
        self._turn = threading.Condition()

    def live(self, end: int | None = None, torn: float | None = None) -> None:
        """A new machine, to die at the change ``end``, counted from now."""
        self.changes, self.dead, self.end, self.torn = [], False, end, torn

    def change(
        self, what: str, do: Callable[[], object], tear: Callable[[float], object] | None = None
    ) -> None:
        """Do it, unless it is the last thing that the machine tries."""
        with self._turn:
            self.check_alive()
            if len(self.changes) == self.end:
                self.dead = True
                self._turn.notify_all()
                if self.torn is not None and tear is not None:
                    tear(self.torn)
                raise Killed
            do()
            self.changes.append(what)
            self._turn.notify_all()

    def check_alive(self) -> None:
        if self.dead:
            raise Killed

    def await_leader(self, name: str, path: str) -> None:
        """Let the leader have the object first."""
        with self._turn:
            while name != self.leader and self.stores[self.leader].stat(path) is None:
                self.check_alive()
                self._turn.wait(timeout=10)


@dataclass(frozen=True)
class Wire:
    """The Remote that leads to a store, as long as the machine lives."""

    world: World
    store: Remote

    @property
    def name(self) -> str:
        return self.store.name

    @property
    def hash_kinds(self) -> Collection[str]:
        return self.store.hash_kinds

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        self.world.await_leader(self.name, path)
        whole = bytes(body)
        self.world.change(
            f"{self.name}: {path.rpartition('/')[2]}",
            lambda: self.store.put(path, whole, digests),
            lambda share: self.store.put(path, whole[: int(share * len(whole))], {}),
        )

    def delete(self, path: str) -> None:
        what = f"{self.name}: {path.rpartition('/')[2]} deleted"
        self.world.change(what, lambda: self.store.delete(path))

    def get_into(self, path: str, into: memoryview) -> int:
        self.world.check_alive()
        return self.store.get_into(path, into)

    def get(self, path: str, *, limit: int) -> bytes:
        self.world.check_alive()
        return self.store.get(path, limit=limit)

    def get_part(self, path: str, offset: int, into: memoryview) -> None:
        self.world.check_alive()
        self.store.get_part(path, offset, into)

    def sample(self, path: str, seconds: float) -> int:
        self.world.check_alive()
        return self.store.sample(path, seconds)

    def stat(self, path: str) -> Entry | None:
        self.world.check_alive()
        return self.store.stat(path)

    def holds(self, path: str, size: int, digests: Mapping[str, str]) -> bool:
        self.world.check_alive()
        return self.store.holds(path, size, digests)

    def list(self, folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:
        self.world.check_alive()
        return self.store.list(folder, dirs=dirs, expected=expected)

    def share(self, *_: object) -> Wire:
        return self

    def close(self) -> None:
        """The store outlives the machine."""


@contextmanager
def in_world(world: World) -> Iterator[None]:
    """Every command finds these stores for its providers, and writes its journal here."""

    @contextmanager
    def remotes(
        _config: Config, providers: Sequence[Provider], *_: object
    ) -> Iterator[tuple[list[Remote], dict[str, str]]]:
        names = [provider.name for provider in providers]
        up = [Wire(world, world.stores[name]) for name in names if name not in world.down]
        if not up:
            raise ProviderError("no provider can be reached")
        yield [*up], dict.fromkeys(world.down & {*names}, "it cannot be reached")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connect, "remotes", remotes)
        for name in ("begin", "add", "sign", "remove"):
            patch.setattr(Journal, name, _changing(world, name))
        yield


def _changing(world: World, name: str) -> Callable[..., None]:
    """The method of Journal, as a change of the world."""
    real = getattr(Journal, name)

    def method(journal: Journal, *arguments: Any) -> None:
        world.change(f"journal: {name}", lambda: real(journal, *arguments))

    return method
