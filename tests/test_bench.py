"""The benches: what their exit status means. What they measure is theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import resume, throughput
from bench.throughput import OURS, PEER, Contender, Run, Runs
from tests import repo


@pytest.mark.parametrize(("peer", "ours", "status"), [(13.1, 10.0, 0), (12.9, 10.0, 1)])
def test_throughput_fails_if_it_is_not_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: float, ours: float, status: int
) -> None:
    stream = tmp_path / "stream"
    stream.write_bytes(repo.stream(77, [repo.noise(5000)]))
    enact(monkeypatch, {("backup", PEER): peer, ("restore", PEER): 5, ("backup", OURS): ours})
    assert throughput.main(["--stream", str(stream)]) == status
    enact(monkeypatch, {("backup", PEER): 20, ("restore", PEER): 4.9, ("backup", OURS): 10})
    assert throughput.main(["--stream", str(stream)]) == 1


@pytest.mark.parametrize(
    ("ours", "spent", "told"),
    [
        (Run(5, 12.9, 1000, 1), 0.64, ""),
        (Run(5, 13.1, 1000, 1), 0.01, "backup takes more processor time"),
        (Run(5, 12.9, 1001, 1), 0.01, "backup stores more"),
        (Run(5, 12.9, 1000, 1), 0.65, "following the records takes too much"),
    ],
)
def test_throughput_fails_if_it_is_dearer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ours: Run,
    spent: float,
    told: str,
) -> None:
    """By the medians of all rounds, of the backup."""
    stream = tmp_path / "stream"
    stream.write_bytes(repo.stream(77, [repo.noise(5000)]))
    enact(monkeypatch, {("backup", PEER): 13})
    medians = {("backup", OURS): ours, ("backup", PEER): Run(13, 13, 1000, 1)}
    rounds = iter([0, 1, -1])

    def compete(contender: Contender, _: Path, runs: Runs) -> None:
        by = next(rounds) if contender.name == OURS else 0
        for what in ("backup", "restore"):
            one = medians.get((what, contender.name), Run(5, 5, 1, 1))
            other = replace(one, processor=one.processor + by, stored=one.stored + by)
            runs.setdefault((what, contender.name), []).append(other)

    monkeypatch.setattr(throughput, "compete", compete)
    monkeypatch.setattr(throughput, "following", lambda _: spent)
    assert throughput.main(["--stream", str(stream)]) == bool(told)
    faults = [line for line in capsys.readouterr().out.splitlines() if "NOT AS" in line]
    assert faults == ([f"NOT AS IT SHALL BE: {told}"] if told else [])


def enact(monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[str, str], float]) -> None:
    """Let each take so long, 5 seconds where nothing is said."""

    def compete(contender: Contender, stream: Path, runs: Runs) -> None:
        for what in ("backup", "restore"):
            took = seconds.get((what, contender.name), 5)
            runs.setdefault((what, contender.name), []).append(Run(took, took, 1, 1))

    monkeypatch.setattr(throughput, "compete", compete)
    for maker, name in (("shell", PEER), ("offsite", OURS)):
        made = Contender(name, {}, {}, Path())
        monkeypatch.setattr(throughput, maker, lambda *_, made=made: made)


def test_a_stream_of_other_flags_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(path: Path) -> Path:
        made.append(path)
        path.write_bytes(repo.stream(77, [b"x"]))
        return path

    monkeypatch.setattr(throughput, "make_stream", make)
    monkeypatch.setattr(throughput, "root", lambda: tmp_path)
    enact(monkeypatch, {})
    throughput.main([])
    monkeypatch.setattr(throughput, "SEND_FLAGS", ("-L", "-e"))
    throughput.main([])
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ((0.5, 1.6, 0.5, 5.1), []),
        ((0.5, 1.6, 1.25, 5.1), []),
        ((0.5, 1.6, 1.3, 5.1), ["the token's time grows: 2.6 times"]),
        ((0.5, 1.6, 0.5, 0.5), ["re-send is not slower"]),
    ],
)
def test_resume_fails_if_it_is_not_flat_against_linear(
    seconds: tuple[float, ...], told: list[str]
) -> None:
    """Without the start-up, by the medians: four times the stream, so 2.5 times is the most."""
    cases = [(size, engine) for size in (16, 64) for engine in resume.ENGINES]
    rows = [
        resume.Row(
            size,
            engine,
            [resume.Run(started, started + after * by, 1, 8, 10) for started, by in TRIED],
        )
        for (size, engine), after in zip(cases, seconds, strict=True)
    ]
    assert resume.amiss(rows) == told


TRIED = ((1.0, 1.0), (9.0, 0.1), (2.0, 9.0))  # a start-up, and what "after" is multiplied by
