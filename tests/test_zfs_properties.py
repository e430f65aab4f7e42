"""Properties as zfs tells them, whatever is in their values; and as a manifest keeps them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from offsite import manifest
from offsite.zfs import properties
from offsite.zfs.command import Zfs
from offsite.zfs.properties import Property

ODD = {
    "plain": "x",
    "empty": "",
    "tabs": "a\tb\tlocal",
    "lines": "a\nb\n",
    "like a row of its own": "x\tlocal\norg:z\tforged\tlocal",
    "like the row that follows": "x\tlocal\norg:z\tforged",
    "no UTF-8": "a\udcff\tb\udc80\n",
}


def pool(folder: Path, told: dict[str, Property]) -> Zfs:
    """A zfs with one dataset."""
    rows = [f"{name}\t{one.value}\t{one.source}\n" for name, one in told.items()]
    (folder / "all").write_bytes("".join(rows).encode(errors="surrogateescape"))
    sources = [f"{name}\t{one.source}\n" for name, one in told.items()]
    (folder / "sources").write_text("".join(sources))
    for name, one in told.items():
        (folder / name).write_bytes(f"{one.value}\n".encode(errors="surrogateescape"))
    script = f"""\
cd {folder}
echo "$4" >> asked
case "$*" in
"get -pHo property,source all tank/a") cat sources ;;
"get -pHo property,value,source all tank/a") cat all ;;
"get -pHo value "*" tank/a") cat "$4" ;;
*) exit 99 ;;
esac
"""
    return Zfs(command=("/bin/sh", "-c", script, "zfs"))


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_values_are_exact(tmp_path: Path, value: str) -> None:
    told = {
        "atime": Property("off", "inherited from tank"),
        "type": Property("filesystem", "-"),
        "org:x": Property(value, "local"),
        "org:z": Property("real", "local"),
    }
    assert properties.effective(pool(tmp_path, told), "tank/a") == told
    asked = (tmp_path / "asked").read_text().split()
    assert asked[2:] == (["atime", "org:x", "org:z"] if "\n" in value else [])


def test_what_changes_while_it_is_asked(tmp_path: Path) -> None:
    """Of what zfs itself chose nothing is recorded then; what is set is exact."""
    told = {"org:x": Property("a\nb", "local"), "type": Property("filesystem", "-")}
    zfs = pool(tmp_path, told)
    (tmp_path / "org:x").write_text("now\tanother\n")
    assert properties.effective(zfs, "tank/a") == {"org:x": Property("now\tanother", "local")}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_a_manifest_keeps_every_byte(value: str) -> None:
    kept = manifest.Property.of(value, "local")
    line = msgspec.json.encode(kept)
    read = msgspec.json.decode(line, type=manifest.Property)
    assert (read, read.exact) == (kept, value)
    assert (b"base64" in line) == ("\udcff" in value)


def test_what_is_no_base64_is_refused() -> None:
    line = b'{"value":"x","source":"local","base64":"a?"}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(line, type=manifest.Property)
