"""config.env as people write it, wrong and right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite import config, envfile
from offsite.config import Config, Provider
from offsite.errors import ConfigError, UsageError

MIB = 1 << 20
Load = Callable[..., Config]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc" / "config.env")
    path = tmp_path / ".config" / "offsite" / "config.env"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def load(file: Path, tmp_path: Path) -> Load:
    """Load with this text as config.env and these variables as the environment."""

    def load_text(text: str, **environ: str) -> Config:
        file.write_text(text)
        file.chmod(0o600)
        return config.load({"HOME": str(tmp_path)} | environ)

    return load_text


def names(found: Config) -> list[str]:
    return [provider.name for provider in found.providers]


def test_defaults(load: Load, tmp_path: Path) -> None:
    found = load("")
    assert found == Config(
        providers=(),
        aliases={},
        rclone_config=None,
        rclone_flags=(),
        recipients_file=tmp_path / ".config/age/zfs-backup.pub",
        identity_file=tmp_path / ".config/age/zfs-backup.txt",
        catalog_key_file=tmp_path / ".config/offsite/catalog.key",
        signing_key_file=tmp_path / ".config/offsite/signing.key",
        allowed_signers_file=tmp_path / ".config/offsite/allowed_signers",
        snap_prefix="auto",
        retention_days=None,
        full_every=None,
        max_chain=None,
        send_raw=True,
        send_compressed=None,
        chunk_size=32 * MIB,
        memory_limit=1024 * MIB,
        zfs_command=("zfs",),
        zfs_ssh=None,
        zfs_ssh_options=(),
        compression=2,
        environment={},
        warnings=(),
    )


def test_home_in_the_file_where_the_environment_has_none(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under systemd: it is the one of the user's account, and not an empty word."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    file.write_text('SIGNING_KEY_FILE="$HOME/s"\nAGE_PUBLIC_KEY_FILE=${HOME}/p\n')
    found = config.load({})
    assert (found.signing_key_file, found.recipients_file) == (tmp_path / "s", tmp_path / "p")


def test_everything_set(load: Load, tmp_path: Path) -> None:
    (tmp_path / "rclone.conf").touch()
    found = load("""
        # where
        export RCLONE_REMOTE="b2:bucket/path"
        Wasabi_REMOTE='s3:a b/$HOME'      # literal
        RCLONE_CONFIG_PATH="${HOME}/rclone.conf"
        RCLONE_FLAGS="--bwlimit 4M --header 'X-A: b c'"
        AGE_PUBLIC_KEY_FILE=~/keys/a\\ b.pub
        AGE_PRIVATE_KEY_FILE="~/keys/id"
        CATALOG_KEY_FILE="$HOME/c"
        SIGNING_KEY_FILE=$HOME/s
        ALLOWED_SIGNERS_FILE=/w
        ZFS_SNAP_PREFIX=nightly
        ZFS_RETENTION_DAYS=30
        SHARD_SIZE=64M
        MEMORY_LIMIT="2 GiB"
        ZFS_COMMAND="sudo -n zfs"
        ZFS_SSH=root@nas
        ZFS_SSH_OPTIONS="-F ~/ssh.conf -i $HOME/key"
        COMPRESSION=fast
        TEMP_DIR=/tmp
        ZFS_POOL="rust"
    """)
    assert found.providers == (
        Provider("default", "b2:bucket/path"),
        Provider("wasabi", "s3:a b/$HOME"),
    )
    assert found.rclone_config == tmp_path / "rclone.conf"
    assert found.rclone_flags == ("--bwlimit", "4M", "--header", "X-A: b c")
    assert found.recipients_file == tmp_path / "keys/a b.pub"
    assert found.identity_file == tmp_path / "keys/id"
    assert found.catalog_key_file == tmp_path / "c"
    assert found.signing_key_file == tmp_path / "s"
    assert found.allowed_signers_file == Path("/w")
    assert (found.snap_prefix, found.retention_days) == ("nightly", 30)
    assert (found.chunk_size, found.memory_limit) == (64 * MIB, 2048 * MIB)
    assert found.zfs_command == ("sudo", "-n", "zfs")
    assert found.zfs_ssh == "root@nas"
    assert found.zfs_ssh_options == ("-F", f"{tmp_path}/ssh.conf", "-i", f"{tmp_path}/key")
    assert found.compression == 1
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('A="$X/b"', "x/b"),
        ("A='$X/b'", "$X/b"),
        ("A=$X/b", "x/b"),
        ('A="\\$X \\" \\\\ \\n"', '$X " \\ \\n'),
        ("A='a\\nb'", "a\\nb"),
        ("A=a\\ b", "a b"),
        ('A="${NONE:-$X}"', None),
        ('A="${NONE:-d}${X:-e}"', "dx"),
        ('A="$NONE."', "."),
        ("A=~", "/home/me"),
        ("A=~/b", "/home/me/b"),
        ('A="~/b"', "~/b"),
        ("A=a # comment", "a"),
        ("A=a#b", "a#b"),
        ("A= # comment", ""),
        ("export A=1\r\n", "1"),
        ('A="cost: 5$"', "cost: 5$"),
        ('A="\'"', "'"),
    ],
)
def test_values_are_what_a_shell_would_make_of_them(
    tmp_path: Path, line: str, value: str | None
) -> None:
    file = tmp_path / "e"
    file.write_bytes(line.encode())
    (setting,) = envfile.read(file, {"HOME": "/home/me", "X": "x"}).settings
    assert (None if setting.problem else setting.value) == value


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="'\\\0\r", exclude_categories=["Cs"])))
def test_single_quotes_are_literal(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("env") / "e"
    file.write_text(f"A='{text}'\nB=2\n", encoding="utf-8", newline="")
    found = envfile.read(file, {}).settings
    assert [setting.value for setting in found] == [text, "2"]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.mktemp("env") / "e"
    file.write_bytes(b"RCLONE_REMOTE=" + data)
    try:
        found = config.load({"HOME": "/h", "OFFSITE_CONFIG": str(file)})
    except ConfigError as error:
        assert str(file) in str(error)  # noqa: PT017
    else:
        assert len(found.providers) <= 1


@pytest.mark.parametrize("code", ['"$(touch {})"', "$(touch {})", "`touch {}`", '"a`touch {}`"'])
def test_commands_are_never_run(load: Load, file: Path, tmp_path: Path, code: str) -> None:
    trap = tmp_path / "trap"
    command = code.replace("{}", str(trap))
    with pytest.raises(ConfigError) as refused:
        load(f"\n\nZFS_SSH={command}\n")
    assert str(refused.value) == (
        f"{file}:3: ZFS_SSH: a command in it is never run; write the value itself"
    )
    assert load(f"OTHER={command}\ntouch {trap}\n").warnings == (
        f'{file}:2: ignored, as it is not of the form KEY="value"',
        f"{file}:1: OTHER: unknown key, ignored",
    )
    assert load(f"TEMP_DIR={command}\nZFS_SSH='nas'\n").zfs_ssh == "nas"
    assert not trap.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SHARD_SIZE=big", "SHARD_SIZE: 'big' is not a size; allowed: 1M to 256M, with K, M or G"),
        ("CHUNK_SIZE=1T", "CHUNK_SIZE: 1T is out of range; allowed: 1M to 256M, with K, M or G"),
        ("SHARD_SIZE=1023K", "SHARD_SIZE: 1023K is out of range"),
        ("SHARD_SIZE=-5M", "SHARD_SIZE: '-5M' is not a size"),
        ("MEMORY_LIMIT=255M", "MEMORY_LIMIT: 255M is out of range; allowed: 256M to 1024G"),
        ("COMPRESSION=20", "COMPRESSION: '20'; allowed: 1 to 19, fast, default, best"),
        ("COMPRESSION=gzip", "COMPRESSION: 'gzip'"),
        ("ZFS_RETENTION_DAYS=-1", "'-1' is not a number of days; allowed: 0 to 36500"),
        ("ZFS_RETENTION_DAYS=²", "is not a number of days"),
        ("FULL_EVERY=weekly", "FULL_EVERY: 'weekly' is not a number of days; allowed: 0 to 36500"),
        ("MAX_CHAIN=-1", "MAX_CHAIN: '-1' is not a number; allowed: 0 to 99999"),
        ("SEND_RAW=maybe", "SEND_RAW: 'maybe'; allowed: yes, no"),
        ("SEND_COMPRESSED=2", "SEND_COMPRESSED: '2'; allowed: yes, no"),
        ("ZFS_SNAP_PREFIX=a@b", "ZFS_SNAP_PREFIX: 'a@b'; allowed: letters"),
        ("ZFS_SNAP_PREFIX=-x", "ZFS_SNAP_PREFIX: '-x'"),
        ("ZFS_SSH=-oProxyCommand=x", "ZFS_SSH: not a host"),
        ("ZFS_SSH='nas -v'", "ZFS_SSH: not a host"),
        ('RCLONE_FLAGS="--a \'b"', "RCLONE_FLAGS: no closing quotation"),
        ("RCLONE_CONFIG_PATH=/nowhere/r.conf", "/nowhere/r.conf: no such file"),
        ("RCLONE_REMOTE=bucket/path", "not a place rclone knows; allowed: remote:path"),
        ("RCLONE_REMOTE=-b2:x", "not a place rclone knows"),
        ("ALL_REMOTE=b2:x", "ALL_REMOTE: the name all is taken"),
        ("DEFAULT_REMOTE=b2:x", "DEFAULT_REMOTE: the name default is taken"),
        ("a_REMOTE=b2:x\nA_REMOTE=b2:y", "A_REMOTE: the name a is taken"),
        ('ZFS_SSH="nas', "ZFS_SSH: put quotes around the whole value"),
        ('ZFS_SSH="nas\nCOMPRESSION="3"', "ZFS_SSH: put quotes around the whole value"),
        ('ZFS_SSH="nas\n"', "ZFS_SSH: a line break or control character in the value"),
        ('ZFS_SSH=$HOME/"a b"', "ZFS_SSH: put quotes around the whole value"),
        ('ZFS_SSH="${HOME%/}"', "ZFS_SSH: ${HOME%/} is not understood"),
    ],
)
def test_bad_values_are_placed_and_say_what_is_allowed(
    load: Load, file: Path, line: str, message: str
) -> None:
    number = 2 if line.startswith("a_REMOTE") else 1
    with pytest.raises(ConfigError) as refused:
        load(line)
    assert str(refused.value).startswith(f"{file}:{number}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_bad_value_in_the_environment(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"^environment: COMPRESSION: '99'"):
        load("COMPRESSION=3", COMPRESSION="99")


@pytest.mark.parametrize(
    ("text", "size"),
    [("8M", 8), ("8m", 8), ("8MB", 8), ("8 MiB", 8), ("8192K", 8), ("8388608", 8), ("8388608B", 8)],
)
def test_sizes_are_binary(load: Load, text: str, size: int) -> None:
    assert load(f'SHARD_SIZE="{text}"').chunk_size == size * MIB


def test_the_bounds_themselves_are_allowed(load: Load) -> None:
    assert load("SHARD_SIZE=1M\nMEMORY_LIMIT=256M\n").chunk_size == MIB
    assert load("MEMORY_LIMIT=511M\n").chunk_size == 8 * MIB
    assert load("MEMORY_LIMIT=512M\n").chunk_size == 32 * MIB
    assert load("SHARD_SIZE=256M\nMEMORY_LIMIT=1T\n").memory_limit == 1 << 40


def test_a_shard_size_of_the_older_tool(load: Load, file: Path) -> None:
    """Its shards were files; a chunk is held in memory."""
    settings = load('SHARD_SIZE="1G"')
    assert settings.chunk_size == 32 * MIB
    assert settings.warnings == (
        f"{file}:1: SHARD_SIZE: 1G is more than 256M, the most that a chunk may have; 32M is used",
    )


def test_what_only_the_older_tool_needed_is_no_news(load: Load) -> None:
    """Its own B2 and Scaleway access, which is in rclone's settings today; its folder of temporary
    files, its log and its pool."""
    found = load(
        "B2_KEY_ID=004aaaa\nB2_APPLICATION_KEY=K004s3cr3t\nB2_BUCKET_NAME=backups\n"
        "SCW_ACCESS_KEY=SCWAAAA\nSCW_SECRET_KEY=s3cr3t\nSCW_BUCKET_NAME=backups\n"
        "TEMP_DIR=/tmp/zfs-backup\nBACKUP_LOG_FILE=/var/log/zfs.log\nZFS_POOL=tank\n"
        "ZFS_RETENTION_DAYS=90\nRCLONE_REMOTE=b2:backups\n"
    )
    assert (found.warnings, names(found)) == ((), ["default"])
    assert "s3cr3t" not in repr(found)


def test_keys_for_rclone_that_are_almost_ours(load: Load, file: Path) -> None:
    """They are rclone's, but it would not tell of one that it does not know."""
    text = "RCLONE_FLAG=--fast-list\nRCLONE_CONFIG_PASS=x\nRCLONE_TRANSFERS=3\nRCLONE_REMOTES=a:\n"
    assert load(text).warnings == (
        f"{file}:1: RCLONE_FLAG: left to rclone; did you mean RCLONE_FLAGS?",
        f"{file}:4: RCLONE_REMOTES: left to rclone; did you mean RCLONE_REMOTE?",
    )


