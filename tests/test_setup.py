"""setup.sh: what can be tried without changing the machine. The rest is tried in an empty HOME."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from offsite import config
from offsite.zfs.failures import explain
from tests.programs import fake_system

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "setup.sh"
EXAMPLE = ROOT / "config.env.example"


def setup(*options: str, home: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"HOME": str(home), "PATH": path or os.environ["PATH"]}
    environ.pop("XDG_DATA_HOME", None)
    return subprocess.run(
        [str(SCRIPT), *options],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        cwd="/",
        check=False,
    )


def test_help_changes_nothing(tmp_path: Path) -> None:
    done = setup("--help", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--yes" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_unknown_option(tmp_path: Path) -> None:
    done = setup("--yse", home=tmp_path)
    assert done.returncode == 2
    assert "unknown option --yse" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_rights_that_zfs_asks_for() -> None:
    """What the hints of failed commands name is what the installer allows from the beginning."""
    (allowed,) = re.findall(r"^permissions=(\S+)$", SCRIPT.read_text(), re.MULTILINE)
    for verb in ("send", "receive", "inherit", "rename"):
        hint = str(explain(verb, 1, "cannot: permission denied", host=None).hint)
        (needed,) = re.findall(r"zfs allow -u USER (\S+) ", hint)
        assert {*needed.split(",")} <= {*allowed.split(",")}


def test_without_apt_it_says_what_to_install(tmp_path: Path) -> None:
    path = fake_system(tmp_path / "bin", python3="exit 1", zstd="exit 0")
    done = setup("--yes", "--user", home=tmp_path, path=path)
    assert done.returncode == 1
    assert "ERROR: missing: python3-venv age openssh-client" in done.stderr
    assert "install them your way" in done.stderr


def test_nothing_is_installed_unasked(tmp_path: Path) -> None:
    path = fake_system(
        tmp_path / "bin", python3="exit 1", age="", zstd="", **{"apt-get": f"touch {tmp_path}/ran"}
    )
    done = setup("--user", home=tmp_path, path=path)
    assert done.returncode == 1
    assert "apt-get install python3-venv openssh-client" in done.stdout
    assert "run ./setup.sh --yes" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.soak
def test_installs_twice_into_an_empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    home = tmp_path / "home dir"
    home.mkdir()
    folders = os.environ["PATH"].split(os.pathsep)
    bare = os.pathsep.join(each for each in folders if not Path(each, "rclone").exists())
    first = setup("--yes", "--user", home=home, path=bare)
    assert first.returncode == 0, first.stderr
    rclone = subprocess.check_output([home / ".local/bin/rclone", "version"], text=True)
    assert rclone.startswith("rclone v")
    share = home / ".local/share"
    assert "complete -c offsite" in (share / "fish/vendor_completions.d/offsite.fish").read_text()
    words = share / "bash-completion/completions/offsite"
    told = subprocess.check_output(["bash", "-c", '. "$1"; complete -p offsite', "", words])
    assert told.endswith(b" offsite\n")
    identity = home / ".config/age/zfs-backup.txt"
    settings = home / ".config/offsite/config.env"
    made = identity.read_bytes()
    assert settings.stat().st_mode & 0o777 == 0o600
    settings.write_text("RCLONE_REMOTE=/nowhere\n")
    second = setup("--yes", "--user", home=home)
    assert second.returncode == 0, second.stderr
    assert identity.read_bytes() == made
    assert settings.read_text() == "RCLONE_REMOTE=/nowhere\n"
    done = subprocess.run(
        [str(home / ".local/bin/offsite"), "keys", "check"],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- the rest of it, on a machine where everything but the user is made up ------------------------

NOBODY = 65534
ZPOOL = """printf 'tank\\nold pool\\n'"""
# zfs-allow(8): without rights of its own it shows them, in a file a pool.
ZFS = """
cd "{folder}/allowed" || exit 1
[ "$2" = -u ] || {{ cat "$2" 2>/dev/null; exit; }}
[ "$5" != "$REFUSED" ] || {{ echo "cannot set permissions on '$5'" >&2; exit 1; }}
printf -- '---- Permissions on %s ----\\nLocal+Descendent permissions:\\n' "$5" >> "$5"
printf '\\tuser %s %s\\n' "$3" "$4" >> "$5"
"""
SUDO = """
[ "$1" != -n ] || exit "${{PASSWORD_NEEDED:-0}}"
echo "$*" >> "{folder}/sudo"
exec "$@"
"""
TOOLS = ("awk", "chmod", "install", "ln", "mkdir", "mv", "readlink")


@dataclass(frozen=True)
class User:
    """A user who is not root, on a machine with pools where offsite is installed already."""

    folder: Path
    path: str

    def setup(self, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        nobody = NOBODY if os.geteuid() == 0 else None
        return subprocess.run(
            [self.folder / "setup.sh", *options],
            user=nobody,
            group=nobody,
            extra_groups=[] if nobody else None,
            env={"HOME": str(self.folder), "PATH": self.path, "LC_ALL": "C", **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            cwd="/",
            check=False,
        )

    @property
    def by_sudo(self) -> list[str]:
        log = self.folder / "sudo"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def rclone(self) -> Path:
        return self.folder / ".local/bin/rclone"


@pytest.fixture
def user() -> Iterator[User]:
    with tempfile.TemporaryDirectory(prefix="offsite-setup-") as name:
        folder = Path(name)
        venv = folder / ".local/share/offsite/venv/bin"
        venv.parent.mkdir(parents=True)
        fake_system(venv, python="", offsite="", rclone="echo rclone")
        fakes = {name: body.format(folder=folder) for name, body in (("zfs", ZFS), ("sudo", SUDO))}
        there = dict.fromkeys(("python3", "age", "zstd", "ssh-keygen"), "")
        path = fake_system(folder / "bin", zpool=ZPOOL, **there, **fakes)
        for tool in TOOLS:
            (folder / "bin" / tool).symlink_to(str(shutil.which(tool)))
        (folder / "allowed").mkdir()
        for file in (SCRIPT, EXAMPLE):
            shutil.copy(file, folder)
        if os.geteuid() == 0:
            for one in (folder, *folder.rglob("*")):
                os.chown(one, NOBODY, NOBODY, follow_symlinks=False)
        yield User(folder, path)


def lines_for(*pools: str) -> list[str]:
    (allowed,) = re.findall(r"^permissions=(\S+)$", SCRIPT.read_text(), re.MULTILINE)
    name = pwd.getpwuid(NOBODY if os.geteuid() == 0 else os.geteuid()).pw_name
    return [f"zfs allow -u {name} {allowed} {pool}" for pool in pools]


def test_zfs_permissions_are_shown_and_given_once(user: User) -> None:
    first = user.setup("--yes")
    assert (first.returncode, first.stderr.count("WARNING")) == (0, 1), first  # of the PATH
    assert user.by_sudo == lines_for("tank", "old pool")
    for line in user.by_sudo:
        assert f"\n  sudo {line}\n" in first.stdout
    again = user.setup("--yes")
    assert again.returncode == 0, again
    assert "nothing to allow" in again.stdout
    assert user.by_sudo == lines_for("tank", "old pool")


def test_a_right_that_is_missing_is_given(user: User) -> None:
    user.setup("--yes")
    allowed = user.folder / "allowed/tank"
    allowed.write_text(allowed.read_text().replace("bookmark,", ""))
    assert user.setup("--yes").returncode == 0
    assert user.by_sudo == lines_for("tank", "old pool", "tank")


def test_no_zfs_permissions_unasked(user: User) -> None:
    asked = user.setup()
    assert asked.returncode == 1
    assert f"  sudo {lines_for('tank')[0]}\n" in asked.stdout
    assert "nobody is there to answer: Run these commands?" in asked.stderr
    assert user.by_sudo == []


def test_zfs_permissions_are_left_to_the_user_if_sudo_asks(user: User) -> None:
    done = user.setup("--yes", PASSWORD_NEEDED="1")
    assert done.returncode == 0, done
    assert "not run, as sudo would ask for a password" in done.stderr
    assert "What is left to do" in done.stdout
    assert user.by_sudo == []


def test_a_pool_that_allows_nothing_does_not_hinder_the_others(user: User) -> None:
    done = user.setup("--yes", REFUSED="tank")
    assert done.returncode == 0, done
    assert "zfs allow failed for tank; run the line above yourself" in done.stderr
    assert user.by_sudo == lines_for("tank", "old pool")
    assert (user.folder / "allowed/old pool").exists()


def test_missing_packages_are_installed_and_it_goes_on(user: User) -> None:
    """By sudo, for a user who is not root."""
    age, apt = user.folder / "bin/age", user.folder / "bin/apt-get"
    age.unlink()
    apt.write_text(f'#!/bin/sh\ncase "$*" in *" install "*) : >{age}; chmod 755 {age} ;; esac\n')
    apt.chmod(0o755)
    first = user.setup("--yes")
    assert first.returncode == 0, first
    assert "apt-get install age\n" in first.stdout
    options = "-o DPkg::Lock::Timeout=300"
    install = f"apt-get -q -y {options} install --no-install-recommends age"
    assert user.by_sudo[:2] == [
        f"apt-get -q {options} update",
        f"env DEBIAN_FRONTEND=noninteractive {install}",
    ]
    assert "What is left to do" in first.stdout
    assert "all there" in user.setup("--yes").stdout
    age.unlink()
    apt.write_text("#!/bin/sh\necho no network >&2\nexit 100\n")
    failed = user.setup("--yes")
    assert failed.returncode == 1
    assert failed.stderr.startswith("no network\nERROR: apt-get update failed\nHINT: ")


def test_there_is_an_rclone_for_the_user(user: User) -> None:
    """As README's quick start says: rclone config."""
    assert user.setup("--yes").returncode == 0
    assert user.rclone.readlink() == user.folder / ".local/share/offsite/venv/bin/rclone"
    assert subprocess.check_output([user.rclone], text=True) == "rclone\n"


