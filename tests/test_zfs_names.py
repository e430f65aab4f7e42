"""ZFS's naming rules, as OpenZFS 2.1 applies them.

tests/lab/zfs/test_datasets.py asks the real one.
"""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsite.errors import UsageError
from offsite.zfs.names import (
    check_base_name,
    check_dataset_name,
    check_snapshot_name,
    parent_of,
    pool_of,
    split_snapshot,
)

GOOD = [
    "tank",
    "tank/photos",
    "tank/Photos 2024/a.b:c_d-e",
    "tank/-dash",
    "tank/ space ",
    "T" + "/x" * 127,
]


@pytest.mark.parametrize("name", GOOD)
def test_what_zfs_allows_passes(name: str) -> None:
    check_dataset_name(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        ("tank/ü", r"character 'ü' \(U\+00FC\) at position 6 is not allowed"),
        ("tank/a\nb", r"'tank/a\\nb': character '\\n' \(U\+000A\) at position 7"),
        ("tank/a%b", r"character '%'"),
        ("tank/$(reboot)", r"character '\$'"),
        ("tank/a;b", "character ';'"),
        ("tank/a'b", 'character "\'"'),
        ("tank/a@b", "character '@'"),
        ("tank/a#b", "character '#'"),
        ("-tank/a", "does not start with a letter"),
        ("1tank", "does not start with a letter"),
        ("/tank", "empty, '.' or '..' part"),
        ("tank/", "empty, '.' or '..' part"),
        ("tank//a", "empty, '.' or '..' part"),
        ("tank/./a", "empty, '.' or '..' part"),
        ("tank/..", "empty, '.' or '..' part"),
        ("tank/" + "a" * 251, "has 256 characters"),
    ],
)
def test_a_bad_dataset_name_is_refused_with_its_reason(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        check_dataset_name(name)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["tank@a", "tank/x y@auto-2024.01.01 10:00", "tank/a@-x"])
def test_snapshot_names(name: str) -> None:
    check_snapshot_name(name)
    check_base_name(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tank/a", "has no @"),
        ("tank@", "empty, '.' or '..' part"),
        ("tank@.", "empty, '.' or '..' part"),
        ("@a", "empty, '.' or '..' part"),
        ("tank@a@b", "nothing may follow @a"),
        ("tank@a/b", "nothing may follow @a"),
        ("tank#a", "has no @"),
        ("tank@a#b", "character '#'"),
        ("tank@" + "a" * 251, "has 256 characters"),
    ],
)
def test_a_bad_snapshot_name_is_refused_with_its_reason(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_snapshot_name(name)


def test_a_base_may_be_a_bookmark() -> None:
    check_base_name("tank/a#b")
    with pytest.raises(UsageError, match="has no @ or #"):
        check_base_name("tank/a")
    with pytest.raises(UsageError, match="nothing may follow #a"):
        check_base_name("tank#a@b")


def test_parts() -> None:
    assert [pool_of(name) for name in ("tank", "tank/a/b@c", "tank@x", "tank#x")] == ["tank"] * 4
    assert [parent_of(name) for name in ("tank", "tank/a/b")] == [None, "tank/a"]
    assert split_snapshot("tank/a@b") == ("tank/a", "b")


@given(st.text(alphabet=string.printable + "äß€\x00\x1b\u2028", max_size=300))
def test_no_name_that_passes_can_be_an_option_or_hold_a_shell_character(name: str) -> None:
    why = None
    try:
        check_snapshot_name(name)
    except UsageError as error:
        why = str(error)
    if why is not None:
        assert why.isprintable()
    else:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.: /-]*@[A-Za-z0-9_.: -]+", name)
        assert len(name) <= 255