def test_unknown_keys_name_the_nearest(load: Load, file: Path) -> None:
    text = "A=1\nSHARDSIZE=8M\nzfs_ssh=nas\nRETENTION_DAYS=3\nusbdisk_remote=/mnt/a\n"
    assert load(text).warnings == (
        f"{file}:1: A: unknown key, ignored",
        f"{file}:2: SHARDSIZE: unknown key, ignored; did you mean SHARD_SIZE?",
        f"{file}:3: zfs_ssh: unknown key, ignored; did you mean ZFS_SSH?",
        f"{file}:4: RETENTION_DAYS: unknown key, ignored; did you mean ZFS_RETENTION_DAYS?",
        f"{file}:5: usbdisk_remote: unknown key, ignored; did you mean USBDISK_REMOTE?",
    )


def test_user_file_over_system_file_and_environment_over_both(load: Load, tmp_path: Path) -> None:
    config.SYSTEM_FILE.parent.mkdir()
    config.SYSTEM_FILE.write_text("SHARD_SIZE=8M\nZFS_SSH=etc\nCOMPRESSION=9\nRCLONE_REMOTE=a:\n")
    found = load("ZFS_SSH=user\nCOMPRESSION=8\n", COMPRESSION="7", CHUNK_SIZE="16M")
    assert (found.chunk_size, found.zfs_ssh, found.compression) == (16 * MIB, "user", 7)
    assert names(found) == ["default"]
    other = tmp_path / "other.env"
    other.write_text("ZFS_SSH=other\n")
    alone = load("ZFS_SSH=user\n", OFFSITE_CONFIG="~/other.env")
    assert (alone.zfs_ssh, alone.compression, names(alone)) == ("other", 2, [])


