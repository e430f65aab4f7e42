"""--verbose: every command that is run, and no secret."""

from __future__ import annotations

import re
from pathlib import Path

from tests import repo, whole


def test_every_command_is_in_the_log_and_no_secret(tmp_path: Path) -> None:
    with whole.home(tmp_path / "home") as home:
        home.configure(
            ONE_REMOTE=f":local,description=hunter22:{tmp_path}",
            RCLONE_FLAGS="--header X-Auth:hunter22",
            RCLONE_CONFIG_OTHER_PASS="hunter22",
        )
        home.snapshot("monday", repo.stream(77, [b"x" * 100]), guid=77)
        ran = home.offsite("--backup", f"{whole.DATASET}@monday", "--verbose")
        assert ran.status == 0, ran
        (log,) = home.folder.glob("offsite-backup-*.log")
        text = log.read_text()
        zfs = r"DEBUG: /bin/sh \S+/zfs "
        assert re.search(rf"{zfs}list .*: status 0 after \d+\.\d\d s", text)
        assert re.search(rf"{zfs}send -L tank/photos@monday: started as process \d+", text)
        assert re.search(rf"{zfs}send -L tank/photos@monday: status 0 after", text)
        assert re.search(r"DEBUG: \S+rclone serve restic .*--header '\*\*\*' offsite_target:", text)
        assert re.search(r"rclone serve restic .*: status -?\d+ after", text)
        assert "hunter22" not in text + ran.stdout + ran.stderr
        assert "AGE-SECRET-KEY" not in text
        assert "DEBUG" not in home.offsite("--list", "--json").stderr
