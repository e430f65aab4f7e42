"""The datasets of one run, some at a time: one that fails does not stop the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from offsite import member, saving
from offsite.catalog import Backup
from offsite.errors import OffsiteError, ProviderError
from offsite.idle import Idle
from offsite.member import Member
from offsite.ordered import crew_of
from offsite.pipeline import Engine, SealJob
from offsite.progress import Progress
from offsite.remote import Remote
from offsite.seal import Sealed
from offsite.storing import Result

_PATIENCE = 3  # datasets in which a provider may fail before it is left out of the others


@dataclass(frozen=True)
class Done:
    """The results, and what ended the members that failed; ``still`` is who told of whom."""

    results: list[Result]
    errors: dict[str, OffsiteError]
    still: Idle


@dataclass(frozen=True)
class Series:
    """``jobs`` at a time; ``failures``: in how many datasets each provider failed so far."""

    jobs: int
    backups: Sequence[Backup]
    remotes: Sequence[Remote]
    failed: Mapping[str, str]
    progress: Progress
    stop: threading.Event
    failures: Counter[str] = field(default_factory=Counter)

    def run(self, members: Sequence[Member], still: Idle, engine: Engine[SealJob, Sealed]) -> Done:
        """Back up all of the members that have changed.

        Where the one fails that was to tell of the others, one of those is stored in its place.
        """
        results: list[Result] = []
        errors: dict[str, OffsiteError] = {}
        left = list(members)
        while True:
            todo = [one for one in left if one.dataset.name not in still.unchanged]
            left = [one for one in left if one.dataset.name in still.unchanged]
            more, lost = self._all([still.telling(one) for one in todo], engine)
            results += more
            errors |= lost
            why = lost.get(still.teller or "")
            if why is None or isinstance(why, ProviderError) or not left:
                return Done(results, errors, still)
            still = still.told_by(left[0].dataset.name)

    def _all(
        self, members: Sequence[Member], engine: Engine[SealJob, Sealed]
    ) -> tuple[list[Result], dict[str, OffsiteError]]:
        """The results in the members' order."""
        engines = engine.parts(max(min(self.jobs, len(members)), 1))
        free = list(engines)
        results: list[Result] = []
        errors: dict[str, OffsiteError] = {}

        def work(one: Member) -> tuple[Result, ...] | OffsiteError:
            mine = free.pop()
            one = replace(one, in_flight=max(member.IN_FLIGHT // len(engines), 1))
            try:
                return self._back_up(one, mine)
            except OffsiteError as error:
                if self.stop.is_set():
                    raise
                one.progress.warning(f"{one.dataset.name} is not backed up: {error}")
                return error
            finally:
                free.append(mine)

        with crew_of(len(engines)) as crew:
            futures = [crew.submit(work, one) for one in members]
            for one, future in zip(members, futures, strict=True):
                done = future.result()
                if isinstance(done, OffsiteError):
                    errors[one.dataset.name] = done
                else:
                    results += done
        return results, errors

    def _back_up(self, one: Member, engine: Engine[SealJob, Sealed]) -> tuple[Result, ...]:
        one = replace(one, progress=self.progress.part(one.dataset.name))
        out = {name for name, count in self.failures.items() if count >= _PATIENCE}
        remotes = [remote for remote in self.remotes if remote.name not in out]
        failed = {**self.failed, **dict.fromkeys(out, "it failed several times before")}
        if not remotes:
            raise ProviderError("no provider is left to write to")
        try:
            results = saving.back_up(one, engine, self.backups, remotes, failed)
        except ProviderError:
            self.failures.update(remote.name for remote in remotes)
            raise
        for remote in remotes:
            failed_here = any(remote.name in result.failed for result in results)
            self.failures[remote.name] = self.failures[remote.name] + 1 if failed_here else 0
        return results
