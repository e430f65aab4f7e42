"""What people see: live on a real pseudo-terminal, as a log file, or not at all."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from offsite import console, figures, log
from offsite.console import Display, Output, display, logfile
from offsite.console import terminal as terminal_module
from offsite.console.logfile import Lines
from offsite.console.streams import Screen
from offsite.console.tally import Tally
from offsite.console.terminal import Terminal, draw, movement, position
from offsite.progress import ChunkDone, Plan, Progress

MIB = 1 << 20
PLAN = Plan("backup", "tank/photos", "auto-20251123", 480 * MIB, 15, ("bb", "scaleway"))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (480 * MIB, "480 MiB"),
        (1000 * MIB, "0.98 GiB"),
        (12345678901, "11.5 GiB"),
        (10 * MIB, "10 MiB"),
        (1 << 70, "1048576 PiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert figures.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
        (86400, "1 d"),
        (-3, "0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


def test_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert figures.local_time("2025-11-23T20:00:00Z") == "2025-11-24 05:00"
        assert figures.local_time("") == ""
        assert figures.local_time("soon") == "soon"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_text_of_unknown_origin_cannot_drive_the_terminal() -> None:
    assert figures.printable("a\x1b[2Jb\rc\nd é") == "a?[2Jb?c?d é"


def some(tally: Tally, chunks: int, *, start: float = 0.0, step: float = 1.0) -> Tally:
    for number in range(chunks):
        tally.add(ChunkDone(number, 32 * MIB, 16 * MIB), start + step * (number + 1))
    return tally


def test_tally() -> None:
    tally = some(Tally(PLAN, 0.0), 3)
    assert position(tally) == "chunk 3 of ~15"
    assert tally.rate(3.0) == 32 * MIB
    assert tally.fraction() == pytest.approx(0.2)
    assert movement(tally, 3.0) == ("96 MiB of ~480 MiB, 32 MiB/s, ratio 2.0 : 1, about 12 s left")


def test_a_stalled_stream_is_seen_and_old_speed_forgotten() -> None:
    tally = some(Tally(PLAN, 0.0), 3)
    assert tally.rate(60.0) < 2 * MIB
    tally.add(ChunkDone(3, 32 * MIB, 16 * MIB), 100.0)
    tally.add(ChunkDone(4, 32 * MIB, 16 * MIB), 110.0)
    assert tally.rate(110.0) < 2 * MIB


def test_an_estimate_that_was_too_small() -> None:
    tally = some(Tally(PLAN, 0.0), 17)
    assert position(tally) == "chunk 17 of ~17"
    assert tally.fraction() == 0.99
    assert tally.seconds_left(17.0) is None


def test_no_estimate() -> None:
    tally = some(Tally(Plan("restore", "a/b", "c", 0, 0, ("bb",)), 0.0), 2)
    assert position(tally) == "chunk 2"
    assert tally.fraction() is None
    assert movement(tally, 2.0) == "64 MiB, 32 MiB/s, ratio 2.0 : 1"
    assert movement(Tally(tally.plan, 0.0), 0.0) == "0 B, 0 B/s"


def test_the_block() -> None:
    tally = some(Tally(PLAN, 0.0), 3)
    tally.provider("bb").stored = 48 * MIB
    tally.provider("bb").retries = 2
    tally.provider("scaleway").dropped = "quota \x1b[31mexceeded"
    screen = Console(file=io.StringIO(), width=90)
    screen.print(draw(tally, 3.0))
    assert isinstance(screen.file, io.StringIO)
    lines = [line.rstrip() for line in screen.file.getvalue().splitlines()]
    assert lines[0] == "Backing up tank/photos@auto-20251123"
    assert lines[1].endswith("20%  chunk 3 of ~15")
    assert lines[2] == "  96 MiB of ~480 MiB, 32 MiB/s, ratio 2.0 : 1, about 12 s left"
    assert lines[3] == "  bb        48 MiB stored  2 retries"
    assert lines[4] == "  scaleway     0 B stored  left out: quota ?[31mexceeded"


@pytest.mark.parametrize("width", [80, 120])
def test_the_block_of_a_long_name_and_a_long_trouble(width: int) -> None:
    """The name takes the lines that it takes; all else stays where it was."""
    name = f"tank/{'n' * 195}"
    tally = some(Tally(replace(PLAN, dataset=name), 0.0), 3)
    tally.provider("bb").stored = 48 * MIB
    tally.provider("scaleway").dropped = "no route to host, " * 20
    screen = Console(file=io.StringIO(), width=width)
    screen.print(draw(tally, 3.0))
    assert isinstance(screen.file, io.StringIO)
    lines = [line.rstrip() for line in screen.file.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    title, rest = "".join(lines[:-4]), lines[-4:]
    assert title.replace(" ", "") == f"Backingup{name}@auto-20251123"
    assert rest[0].endswith("20%  chunk 3 of ~15")
    assert rest[1] == "  96 MiB of ~480 MiB, 32 MiB/s, ratio 2.0 : 1, about 12 s left"
    assert rest[2] == "  bb        48 MiB stored"
    assert re.fullmatch(r"  scaleway     0 B stored  left out: no route to host, .*…", rest[3])


def work(shown: Progress) -> None:
    shown.start(PLAN)
    for number in range(3):
        shown.stored("bb", 16 * MIB)
        shown.chunk(ChunkDone(number, 32 * MIB, 16 * MIB))
    shown.retry("bb", "PUT: 503", 4.0)
    shown.dropped("scaleway", "quota exceeded")
    shown.info("a fact")
    shown.warning("mend this")
    shown.finish()


def logs(home: Path) -> list[Path]:
    return sorted(home.glob("*.log"))


def test_log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with display(Output(), journal=("backup", "tank/my photos"), home=tmp_path) as shown:
        work(shown)
        shown.note("a summary\nof two lines")
    (path,) = logs(tmp_path)
    assert re.fullmatch(r"offsite-backup-tank_my_photos-\d{8}-\d{6}\.log", path.name)
    assert path.stat().st_mode & 0o777 == 0o600
    out, err = capsys.readouterr()
    assert out == f"Log file: {path}\n"
    assert err == (
        "WARNING: scaleway is left out from now on: quota exceeded\nWARNING: mend this\n"
    )
    lines = path.read_text().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    assert re.fullmatch(
        stamp + "INFO: Backing up tank/photos@auto-20251123 to bb, scaleway, "
        "about 480 MiB in ~15 chunks",
        lines[0],
    )
    assert re.match(stamp + r"INFO: Processing chunk 3 of ~15\.\.\. 96 MiB of ~480 MiB", lines[3])
    assert re.fullmatch(stamp + "INFO: bb: PUT: 503; again in 4 s", lines[4])
    assert re.fullmatch(stamp + "INFO: a fact", lines[6])
    assert re.fullmatch(stamp + "INFO: a summary", lines[8])


def test_log_files_never_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20251123-044100")
    for text in ("one", "two", "three"):
        _, stream = logfile.create(tmp_path, "restore", "tank/a")
        with stream:
            stream.write(text)
    assert [(path.name, path.read_text()) for path in logs(tmp_path)] == [
        ("offsite-restore-tank_a-20251123-044100-2.log", "two"),
        ("offsite-restore-tank_a-20251123-044100-3.log", "three"),
        ("offsite-restore-tank_a-20251123-044100.log", "one"),
    ]


def test_with_json_stdout_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with display(Output(json=True), journal=("backup", "a"), home=tmp_path) as shown:
        work(shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Log file: {tmp_path}/offsite-backup-a-")


def test_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with display(Output(quiet=True), journal=("backup", "a"), home=tmp_path) as shown:
        work(shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[1] == "WARNING: mend this"
    assert len(err.splitlines()) == 2
    assert logs(tmp_path) == []


def test_home_that_takes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with display(Output(), journal=("backup", "a"), home=tmp_path / "none") as shown:
        work(shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert "WARNING: no log file in" in err.splitlines()[0]
    assert "Processing chunk 3 of ~15..." in err


def test_a_full_disk_does_not_stop_the_work() -> None:
    fallback = io.StringIO()
    with Path("/dev/full").open("w") as full:
        lines = Lines(
            full,
            guard=threading.Lock(),
            clock=time.monotonic,
            threshold=0,
            stamped=False,
            fallback=fallback,
        )
        lines.line(20, "first")
        lines.line(20, "second")
        console._close(full)
    assert fallback.getvalue() == (
        "WARNING: the log goes on here: No space left on device\nINFO: first\nINFO: second\n"
    )


def test_a_terminal_that_is_closed_while_it_is_drawn_on() -> None:
    """By rich's thread, or ours: what the buffer holds and all the rest go nowhere."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as file:
        screen = Screen(file=file, force_terminal=True, highlight=False)
        shown = Terminal(screen, threading.Lock(), time.monotonic, logging.INFO)
        shown.begin(Tally(PLAN, 0.0))
        shown.changed()
        assert shown._live is not None
        os.close(ours)
        shown._live.refresh()
        shown.line(logging.INFO, "more")
        shown.close()
        assert str(Path(f"/proc/self/fd/{file.fileno()}").readlink()) == os.devnull


