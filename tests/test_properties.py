"""Which properties a restored dataset gets, and that setting them neither mounts nor fails it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from offsite import properties
from offsite.manifest import Manifest, Property
from offsite.properties import Which
from offsite.zfs.command import Zfs
from tests import repo

ODD = "one line\nand\ttwo, ünï \"'$HOME"


def manifest(flags: str = "-L", **named: str) -> Manifest:
    """``name="value source"``; __ in a name stands for its colon."""
    head = repo.head(repo.snapshot())
    head = msgspec.structs.replace(head, send=msgspec.structs.replace(head.send, flags=[flags]))
    recorded = {
        name.replace("__", ":"): Property(*text.rsplit("|", 1)) for name, text in named.items()
    }
    return repo.manifest(head, properties=recorded)


def chosen(of: Manifest, which: Which = "local", *, home: bool = False) -> list[tuple[str, str]]:
    return [(one.name, one.value) for one in properties.choose(of, which, home=home)]


SOURCES = manifest(
    atime="off|local",
    recordsize="1048576|received",
    compression="zstd|inherited from tank",
    checksum="on|default",
    readonly="on|temporary",
    used="5|-",
    org__note=f"{ODD}|local",
    org__above="x|inherited from tank",
)


def test_sources() -> None:
    local = [("atime", "off"), ("org:note", ODD), ("recordsize", "1048576")]
    assert chosen(SOURCES, "none") == []
    assert chosen(SOURCES, "local") == chosen(SOURCES, home=True) == local
    both = sorted([*local, ("compression", "zstd"), ("org:above", "x")])
    assert chosen(SOURCES, "all") == both


def test_names_that_users_give() -> None:
    names = dict.fromkeys((".dot__x", "__colon", "_under__x", "9__x-y.z"), "x|local")
    assert [name for name, _ in chosen(manifest(**names))] == [
        ".dot:x",
        "9:x-y.z",
        ":colon",
        "_under:x",
    ]


def test_where_it_is_mounted_and_shared_is_for_its_old_name() -> None:
    names = ("mountpoint", "sharenfs", "sharesmb", "canmount")
    one = manifest(**dict.fromkeys(names, "x|local"), zoned="on|local")
    places = [(name, "x") for name in names]
    assert chosen(one) == [("zoned", "on")]
    assert chosen(one, home=True) == chosen(one, "all") == [*places, ("zoned", "on")]
    inherited = manifest(mountpoint="/tank|inherited from tank")
    assert chosen(inherited, home=True) == []
    assert chosen(inherited, "all") == [("mountpoint", "/tank")]


def test_limits_come_last() -> None:
    one = manifest(
        quota="5|local", refquota="0|local", reservation="7|local", refreservation="0|received",
        snapshot_limit="18446744073709551615|local", zoned="on|local", mountpoint="/x|local",
    )  # fmt: skip
    assert chosen(one, home=True) == [
        ("mountpoint", "/x"), ("zoned", "on"), ("refquota", "none"), ("quota", "5"),
        ("refreservation", "none"), ("reservation", "7"),
        ("snapshot_limit", "18446744073709551615"),
    ]  # fmt: skip


def test_what_cannot_be_set_is_not_tried() -> None:
    never = (
        "volsize", "volblocksize", "encryption", "keyformat", "pbkdf2iters", "snapshot_count",
        "casesensitivity", "normalization", "utf8only", "offsite__restoring", "Odd Name", "-o",
    )  # fmt: skip
    assert chosen(manifest(**dict.fromkeys(never, "x|local"), org__odd="a\0b|local"), "all") == []


def test_a_key_s_place_is_for_raw_streams() -> None:
    key = {"keylocation": "file:///root/key|local"}
    assert chosen(manifest("-w", **key)) == [("keylocation", "file:///root/key")]
    assert chosen(manifest("-L", **key)) == []


# --- with a zfs -----------------------------------------------------------------------------------


@pytest.fixture
def zfs(tmp_path: Path) -> Zfs:
    """Writes down what it is asked; knows no zoned, and one other filesystem, mounted at /there."""
    script = tmp_path / "zfs"
    script.write_text(f"""\
