"""The lab finds a Debian mirror in the host's apt configuration, or debootstrap's default."""

from pathlib import Path

import pytest

from lab.errors import LabError
from lab.recipe import mirror
from lab.recipe.mirror import deb822_entries, one_line_entries


def test_mirrors_are_read_from_both_formats() -> None:
    old = (
        "# deb x://no a\ndeb [arch=amd64 signed-by=/k] x://one/debian stable main\ndeb-src y z w\n"
    )
    assert list(one_line_entries(old)) == [("x://one/debian", "stable")]
    new = (
        "Types: deb deb-src\n# note\nURIs: x://a x://b\nSuites: s\n t\nComponents: main\n\n"
        "Enabled: no\nTypes: deb\nURIs: x://c\nSuites: s\n"
    )
    pairs = [("x://a", "s"), ("x://a", "t"), ("x://b", "s"), ("x://b", "t")]
    assert list(deb822_entries(new)) == pairs


@pytest.mark.parametrize(
    ("system", "found"),
    [("ID=debian\nVERSION_CODENAME=sid\n", "x://near/debian"), ("ID=ubuntu\n", "x://far/debian")],
)
def test_whose_archive_it_is(
    system: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ubuntu's apt names is not Debian's."""
    monkeypatch.delenv("OFFSITE_LAB_MIRROR", raising=False)
    files = {"OS_RELEASE": system, "DEBOOTSTRAP": 'DEF_MIRROR="x://far/debian"\n', "KEYRING": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(mirror, name, tmp_path / name)
    (tmp_path / "sources.list").write_text("deb x://near/debian/ sid main\n")
    monkeypatch.setattr(mirror, "APT", tmp_path)
    assert mirror.mirror() == found
    (tmp_path / "DEBOOTSTRAP").write_text('DEF_MIRROR="$SOMEWHERE"\n')
    (tmp_path / "sources.list").unlink()
    with pytest.raises(LabError, match="OFFSITE_LAB_MIRROR"):
        mirror.mirror()