def test_a_pipe_that_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich itself would end the process."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        shown = Terminal(Screen(), threading.Lock(), time.monotonic, logging.INFO)
        shown.line(logging.WARNING, "a worry")
        lines = Lines(
            file, guard=threading.Lock(), clock=time.monotonic, threshold=0, stamped=False
        )
        lines.line(logging.WARNING, "another one")
        assert str(Path(f"/proc/self/fd/{file.fileno()}").readlink()) == os.devnull


def test_records_of_the_package_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("offsite.remote")
    for verbose in (False, True):
        with display(Output(verbose=verbose), home=tmp_path):
            logger.debug("detail %d", 1)
            logger.warning("worry")
    logger.warning("nobody listens")
    assert capsys.readouterr().err == "WARNING: worry\nDEBUG: detail 1\nWARNING: worry\n"


@pytest.mark.parametrize(("verbose", "levels"), [(False, [30]), (True, [10, 20, 30])])
def test_how_much_of_the_log_records_is_wanted(*, verbose: bool, levels: list[int]) -> None:
    seen: list[int] = []
    with log.forwarded(lambda level, _: seen.append(level), verbose=verbose):
        for level in (10, 20, 30):
            logging.getLogger("offsite.remote").log(level, "x")
    assert seen == levels


def test_many_threads(tmp_path: Path) -> None:
    with display(Output(), journal=("backup", "a"), home=tmp_path) as shown:
        shown.start(Plan("backup", "a", "b", 0, 0, ("bb",)))

        def one() -> None:
            for number in range(200):
                shown.stored("bb", 1)
                shown.chunk(ChunkDone(number, 2, 1))

        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tally = shown._tally
    assert tally is not None
    assert (tally.chunks, tally.plain_bytes, tally.provider("bb").stored) == (1600, 3200, 1600)
    (path,) = logs(tmp_path)
    numbers = re.findall(r"Processing chunk (\d+)\.\.\.", path.read_text())
    assert len(numbers) == 1600
    assert int(max(numbers, key=int)) == 1600


