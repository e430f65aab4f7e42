"""Receipts on their way into the repository: written as the backup goes, not at its end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from offsite import repository
from offsite.journal import Journal
from offsite.manifest import FORMAT_VERSION, Head, Index, IndexRef, Receipt
from offsite.mirror import Mirror
from offsite.repository import Author

# If the machine is lost, so is what was stored since the last index: at most so many chunks, or
# this part of all of them (100 TB would have 190,000 indexes), and those in flight; at most so many
# seconds and the time of one chunk.
SECONDS = 60.0
RECEIPTS = 16
_PART = 1000
_MOST = 1024  # receipts in an index: 0.7 MB


@dataclass
class IndexWriter:
    """Collects receipts in order; each goes to the journal, every few of them into an index.

    ``features`` are the stream's, once it began; ``last`` the receipt that came last.
    """

    mirror: Mirror
    author: Author
    head: Head
    journal: Journal
    references: list[IndexRef] = field(default_factory=list)
    features: int | None = None
    last: Receipt | None = None
    chunks: int = 0
    stream_bytes: int = 0
    stored_bytes: int = 0
    _pending: list[Receipt] = field(default_factory=list)
    _written: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Write index 0: the head, no receipts. From now on the backup is listed as unfinished."""
        self._write(Index(format=FORMAT_VERSION, id=self.head.id, number=0, head=self.head))
        self.journal.begin(None, [])  # not before: no run would ever find it

    def go_on(
        self, references: Sequence[IndexRef], receipts: Sequence[Receipt], kept: Sequence[Receipt]
    ) -> None:
        """Go on with a backup that has ``receipts``, of which ``kept`` (a prefix) stay.

        The last of ``kept`` may differ. ``references`` are indexes of the first of the receipts;
        those stay that tell of nothing else than the first of ``kept``. The rest of it, never
        nothing, is written anew, at once, so that no index that may stand behind follows any more:
        before a chunk is stored again whose receipt stands there.
        """
        if not kept:
            self.references = []
            self.chunks = self.stream_bytes = self.stored_bytes = 0
            self.begin()
            return
        same = sum(old == new for old, new in zip(receipts, kept, strict=False))
        self.references, covered = list(references[:1]), 0
        for reference in references[1:]:
            if covered + reference.chunks > min(same, len(kept) - 1):
                break
            self.references.append(reference)
            covered += reference.chunks
        self.journal.begin(self.features, kept)
        self.chunks = covered
        self.stream_bytes = sum(receipt.length for receipt in kept[:covered])
        self.stored_bytes = sum(receipt.size for receipt in kept[:covered])
        for receipt in kept[covered:]:
            self._take(receipt)
        self.flush()

    def add(self, receipt: Receipt) -> None:
        """Take the next receipt; write an index if it is time."""
        self.journal.add(self.features, receipt)
        self._take(receipt)
        late = time.monotonic() - self._written > SECONDS
        if late or len(self._pending) >= max(RECEIPTS, min(self.chunks // _PART, _MOST)):
            self.flush()

    def flush(self) -> None:
        """Write what is pending, if anything."""
        if self._pending:
            number, pending = len(self.references), self._pending
            self._pending = []
            index = Index(
                format=FORMAT_VERSION,
                id=self.head.id,
                number=number,
                features=self.features,
                previous=self.references[-1].sha256,
                receipts=pending,
            )
            self._write(index)

    def _take(self, receipt: Receipt) -> None:
        self._pending.append(receipt)
        self.last = receipt
        self.chunks += 1
        self.stream_bytes += receipt.length
        self.stored_bytes += receipt.size

    def _write(self, index: Index) -> None:
        name = repository.index_name(index.number)
        sealed = repository.seal_document(index, self.author)
        self.mirror.put_document(repository.object_path(self.head.id, name), sealed)
        digest = hashlib.sha256(sealed).hexdigest()
        self.references.append(IndexRef(name, len(sealed), digest, len(index.receipts)))
        self._written = time.monotonic()
