"""Properties as zfs tells them, whatever is in their values; and as a manifest keeps them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from offsite import manifest
from offsite.errors import ZfsError
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


def write(folder: Path, told: dict[str, Property]) -> None:
    """What is set: with and without the values, and each value, in files."""
    rows = [f"{key}\t{one.value}\t{one.source}\n" for key, one in told.items()]
    (folder / "all").write_bytes("".join(rows).encode(errors="surrogateescape"))
    sources = [f"{key}\t{one.source}\n" for key, one in told.items()]
    (folder / "sources").write_text("".join(sources))
    for key, one in told.items():
        path = folder / key.replace("/", " ")
        path.write_bytes(f"{one.value}\n".encode(errors="surrogateescape"))


def pool(folder: Path, told: dict[str, Property]) -> Zfs:
    """A zfs with one dataset; by name."""
    write(folder, told)
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


def tree(folder: Path, told: dict[str, Property]) -> Zfs:
    """A zfs with tank and datasets below it, on which just this is set: by dataset, tab, name."""
    write(folder, told)
    script = f"""\
cd {folder}
case "$*" in
*" name,property,source all tank") cat sources ;;
*" name,property,value,source all tank") cat all ;;
"get -pHo value "*) echo "$4 $5" >> asked; cat "$(echo "$5	$4" | tr / ' ')" ;;
*) exit 99 ;;
esac
"""
    return Zfs(command=("/bin/sh", "-c", script, "zfs"))


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_what_is_set_below_is_exact(tmp_path: Path, value: str) -> None:
    """A value of more than one line is asked for once, where it was set."""
    told = {
        "tank\torg:x": Property(value, "local"),
        "tank/a\tcompression": Property("zstd", "received"),
        "tank/a\torg:x": Property(value, "inherited from tank"),
        "tank/b c\torg:x": Property(value, "inherited from tank"),
        "tank/b c\torg:z": Property(value, "local"),
    }
    found = properties.set_below(tree(tmp_path, told), "tank")
    assert found is not None
    assert {f"{of}\t{name}": found[of][name] for of in found for name in found[of]} == told
    asked = tmp_path / "asked"
    lines = asked.read_text().splitlines() if asked.exists() else []
    assert lines == (["org:x tank", "org:z tank/b c"] if "\n" in value else [])


def test_what_is_set_below_cannot_be_told(tmp_path: Path) -> None:
    """One looks like two, or it is changed while it is asked for."""
    odd = Property("x\tlocal\ntank/a\torg:z\tforged", "local")
    two = {"tank/a\torg:x": odd, "tank/a\torg:z": Property("real", "local")}
    assert properties.set_below(tree(tmp_path, two), "tank") is None
    zfs = tree(tmp_path, {"tank\torg:x": Property("a\nb", "local")})
    assert properties.set_below(zfs, "tank") is not None
    (tmp_path / "tank\torg:x").write_text("another\n")
    assert properties.set_below(zfs, "tank") is None
    (tmp_path / "tank\torg:x").unlink()
    with pytest.raises(ZfsError):
        properties.set_below(zfs, "tank")
    (tmp_path / "sources").write_text("")
    assert properties.set_below(zfs, "tank") is None


def test_what_is_set_below_is_asked_again(tmp_path: Path) -> None:
    """A dataset was destroyed between two questions, and when a value of it was asked for."""
    told = {"tank\torg:x": Property("a", "local"), "tank/a\torg:x": Property("b\nc", "local")}
    zfs = tree(tmp_path, told)
    gone = "echo \"cannot open 'tank/a': dataset does not exist\" >&2; exit 1"
    later = f"""\
case "$*" in
"get -pHo value "*) mv {tmp_path}/once {tmp_path}/twice && {{ {gone}; }} ;;
*" name,property,value,source all tank") mv {tmp_path}/first {tmp_path}/done && exit ;;
esac
{zfs.command[2]}
"""
    for name in ("once", "first"):
        (tmp_path / name).write_text("")
    found = properties.set_below(Zfs(("/bin/sh", "-c", later, "zfs")), "tank")
    assert found == {
        "tank": {"org:x": Property("a", "local")},
        "tank/a": {"org:x": Property("b\nc", "local")},
    }
    assert (tmp_path / "twice").exists()
    assert (tmp_path / "done").exists()


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