ON_A_TERMINAL = """
import sys, time, threading
from pathlib import Path
from offsite.console import Output, display, terminal
from offsite.progress import ChunkDone, Plan
def wait_for(happened, what):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
drawn = []
draw = terminal.draw
terminal.draw = lambda tally, now: drawn.append(tally.chunks) or draw(tally, now)
with display(Output(), journal=("backup", "tank/a"), home=Path("/nonexistent")) as shown:
    shown.info("before")
    shown.start(Plan("backup", "tank/a", "snap", 4 << 25, 4, ("bb",)))
    assert threading.active_count() == 1, "a thread before the workers are forked"
    for number in range(3):
        shown.stored("bb", 1 << 20)
        shown.chunk(ChunkDone(number, 1 << 25, 1 << 20))
        # When it is drawn again, the first time is on the screen.
        wait_for(lambda: drawn.count(number + 1) > 1, "it is not drawn")
    shown.warning("while drawing")
    shown.finish()
    # rich does not wait for its thread
    wait_for(lambda: threading.active_count() == 1, "the display's thread stays")
print("the end")
"""


def on_a_terminal(script: str, **environ: str) -> tuple[int, str]:
    """Exit status, and everything that came out of a pseudo-terminal of 100 columns."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environ},
    ) as process:
        os.close(theirs)
        pieces: list[bytes] = []
        try:
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        except OSError:  # EIO: the other side is closed
            pass
        status = process.wait(60)
    os.close(ours)
    return status, b"".join(pieces).decode()


def test_live_on_a_terminal() -> None:
    status, text = on_a_terminal(ON_A_TERMINAL)
    assert status == 0, text
    assert "INFO: before" in text
    assert "chunk 3 of ~4" in text
    assert "3 MiB stored" in text
    assert "WARNING: while drawing" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"
    assert text.rstrip().endswith("the end")
    assert "\x1b[1m" in text


def test_no_color() -> None:
    status, text = on_a_terminal(ON_A_TERMINAL, NO_COLOR="1")
    assert status == 0, text
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", text) is None


def test_every_method_before_and_after_the_work() -> None:
    """A provider may fail before there is a plan, and news may come late."""
    early = Display((), threading.Lock(), time.monotonic)
    early.retry("bb", "x", 1.0)
    early.stored("bb", 1)
    early.dropped("bb", "x")
    early.finish()
    early.finish()


# --- several works at once ------------------------------------------------------------------------


def plan_of(dataset: str) -> Plan:
    return Plan("backup", dataset, "s", 4 * MIB, 4, ("bb",))


def test_parts_name_their_dataset_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with display(Output(), journal=("backup", "tank"), home=tmp_path) as shown:
        for name in ("tank/a", "tank/b"):
            part = shown.part(name)
            part.start(plan_of(name))
            part.info("a fact")
            part.info(f"Created snapshot {name}@s")
            part.chunk(ChunkDone(0, MIB, MIB))
            part.dropped("bb", "quota exceeded")
            part.finish()
        shown.info("of all")
    (path,) = logs(tmp_path)
    lines = [line.partition("INFO: ")[2] for line in path.read_text().splitlines()]
    of_a = [line for line in lines if "tank/a" in line]
    assert of_a == [
        "Backing up tank/a@s to bb, about 4 MiB in ~4 chunks",
        "tank/a: a fact",
        "Created snapshot tank/a@s",
        of_a[3],
    ]
    assert re.match(r"tank/a: Processing chunk 1 of ~4\.\.\. 1 MiB of ~4 MiB", of_a[3])
    assert [line.replace("tank/a", "tank/b") for line in of_a[:3]] == lines[5:8]
    assert lines[-1] == "of all"
    assert capsys.readouterr().err.splitlines() == [
        f"WARNING: tank/{name}: bb is left out from now on: quota exceeded" for name in "ab"
    ]


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("tank/a", "of tank/ab@s", "tank/a: of tank/ab@s"),
        ("tank/a", "of tank/a/b", "tank/a: of tank/a/b"),
        ("tank/a", "of old-tank/a@s", "tank/a: of old-tank/a@s"),
        ("tank/a", "of tank/a@s", "of tank/a@s"),
        ("tank/a", "tank/a: it broke", "tank/a: it broke"),
        ("b", "b2: it broke", "b: b2: it broke"),
        ("b", "of b.", "of b."),
        ("", "a fact", "a fact"),
    ],
)
def test_another_name_that_begins_alike(name: str, text: str, shown: str) -> None:
    stream = io.StringIO()
    Display((lines_to(stream),), threading.Lock(), time.monotonic, name).info(text)
    assert stream.getvalue() == f"INFO: {shown}\n"


def lines_to(stream: io.StringIO) -> Lines:
    clock = time.monotonic
    return Lines(stream, guard=threading.Lock(), clock=clock, threshold=20, stamped=False)


def on_screen(screen: Terminal) -> str:
    console = Console(file=io.StringIO(), width=90)
    console.print(screen._draw())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def terminal() -> Terminal:
    console = Screen(file=io.StringIO(), force_terminal=True, width=90)
    return Terminal(console, threading.Lock(), time.monotonic, logging.INFO)


def test_two_tallies_are_drawn_at_once() -> None:
    screen = terminal()
    shown = Display((screen,), screen._guard, time.monotonic)
    one, other = shown.part("tank/a"), shown.part("tank/b")
    one.start(plan_of("tank/a"))
    other.start(plan_of("tank/b"))
    for number in range(2):
        one.chunk(ChunkDone(number, MIB, MIB))
    one.stored("bb", MIB)
    other.chunk(ChunkDone(0, MIB, MIB))
    other.retry("bb", "PUT: 503", 1.0)
    try:
        text = on_screen(screen)
        assert text.index("tank/a@s") < text.index("chunk 2 of ~4") < text.index("tank/b@s")
        assert text.index("tank/b@s") < text.index("chunk 1 of ~4")
        assert text.index("1 MiB stored") < text.index("0 B stored") < text.index("1 retry")
        one.finish()
        text = on_screen(screen)
        assert "tank/a@s" not in text
        assert "chunk 1 of ~4" in text
        other.chunk(ChunkDone(1, MIB, MIB))
        assert "chunk 2 of ~4" in on_screen(screen)
        assert screen._live is not None
        other.finish()
        other.finish()
        assert on_screen(screen).strip() == ""
        shown.part("tank/c").start(plan_of("tank/c"))
        assert "tank/c@s" in on_screen(screen)
    finally:
        shown.finish()
    assert screen._live is None
    assert on_screen(screen).strip() == ""


def test_a_part_that_never_began_ends_nothing() -> None:
    screen = terminal()
    shown = Display((screen,), screen._guard, time.monotonic)
    shown.part("tank/a").start(plan_of("tank/a"))
    shown.part("tank/b").finish()
    assert "tank/a@s" in on_screen(screen)


def test_works_that_begin_and_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block is drawn, with all that are there; and none is left behind."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    monkeypatch.setattr(terminal_module, "Live", lambda **more: _slow(Live(**more)))
    try:
        for _ in range(10):
            screen = terminal()
            shown = Display((screen,), screen._guard, time.monotonic)
            parts = {name: shown.part(name) for name in ("tank/a", "tank/b", "tank/c", "tank/d")}
            together = threading.Barrier(len(parts))

            def work(name: str, part: Display, together: threading.Barrier = together) -> None:
                together.wait(60)
                part.start(plan_of(name))
                together.wait(60)
                part.stored("bb", 1)
                together.wait(60)
                if name != "tank/a":
                    part.finish()

            with ThreadPoolExecutor(len(parts)) as crew:
                list(crew.map(work, parts, parts.values()))
            assert len(screen._console._live_stack) == 1
            assert [tally.plan.dataset for tally in screen._tallies] == ["tank/a"]
            shown.finish()
            assert screen._console._live_stack == []
    finally:
        sys.setswitchinterval(before)


def _slow(live: Live) -> Live:
    time.sleep(0.01)
    return live