def test_an_empty_value_is_the_default(load: Load) -> None:
    assert load("ZFS_SSH=nas\nCOMPRESSION=\nA_REMOTE=\n", ZFS_SSH="").zfs_ssh is None


def test_named_file_that_is_missing(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none: cannot be read: No such file") as refused:
        load("", OFFSITE_CONFIG=str(tmp_path / "none"))
    assert "OFFSITE_CONFIG" in str(refused.value.hint)


def test_only_expected_remotes_come_from_the_environment(load: Load) -> None:
    found = load(
        "WEST_REMOTE=b2:west",
        WEST_REMOTE="b2:new",
        GIT_REMOTE="origin:x",
        SCALEWAY_REMOTE="scw:x",
        RCLONE_REMOTE="b2:main",
    )
    assert found.providers == (
        Provider("default", "b2:main"),
        Provider("west", "b2:new"),
        Provider("scaleway", "scw:x"),
    )


def test_the_old_names_of_the_only_provider(load: Load) -> None:
    found = load("RCLONE_REMOTE=b2:x\nSCALEWAY_REMOTE=scw:y\n")
    assert found.select("bb") == found.select("Backblaze") == found.select("default")
    assert found.select("SCW") == (Provider("scaleway", "scw:y"),)
    found = load("RCLONE_REMOTE=b2:x\nBACKBLAZE_REMOTE=b2:z\nSCW_REMOTE=scw:y\n")
    assert found.select("bb") == (Provider("backblaze", "b2:z"),)
    assert found.select("scaleway") == (Provider("scw", "scw:y"),)


def test_select(load: Load) -> None:
    found = load("RCLONE_REMOTE=b2:x\nNEW_YORK_REMOTE=/mnt/ny/\n")
    assert [p.name for p in found.select("all")] == ["default", "new_york"]
    assert [p.name for p in found.select("new-york, bb,default")] == ["new_york", "default"]
    assert found.select("new_york")[0].remote == "/mnt/ny"
    with pytest.raises(UsageError) as refused:
        found.select("bb,new_yrok")
    assert str(refused.value) == "unknown provider 'new_yrok'"
    assert refused.value.hint == (
        "did you mean new_york? configured: backblaze, bb, default, new_york"
    )
    with pytest.raises(UsageError):
        found.select("")


def test_no_provider_says_which_file_to_write(load: Load) -> None:
    with pytest.raises(ConfigError) as refused:
        load("").select("all")
    assert "~/.config/offsite/config.env" in str(refused.value.hint)
    assert "setup.sh" in str(refused.value.hint)


def test_one_place_under_two_names_is_used_once(load: Load, file: Path) -> None:
    found = load("BACKBLAZE_REMOTE=b2:x/\nRCLONE_REMOTE=b2:x\n")
    assert found.providers == (Provider("default", "b2:x"),)
    assert found.select("backblaze,bb") == found.providers
    assert found.warnings == (
        f"{file}:1: BACKBLAZE_REMOTE: the same place as default; used once, under both names",
    )


def test_rclones_own_settings_are_passed_on_and_never_shown(load: Load, file: Path) -> None:
    text = "RCLONE_CONFIG_PASS='s3cr3t\\x'\nRCLONE_CONFIG_MINE_REMOTE=b2:x\nRCLONE_BWLIMIT=1M\n"
    found = load(text, RCLONE_BWLIMIT="2M")
    assert found.environment == {
        "RCLONE_CONFIG_PASS": "s3cr3t\\x",
        "RCLONE_CONFIG_MINE_REMOTE": "b2:x",
    }
    assert found.providers == ()
    assert "s3cr3t" not in repr(found)
    assert "s3cr3t" not in repr(envfile.read(file, {}))


def test_a_secret_that_others_can_read(load: Load, file: Path, tmp_path: Path) -> None:
    load("RCLONE_CONFIG_PASS=x\n")
    file.chmod(0o644)
    (warning,) = config.load({"HOME": str(tmp_path)}).warnings
    assert warning == f"{file}: holds a secret and is readable by others; chmod 600 it"
    file.write_text("ZFS_SSH=nas\n")
    assert config.load({"HOME": str(tmp_path)}).warnings == ()


def test_a_file_that_a_windows_editor_saved(load: Load, file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfNAS_REMOTE=nas:b\r\nZFS_SSH=nas\r\n")
    found = config.load({"HOME": str(tmp_path)})
    assert (names(found), found.zfs_ssh, found.warnings) == (["nas"], "nas", ())


def test_not_utf8(load: Load, file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"ZFS_SSH=nas\xff\n")
    with pytest.raises(ConfigError, match=r"config\.env: is not UTF-8 text \(byte 11\)"):
        config.load({"HOME": str(tmp_path)})