[ "$1" = list ] || printf '%s\\n' "$*" >> {tmp_path}/calls
case "$*" in
list*) printf 'tank/old\\ton\\t/there\\ntank/off\\toff\\t/free\\ntank/new\\ton\\t/free\\n' ;;
"set zoned="*) echo "cannot set property for 'tank/new': invalid property 'zoned'" >&2; exit 1 ;;
"set canmount="*) [ ! -e {tmp_path}/refuses ] || {{ echo 'permission denied' >&2; exit 1; }} ;;
esac
""")
    return Zfs(command=("/bin/sh", str(script)))


def put(zfs: Zfs, tmp_path: Path, **named: str) -> tuple[tuple[str, ...], list[str], list[str]]:
    """Return the names that were set, the calls and the warnings."""
    one, told = manifest(**named), repo.Recorder()
    settings = properties.choose(one, "local", home=True)
    done = properties.put(zfs, "tank/new", settings, one, told)
    path = tmp_path / "calls"
    calls = path.read_text().split(" tank/new\n")[:-1] if path.exists() else []
    path.unlink(missing_ok=True)
    return done, [call.removeprefix("set ") for call in calls], told.warnings


def test_what_zfs_does_not_know_is_a_warning(zfs: Zfs, tmp_path: Path) -> None:
    done, calls, warnings = put(
        zfs, tmp_path, zoned=f"{'x' * 59}\n{'y' * 9}|local", org__note=f"{ODD}|local"
    )
    assert done == ("org:note",)
    assert calls[1] == f"org:note={ODD}"
    assert warnings == [
        f"zoned={'x' * 59}?… could not be set on tank/new: zfs set: invalid property 'zoned'"
    ]


@pytest.mark.parametrize("canmount", [None, "on", "noauto", "off"])
def test_a_mountpoint_does_not_mount(zfs: Zfs, tmp_path: Path, canmount: str | None) -> None:
    named = {"canmount": f"{canmount}|local"} if canmount else {}
    done, calls, warnings = put(zfs, tmp_path, mountpoint="/free|local", **named)
    assert done == ("mountpoint", "canmount")[: 1 + bool(canmount)]
    last = f"canmount={canmount}" if canmount else "inherit -S canmount"
    assert calls == ["canmount=noauto", "mountpoint=/free", last]
    assert warnings == []
    # zfs received it so, whatever is to be set on it.
    calls = put(zfs, tmp_path, atime="off|local")[1]
    assert calls == ["canmount=noauto", "atime=off", "inherit -S canmount"]


def test_a_volume_is_not_asked_to_mount(zfs: Zfs, tmp_path: Path) -> None:
    one = manifest(atime="off|local")
    facts = msgspec.structs.replace(one.head.dataset, type="volume")
    head = msgspec.structs.replace(one.head, dataset=facts)
    volume, told = msgspec.structs.replace(one, head=head), repo.Recorder()
    settings = properties.choose(volume, "local", home=True)
    assert properties.put(zfs, "tank/new", settings, volume, told) == ("atime",)
    assert (tmp_path / "calls").read_text() == "set atime=off tank/new\n"


def test_two_datasets_are_not_mounted_at_one_place(zfs: Zfs, tmp_path: Path) -> None:
    done, calls, warnings = put(zfs, tmp_path, mountpoint="/there|local", canmount="on|local")
    assert done == ("mountpoint",)
    assert calls == ["canmount=noauto", "mountpoint=/there"]
    assert "tank/new and tank/old have the same mountpoint" in warnings[0]
    assert len(warnings) == 1


def test_nothing_is_mounted_by_a_user_who_must_not_say_so(zfs: Zfs, tmp_path: Path) -> None:
    (tmp_path / "refuses").touch()
    done, calls, warnings = put(zfs, tmp_path, mountpoint="/free|local", atime="off|local")
    assert done == ("atime",)
    assert calls == ["canmount=noauto", "atime=off"]
    assert "canmount=noauto could not be set on tank/new: zfs set: permission denied" in warnings[0]
