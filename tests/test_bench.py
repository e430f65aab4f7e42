"""The benches: what their exit status means. What they measure is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import throughput
from bench.throughput import Run
from tests import repo


@pytest.mark.parametrize(("peer", "ours", "status"), [(13.1, 10.0, 0), (12.9, 10.0, 1)])
def test_throughput_fails_if_it_is_not_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: float, ours: float, status: int
) -> None:
    stream = tmp_path / "stream"
    stream.write_bytes(repo.stream(77, [repo.noise(5000)]))
    monkeypatch.setattr(throughput, "shell", lambda *_: Run(peer, peer, 1, 1))
    monkeypatch.setattr(throughput, "offsite", lambda *_: Run(ours, ours, 1, 1))
    assert throughput.main(["--stream", str(stream)]) == status


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
    monkeypatch.setattr(throughput, "shell", lambda *_: Run(1, 1, 1, 1))
    monkeypatch.setattr(throughput, "offsite", lambda *_: Run(1, 1, 1, 1))
    throughput.main([])
    monkeypatch.setattr(throughput, "SEND_FLAGS", ("-L", "-e"))
    throughput.main([])
    assert made[0] != made[1]
