"""A Remote that keeps its objects in a dictionary: the contract at its plainest."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Mapping

from offsite.errors import ProviderError
from offsite.remote import Entry


class MemoryRemote:
    """``objects`` maps paths to bytes and may be read and changed by a test at will."""

    def __init__(self, name: str = "memory", hash_kind: str | None = "sha256") -> None:
        self.name = name
        self.hash_kind = hash_kind
        self.hash_kinds = () if hash_kind is None else (hash_kind,)
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        stored = bytes(body)
        if self.hash_kind is not None and self.hash_kind in digests:
            told = hashlib.new(self.hash_kind, stored, usedforsecurity=False).hexdigest()
            if told != digests[self.hash_kind]:
                raise ProviderError(f"cannot store {path} on {self.name}: the object differs")
        with self._lock:
            self.objects[_checked(path)] = stored

    def get_into(self, path: str, into: memoryview) -> int:
        body = self.get(path, limit=len(into))
        into[: len(body)] = body
        return len(body)

    def get(self, path: str, *, limit: int) -> bytes:
        body = self.objects.get(_checked(path))
        if body is None:
            raise ProviderError(f"cannot read {path} on {self.name}: it is not there")
        if len(body) > limit:
            raise ProviderError(f"cannot read {path} on {self.name}: {len(body)} bytes are stored")
        return body

    def get_part(self, path: str, offset: int, into: memoryview) -> None:
        part = self.get(path, limit=sys.maxsize)[offset : offset + len(into)]
        if len(part) < len(into):
            raise ProviderError(f"cannot read {path} on {self.name}: it ends early")
        into[:] = part

    def sample(self, path: str, seconds: float) -> int:
        return len(self.objects.get(_checked(path), b"")) if seconds > 0 else 0

    def stat(self, path: str) -> Entry | None:
        body = self.objects.get(_checked(path))
        name = path.rpartition("/")[2]
        return None if body is None else Entry(name=name, size=len(body), is_dir=False)

    def holds(self, path: str, size: int, digests: Mapping[str, str]) -> bool:
        body = self.objects.get(_checked(path))
        if body is None or len(body) != size:
            return False
        kind = self.hash_kind
        told = hashlib.new(kind, body, usedforsecurity=False).hexdigest() if kind else None
        return kind is not None and digests.get(kind) == told

    def list(self, folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:  # noqa: ARG002
        prefix = f"{folder}/" if folder else ""
        with self._lock:
            below = {
                path.removeprefix(prefix): len(body)
                for path, body in self.objects.items()
                if path.startswith(prefix)
            }
        if dirs:
            names = {rest.partition("/")[0] for rest in below if "/" in rest}
            return [Entry(name=name, size=0, is_dir=True) for name in sorted(names)]
        return [Entry(rest, size, is_dir=False) for rest, size in below.items() if "/" not in rest]

    def delete(self, path: str) -> None:
        with self._lock:
            self.objects.pop(_checked(path), None)

    def share(self, *_: object) -> MemoryRemote:
        return self

    def close(self) -> None:
        """Nothing to let go of."""


def _checked(path: str) -> str:
    if not all(part not in {"", ".", ".."} for part in path.split("/")):
        raise ProviderError(f"{path!r} is not a path for an object")
    return path