def test_the_users_own_rclone_stays_the_only_one(user: User) -> None:
    own = user.folder / "bin/rclone"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert user.setup("--yes").returncode == 0
    assert not user.rclone.exists()


# --- config.env.example ---------------------------------------------------------------------------


def test_the_template_sets_nothing(tmp_path: Path) -> None:
    found = config.load({"HOME": str(tmp_path), "OFFSITE_CONFIG": str(EXAMPLE)})
    assert found == config.load({"HOME": str(tmp_path), "OFFSITE_CONFIG": "/dev/null"})


def test_every_line_of_the_template_works(tmp_path: Path) -> None:
    rclone = tmp_path / ".config/rclone/rclone.conf"
    rclone.parent.mkdir(parents=True)
    rclone.touch()
    uncommented = tmp_path / "config.env"
    uncommented.write_text(re.sub(r"(?m)^#(?=[A-Z_]+=)", "", EXAMPLE.read_text()))
    uncommented.chmod(0o600)
    found = config.load({"HOME": str(tmp_path), "OFFSITE_CONFIG": str(uncommented)})
    assert found.warnings == ()
    assert [provider.name for provider in found.providers] == ["default", "scaleway", "usbdisk"]
    assert found.zfs_ssh_options == ("-i", f"{tmp_path}/.ssh/backup_key")
    assert found.chunk_size == 32 << 20
    # What the comments call a default is one.
    for key in (
        "SHARD_SIZE",
        "MEMORY_LIMIT",
        "COMPRESSION",
        "ZFS_SNAP_PREFIX",
        "ZFS_RETENTION_DAYS",
    ):
        assert re.search(rf"(?m)^#{key}=", EXAMPLE.read_text())
    default = config.load({"HOME": str(tmp_path), "OFFSITE_CONFIG": "/dev/null"})
    assert (found.memory_limit, found.compression) == (default.memory_limit, default.compression)
    assert (found.snap_prefix, found.recipients_file) == (
        default.snap_prefix,
        default.recipients_file,
    )


def test_shellcheck() -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
