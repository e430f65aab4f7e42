"""Shell completions, asked of the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from offsite.cli import parser, spelling
from offsite.cli.options import Help

ZFS = """#!/bin/sh
case "$*" in
*filesystem,volume*) printf 'tank\\ntank/photos\\ntank/music\\n' ;;
*"-t snapshot"*"tank/photos") printf 'tank/photos@monday\\ntank/photos@may\\n' ;;
esac
"""
BASH = """source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
_offsite
printf '%s\\n' "${COMPREPLY[@]}"
"""
# As bashcompinit calls it.
ZSH = """source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
as_sh() { emulate -L sh; setopt kshglob noshglob braceexpand; _offsite; }
as_sh
print -l -r -- $COMPREPLY
"""
FISH = """source $argv[1]
complete -C $argv[2] | string split -f 1 \\t
"""


CODES = {"bash": BASH, "zsh": ZSH, "fish": FISH}
SHELLS = ["bash", *(pytest.param(name, marks=pytest.mark.soak) for name in ("zsh", "fish"))]


def script(shell: str) -> str:
    command = parser.parse(["completions", shell]).command
    assert isinstance(command, Help)
    return command.text


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    zfs = tmp_path / "bin/zfs"
    zfs.write_text(ZFS)
    zfs.chmod(0o755)
    (tmp_path / ".config/offsite").mkdir(parents=True)
    (tmp_path / ".config/offsite/config.env").write_text(
        "# OLD_REMOTE=x:\nBB_REMOTE=bb:bucket\nexport SCALEWAY_REMOTE='s:b'\nSHARD_SIZE=1M\n"
        "RCLONE_REMOTE=s3:bucket\nRCLONE_CONFIG_S3_REMOTE=x:\nEMPTY_REMOTE=\n"
    )
    return tmp_path


def offered(home: Path, shell: str, line: str) -> set[str]:
    program = shutil.which(shell)
    if program is None:
        pytest.fail(f"{shell} is not installed here")
    (home / "script").write_text(script(shell))
    arguments = [] if shell == "fish" else ["sh"]
    environment = {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    environment |= {key: os.environ[key] for key in ("OFFSITE_CONFIG",) if key in os.environ}
    ran = subprocess.run(
        [program, "-c", CODES[shell], *arguments, home / "script", line],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stderr == ""
    return {word for word in ran.stdout.splitlines() if word}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("offsite ", {"backup", "restore", "list", "keys", "tank", "tank/photos"}, {"init"}),
        ("offsite re", {"restore"}, {"backup"}),
        ("offsite --re", {"--restore"}, {"--backup"}),
        ("offsite --backup tank/p", {"tank/photos"}, {"tank/music", "backup"}),
        ("offsite -b tank --ex", {"--exclude"}, {"--full"}),
        ("offsite restore --re", {"--replace", "--restart", "--recursive"}, {"--restore"}),
        ("offsite list --", {"--host", "--json"}, {"--replace"}),
        (
            "offsite tank/photos --provider ",
            {"bb", "scaleway", "default", "all"},
            {"old", "tank", "rclone", "rclone_config_s3", "empty", "auto"},
        ),
        ("offsite -r tank/photos --provider ", {"bb", "default", "auto"}, {"rclone", "all"}),
        ("offsite tank/photos@monday --re", {"--replace"}, {"--restore"}),
        ("offsite --provider bb --restore --up", {"--update"}, set()),
        ("offsite -r tank --properties ", {"none", "local", "all"}, {"tank"}),
        ("offsite -r tank --at ", set(), {"tank"}),
        ("offsite keys ", {"init", "vouch", "show", "check"}, {"tank"}),
        ("offsite completions z", {"zsh"}, {"bash"}),
    ],
)
def test_what_is_offered(home: Path, shell: str, line: str, some: set[str], none: set[str]) -> None:
    found = offered(home, shell, line)
    assert found >= some
    assert not found & none


@pytest.mark.parametrize("shell", SHELLS)
def test_providers_of_a_file_that_is_named(
    home: Path, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFSITE_CONFIG", "~/one file.env")
    (home / "one file.env").write_text("B2_REMOTE = b2:bucket\n")
    assert offered(home, shell, "offsite list --provider ") == {"b2", "all"}


@pytest.mark.parametrize("shell", SHELLS)
def test_snapshots(home: Path, shell: str) -> None:
    """bash breaks words at @, and replaces what is behind; the others replace all of it."""
    head = "" if shell == "bash" else "tank/photos@"
    found = offered(home, shell, "offsite --restore tank/photos@mo")
    assert f"{head}monday" in found
    assert shell == "fish" or found == {f"{head}monday"}


def test_every_option_is_there() -> None:
    """And those that take a value are known, so that it is not taken for a dataset or verb."""
    text, takes_value = script("bash"), set()
    for verb, add in parser._ADDERS.items():
        made = parser._Parser(add_help=False)
        add(made)
        for action in made._actions:
            takes_value |= set(action.option_strings) if action.nargs != 0 else set()
        for option in parser._options_of(verb):
            assert option in text
    assert takes_value == spelling.TAKES_VALUE
