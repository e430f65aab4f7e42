"""script/test on machines that lack something: it runs what it can, and names what it skips."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import fake_system
from tests.storage.fixtures import running
from tests.storage.provision import Unavailable
from tests.storage.servers import Server

ROOT = Path(__file__).parent.parent
# Makes environments, which have no other Python than itself, and notes what it is to run.
PYTHON = """
echo "$*" >> {log}
for last; do :; done
case "$*" in
    "-m venv "*) mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
    "-m lab own") [ -e {own} ] || exit 1 ;;
esac
"""
TOOLS = (
    *("awk", "bash", "cat", "cp", "cut", "dirname", "env", "flock", "grep", "mkdir"),
    *("mktemp", "nproc", "rm", "sed", "sha256sum", "sh", "sort", "timeout", "touch"),
)
PROGRAMS = (
    *("apt-get", "age", "dpkg-deb", "git", "ps", "shellcheck", "ssh-keygen", "tar", "zstd"),
    *("ruff", "mypy", "setfattr"),
)


@dataclass(frozen=True)
class Host:
    """A machine where everything but the shell's own tools is made up."""

    folder: Path

    def without(self, program: str) -> None:
        (self.folder / "bin" / program).unlink()

    def is_a(self, machine: str) -> None:
        (self.folder / "bin/uname").write_text(f"#!/bin/sh\necho {machine}\n")

    def has_a_user(self) -> None:
        """Who is not root."""
        (self.folder / "bin/id").write_text("#!/bin/sh\necho 1000\n")

    def has_openzfs(self) -> None:
        (self.folder / "own").touch()

    def fails(self, program: str, where: str = " && exit 7") -> None:
        """Let it end with status 7, always or where this says so."""
        path = self.folder / "bin" / program
        path.write_text(f"{path.read_text()}\ntrue{where}\n")

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "script/test", *options],
            env={
                "HOME": str(self.folder),
                "PATH": str(self.folder / "bin"),
                "OFFSITE_LAB_CACHE": str(self.folder / "cache"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    @property
    def asked_of_python(self) -> str:
        return (self.folder / "log").read_text()

    def check_only_the_fast_ones_ran(self) -> None:
        assert "lab build" not in self.asked_of_python
        assert "-m not lab and not soak" in self.asked_of_python
        assert "-m lab and" not in self.asked_of_python


@pytest.fixture
def host(tmp_path: Path) -> Host:
    fakes = dict.fromkeys(PROGRAMS, "")
    python = PYTHON.format(log=tmp_path / "log", own=tmp_path / "own")
    fakes |= {"uname": "echo x86_64", "id": "echo 0", "python3": python}
    fakes |= {"sudo": f'touch {tmp_path}/became; exec "$@"'}
    fake_system(tmp_path / "bin", **fakes)
    for tool in TOOLS:
        if not (tmp_path / "bin" / tool).exists():
            (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return Host(tmp_path)


def test_everything_runs_where_everything_is(host: Host) -> None:
    done = host.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "Skipped" not in done.stdout
    assert "-m lab build" in host.asked_of_python
    assert "-m lab and not soak" in host.asked_of_python
    assert "-m not lab and not soak" in host.asked_of_python
    assert done.stdout.endswith("totals: 0 passed, 0 failed, 0 skipped\n")
    told = re.findall(r"^ +\d+ s  (.*)$", done.stdout, re.MULTILINE)
    assert [phase.partition(":")[0] for phase in told] == [
        *("Setting up", "Style", "Types", "Tests without ZFS"),
        *("The lab", "Tests on real OpenZFS"),
    ]


def test_one_phase_that_fails_is_told_and_the_others_run(host: Host) -> None:
    host.fails("mypy")
    done = host.run()
    assert done.returncode == 1
    assert "Types FAILED (status 7)" in done.stdout
    assert "-m lab and not soak" in host.asked_of_python


def test_what_failed_is_named_at_the_end(host: Host) -> None:
    """As tests/conftest.py writes it, for each phase of tests."""
    wrote = (
        "case $* in *pytest*) printf '5 1 0 2\\nFAILED a.py::b - why\\n' >>$OFFSITE_TOTALS; exit 1"
    )
    host.fails("python3", f"\n{wrote} ;; esac")
    done = host.run()
    assert done.returncode == 1
    assert "Tests on real OpenZFS FAILED (status 1)\n" in done.stdout
    assert done.stdout.splitlines()[-3:] == [
        *["FAILED a.py::b - why"] * 2,
        "totals: 10 passed, 2 failed, 0 skipped, 4 rerun",
    ]


@pytest.mark.parametrize(("told", "times"), [("expected", 2), ("", 1)])
def test_storage_servers_are_expected_where_they_can_be_had(
    host: Host, told: str, times: int
) -> None:
    """Without apt they are not, and there is no lab, either."""
    if not told:
        host.without("apt-get")
    host.fails("python3", "\ncase $* in *pytest*) echo servers: $OFFSITE_TEST_SERVERS. ;; esac")
    done = host.run()
    assert done.returncode == 0
    assert done.stdout.count(f"servers: {told}.\n") == times


@pytest.mark.parametrize(("told", "ends"), [("expected", Unavailable), ("", pytest.skip.Exception)])
def test_a_storage_server_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, ends: type[BaseException]
) -> None:
    """Where script/test does not run them, a developer's pytest skips its tests."""
    monkeypatch.setenv("OFFSITE_TEST_SERVERS", told)

    def start(_: Path) -> Server:
        raise Unavailable("weed is not installed")

    either = (Unavailable, pytest.skip.Exception)
    with pytest.raises(either, match="weed is not") as ended, running(start, tmp_path):
        raise AssertionError("there is none")
    assert ended.type is ends


def test_without_a_lab_its_tests_fail(host: Host) -> None:
    host.fails("python3", ' && case "$*" in "-m lab build") exit 7 ;; esac')
    done = host.run()
    assert done.returncode == 1
    assert "FAILED (status 7)" in done.stdout
    assert "-m lab and not soak" not in host.asked_of_python


def test_elsewhere_than_on_x86_the_lab_is_skipped(host: Host) -> None:
    host.is_a("aarch64")
    done = host.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "Skipped: real OpenZFS" in done.stdout
    assert "this is aarch64" in done.stdout
    host.check_only_the_fast_ones_ran()


def test_the_machine_s_own_openzfs_serves_where_no_lab_can_be_built(host: Host) -> None:
    host.is_a("aarch64")
    host.without("apt-get")
    host.has_openzfs()
    done = host.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "Real OpenZFS is that of this machine" in done.stdout
    assert "Skipped" not in done.stdout
    assert "lab build" not in host.asked_of_python
    assert "-m lab and not soak -n 1" in host.asked_of_python


def test_what_runs_beside_the_machine_s_own_openzfs_is_needed_there_only(host: Host) -> None:
    host.without("setfattr")
    host.without("apt-get")
    assert host.run().returncode == 0
    host.has_openzfs()
    done = host.run()
    assert done.returncode == 1
    assert "ERROR: missing here: attr" in done.stderr


# Installs what it is asked for, into the folder that it is in.
APT = """
echo "$*" >> {log}
for last; do :; done
there=${{0%/*}}/$last
case "$*" in *" install "*) printf '#!/bin/sh\\n' > "$there"; chmod +x "$there" ;; esac
"""


@pytest.mark.parametrize("who", ["root", "user"])
def test_what_is_missing_is_installed_and_told(host: Host, who: str) -> None:
    if who == "user":
        host.has_a_user()
    host.without("zstd")
    (host.folder / "bin/apt-get").write_text("#!/bin/sh" + APT.format(log=host.folder / "apt"))
    (host.folder / "bin/chmod").symlink_to(str(shutil.which("chmod")))
    done = host.run("--fast")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Installing zstd with apt (a minute or two)" in done.stdout
    update, install = (host.folder / "apt").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install --no-install-recommends zstd")
    assert (host.folder / "became").exists() == (who == "user")
    assert "Installing" not in host.run("--fast").stdout


def test_a_user_without_sudo_is_told(host: Host) -> None:
    host.has_a_user()
    host.without("sudo")
    host.without("zstd")
    done = host.run("--fast")
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: this needs root: ")
    assert done.stderr.endswith("\nHINT: become root, or install sudo\n")


@pytest.mark.parametrize("step", ["update", "install"])
def test_a_step_of_apt_that_fails_ends_the_run_with_the_reason(host: Host, step: str) -> None:
    host.without("zstd")
    host.fails("apt-get", f' && case "$*" in *" {step}"*) echo no network >&2; exit 100 ;; esac')
    done = host.run("--fast")
    assert done.returncode == 1
    assert done.stderr.startswith(f"no network\nERROR: apt-get {step} failed, or took more than ")
    assert "totals" not in done.stdout


def test_a_phase_that_takes_too_long_is_ended_and_told(host: Host) -> None:
    script = ". script/common.sh; begin_phases; phase Endless 1 sleep 300 || echo on; end_phases"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "ERROR: Endless: not done within 1 s\n"
    assert "\non\n" in done.stdout
    assert "Endless FAILED (status 124)\ntotals: 0 passed, 0 failed, 0 skipped\n" in done.stdout


def test_fast_is_without_the_lab(host: Host) -> None:
    assert host.run("--fast").returncode == 0
    host.check_only_the_fast_ones_ran()
    assert "not lab and not soak and not heavy" in host.asked_of_python


def test_without_apt_the_lab_is_skipped(host: Host) -> None:
    host.without("apt-get")
    done = host.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "Skipped: real OpenZFS" in done.stdout
    assert "Missing" not in done.stdout
    host.check_only_the_fast_ones_ran()
    host.without("age")
    host.without("ps")
    assert "Missing, and to be installed by you: age procps" in host.run().stdout
