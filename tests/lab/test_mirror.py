"""The lab finds a Debian mirror in the host's apt configuration."""

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
