"""The stream that continues an interrupted receive, made from pieces of a stored one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite.zfs import nvlist
from offsite.zfs.records import HEADER_SIZE, Feature, Kind
from offsite.zfs.resuming import Resuming
from offsite.zfs.stream import Follower, StreamError
from offsite.zfs.walk import NoSeamError
from tests.test_zfs_nvlist import XDR
from tests.test_zfs_vectors import FACTS, stream
from tests.thorough import examples
from tests.zfs_streams import (
    END,
    TO_THE_END,
    WRITES,
    Place,
    Record,
    begin,
    features_of,
    governing,
    is_sound,
    parts_of,
    pieces,
    place,
    sizes,
    split,
    stream_records,
    summed,
    with_begin,
)

Token = tuple[int, int]


def places(parts: list[bytes]) -> list[Place]:
    """Of every part; BEGIN's is no record's."""
    return [Place(Kind.BEGIN, 0, 0), *map(place, parts[1:])]


def tokens(parts: list[bytes]) -> list[Token]:
    """All that a receive can have: of data, and of objects at offset 0."""
    return sorted(
        {(1, 0)}
        | {(each.object, each.offset) for each in places(parts) if each.kind in WRITES}
        | {(each.object, 0) for each in places(parts) if each.kind == Kind.OBJECT}
    )


def start_of(parts: list[bytes], token: Token) -> int:
    """The part from which on all are passed on."""
    kinds = WRITES if token[1] else {Kind.OBJECT}
    wanted = [Place(kind, *token) for kind in kinds]
    return 1 if token == (1, 0) else next(n for n, at in enumerate(places(parts)) if at in wanted)


def governs(parts: list[bytes], start: int) -> list[int]:
    """The last OBJECT_RANGE and the last OBJECT before a part."""
    found = [
        [n for n in range(1, start) if parts[n][0] == kind][-1:]
        for kind in (Kind.OBJECT_RANGE, Kind.OBJECT)
    ]
    return [n for each in found for n in each]


def expected(parts: list[bytes], token: Token) -> bytes:
    """Straight from the rules."""
    start = start_of(parts, token)
    pairs = {"resume_object": token[0], "resume_offset": token[1]}
    payload = nvlist.insert(parts[0][HEADER_SIZE:], pairs)
    before: list[bytes] = []
    if token[1]:
        before = governing(parts, start)
    elif token != (1, 0):
        before = [part for part in parts[1:start] if part[0] == Kind.OBJECT_RANGE][-1:]
    head = with_begin(parts[0], features_of(parts[0]) | Feature.RESUMING, payload)
    return summed([head, *before, *parts[start:]])


def resume(
    parts: list[bytes], token: Token, governs: list[int], start: int, sizes: list[int]
) -> bytes:
    """Govern from each of these parts on, then stream from the part ``start`` on."""
    resuming = Resuming(parts[0], *token)
    for at in governs:
        resuming.govern(pieces(b"".join(parts[at:]), sizes))
    rest = pieces(b"".join(parts[start:]), sizes)
    return b"".join(bytes(piece) for piece in resuming.stream(rest))


@given(records=stream_records(), data=st.data(), sizes=sizes)
@settings(max_examples=examples(40), deadline=None)
def test_every_token_of_any_stream(
    records: list[Record], data: st.DataObject, sizes: list[int]
) -> None:
    parts = parts_of(records)
    token = data.draw(st.sampled_from(tokens(parts)))
    start = start_of(parts, token)
    begins = 1 if token == (1, 0) else data.draw(st.integers(1, start))
    assert resume(parts, token, governs(parts, start), begins, sizes) == expected(parts, token)


@pytest.mark.parametrize("name", FACTS)
def test_every_token_of_a_real_stream(name: str) -> None:
    parts = split(stream(name))
    for token in tokens(parts):
        wanted = expected(parts, token)
        start = start_of(parts, token)
        assert resume(parts, token, governs(parts, start), start, [1 << 16]) == wanted
        assert resume(parts, token, [], 1, [10007]) == wanted


def test_what_begin_says() -> None:
    parts = split(stream("raw"))
    made = split(resume(parts, (1, 0), [], 1, [1 << 20]))
    own = nvlist.decode(parts[0][HEADER_SIZE:])
    added = {"resume_object": 1, "resume_offset": 0}
    assert "crypt_keydata" in own
    assert nvlist.decode(made[0][HEADER_SIZE:]) == added | own
    assert features_of(made[0]) == features_of(parts[0]) | Feature.RESUMING
    changed = [at for at in range(HEADER_SIZE) if made[0][at] != parts[0][at]]
    assert set(changed) <= {4, 5, *range(16, 24)}


RECORDS = [
    Record(Kind.OBJECT_RANGE, 0, length=32),
    Record(Kind.FREEOBJECTS, 1, length=6),
    Record(Kind.OBJECT, 7, payload=b"a bonus!"),
    Record(Kind.FREE, 7, 1 << 20, length=TO_THE_END),
    Record(Kind.SPILL, 7, payload=b"unmodified!!", flags=4),
    Record(Kind.FREE, 7, 0, length=131072),
    Record(Kind.WRITE, 7, 1 << 17, payload=b"four" * 30),
    Record(Kind.WRITE, 7, 2 << 17, payload=b"more" * 3),
    Record(Kind.OBJECT_RANGE, 32, length=32),
    Record(Kind.OBJECT, 40),
    Record(Kind.SPILL, 40, payload=b"modified"),
    Record(Kind.WRITE_EMBEDDED, 40, 0, payload=b"embedded"),
    Record(Kind.WRITE_EMBEDDED, 40, 1 << 17, payload=b"embedded"),
    Record(Kind.OBJECT, 41),
]
PARTS = parts_of(RECORDS)


def kinds(data: bytes) -> list[str]:
    return [each.kind.name for each in places(split(data))]


def test_the_three_rules() -> None:
    every = [1 << 20]
    assert kinds(resume(PARTS, (1, 0), [], 1, every)) == kinds(b"".join(PARTS))
    found = resume(PARTS, (7, 2 << 17), [], 1, every)
    assert kinds(found)[:6] == ["BEGIN", "OBJECT_RANGE", "OBJECT", "FREE", "SPILL", "WRITE"]
    assert kinds(found)[5:] == kinds(b"".join(PARTS))[8:]
    found = resume(PARTS, (40, 1 << 17), [], 1, every)
    assert kinds(found)[1:] == ["OBJECT_RANGE", "OBJECT", "WRITE_EMBEDDED", "OBJECT", "END"]
    found = resume(PARTS, (40, 0), [], 1, every)
    assert kinds(found) == ["BEGIN", *kinds(b"".join(PARTS))[9:]]
    found = resume(PARTS, (41, 0), [], 1, every)
    assert kinds(found) == ["BEGIN", "OBJECT_RANGE", "OBJECT", "END"]
    assert place(split(found)[1]).object == 32


def test_what_governs_may_be_far_away_and_apart() -> None:
    """Parts of the stream with others between them, and ends within a record."""
    token = (7, 2 << 17)
    resuming = Resuming(PARTS[0], *token)
    assert not resuming.govern(pieces(PARTS[1] + PARTS[2][:100], [50]))
    assert not resuming.govern(pieces(PARTS[2] + PARTS[3] + PARTS[4][:-1], [50]))
    assert not resuming.govern(pieces(PARTS[9], [50]))
    assert resuming.govern(pieces(b"".join(PARTS[3:]), [50]))
    assert resuming.govern(pieces(b"not even looked at", [50]))
    found = b"".join(map(bytes, resuming.stream(pieces(b"".join(PARTS[8:]), [50]))))
    assert found == expected(PARTS, token)


@pytest.mark.parametrize(
    "other",
    [
        Record(Kind.FREE, 6, 0, length=TO_THE_END),
        Record(Kind.FREE, 7, 0, length=131072),
        Record(Kind.SPILL, 7, payload=b"modified"),
        Record(Kind.SPILL, 6, payload=b"not 7's.", flags=4),
        Record(Kind.OBJECT, 6),
    ],
)
def test_what_follows_an_object_without_governing_it(other: Record) -> None:
    """Nor does what is behind that."""
    late = Record(Kind.FREE, 7, 1 << 20, length=TO_THE_END)
    parts = parts_of(
        [Record(Kind.OBJECT, 7), other, late, Record(Kind.WRITE, 7, 1 << 17, payload=b"data")]
    )
    for governs, start in ([1], 4), ([], 1):
        found = resume(parts, (7, 1 << 17), governs, start, [100])
        assert kinds(found) == ["BEGIN", "OBJECT", "WRITE", "END"]


@pytest.mark.parametrize("number", [31, 64])
def test_an_object_range_governs_its_own_objects(number: int) -> None:
    objects = [Record(Kind.OBJECT, number), Record(Kind.WRITE, number, 5, payload=b"data")]
    parts = parts_of([Record(Kind.OBJECT_RANGE, 32, length=32), *objects])
    with pytest.raises(NoSeamError, match="what governs its start"):
        resume(parts, (number, 5), [1], 1, [100])


def test_data_behind_the_place_is_where_the_search_ends() -> None:
    parts = iter(memoryview(bytearray(part)) for part in PARTS[7:])
    with pytest.raises(NoSeamError, match="no such place"):
        next(Resuming(PARTS[0], 7, 5).stream(parts))
    assert next(parts) == PARTS[8]


def test_the_header_behind_what_governs_suffices() -> None:
    writes = [Record(Kind.WRITE, 7, block << 17, payload=b"data" * 99) for block in (0, 1)]
    parts = parts_of([Record(Kind.OBJECT, 7), *writes])
    part = parts[1] + parts[2][:HEADER_SIZE]
    assert Resuming(parts[0], 7, 1 << 17).govern(pieces(part, [50]))
    assert not Resuming(parts[0], 7, 1 << 17).govern(pieces(part[:-1], [50]))


def test_no_more_is_read_than_what_governs() -> None:
    """The first data is where to stop."""
    parts = iter(memoryview(bytearray(part)) for part in PARTS[1:])
    assert Resuming(PARTS[0], 7, 2 << 17).govern(parts)
    assert next(parts) == PARTS[7]
    parts = iter(memoryview(bytearray(part)) for part in PARTS[1:])
    assert not Resuming(PARTS[0], 40, 1 << 17).govern(parts)
    assert next(parts) == PARTS[8]
    assert Resuming(PARTS[0], 1, 0).govern(parts)
    assert next(parts) == PARTS[9]


@pytest.mark.parametrize(
    ("token", "governs", "start", "why"),
    [
        ((7, 1 << 17), [1], 8, "no such place: 7:131072"),
        ((7, 2 << 17), [1], 9, "no such place: 7:262144"),
        ((7, 5), [1], 1, "no such place: 7:5"),
        ((7, 0), [], 4, "no such place: 7:0"),
        ((8, 0), [], 1, "no such place: 8:0"),
        ((99, 0), [], 1, "no such place: 99:0"),
        ((99, 1 << 17), [], 1, "no such place: 99:131072"),
        ((7, 2 << 17), [], 8, "what governs its start was not found"),
        ((7, 2 << 17), [2], 8, "what governs its start was not found"),
        ((7, 2 << 17), [4], 8, "what governs its start was not found"),
        ((7, 0), [], 3, "what governs its start was not found"),
        ((40, 0), [9], 11, "no such place: 40:0"),
        ((40, 0), [1], 10, "what governs its start was not found"),
    ],
)
def test_nothing_is_passed_on_if_anything_is_missing(
    token: Token, governs: list[int], start: int, why: str
) -> None:
    resuming = Resuming(PARTS[0], *token)
    for at in governs:
        resuming.govern(pieces(b"".join(PARTS[at : at + 7]), [100]))
    rest = resuming.stream(pieces(b"".join(PARTS[start:]), [100]))
    with pytest.raises(NoSeamError, match=why):
        next(rest)


def test_governing_records_that_were_cut_are_not_taken_for_whole() -> None:
    """FREE and SPILL of the object may be what is missing."""
    for end in (4, 5, 6):
        resuming = Resuming(PARTS[0], 7, 2 << 17)
        assert not resuming.govern(pieces(b"".join(PARTS[1:end]), [100]))
        with pytest.raises(NoSeamError, match="what governs its start"):
            next(resuming.stream(pieces(b"".join(PARTS[7:]), [100])))


def test_everything_means_everything() -> None:
    """The first record must be the one behind BEGIN: its checksum tells."""
    with pytest.raises(StreamError, match="checksum mismatch"):
        resume(PARTS, (1, 0), [], 2, [100])


@pytest.mark.parametrize("token", [(1, 0), (7, 2 << 17), (40, 0)])
def test_a_stored_stream_that_ends_early(token: Token) -> None:
    for missing in (1, HEADER_SIZE, 400, 700):
        parts = split(b"".join(PARTS))
        whole = b"".join(parts[1:])[:-missing]
        resuming = Resuming(parts[0], *token)
        with pytest.raises(StreamError, match="without an END"):
            list(resuming.stream(pieces(whole, [100])))


def test_a_record_missing_on_the_way_is_told_by_its_checksum() -> None:
    for gap in range(9, len(PARTS) - 1):
        rest = b"".join(PARTS[8:gap] + PARTS[gap + 1 :])
        resuming = Resuming(PARTS[0], 7, 2 << 17)
        assert resuming.govern(pieces(b"".join(PARTS[1:]), [100]))
        found = b"".join(map(bytes, resuming.stream(pieces(rest, [100]))))
        assert not is_sound(found)


def test_damage_is_told_or_stays_visible() -> None:
    """Every single byte behind BEGIN that is passed on."""
    token = (7, 2 << 17)
    whole = b"".join(PARTS[1:])
    dropped = {at - len(PARTS[0]) for n in (2, 6, 7) for at in span(n)}
    trusted = set(range(len(PARTS[1])))  # nobody knows the state before the first record
    for position in set(range(len(whole))) - dropped - trusted:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        resuming = Resuming(PARTS[0], *token)
        try:
            found = b"".join(map(bytes, resuming.stream(pieces(bytes(damaged), [1 << 20]))))
            sound = is_sound(found)
        except (StreamError, NoSeamError, ValueError, IndexError):
            continue
        assert not sound, position


def span(number: int) -> range:
    start = sum(map(len, PARTS[:number]))
    return range(start, start + len(PARTS[number]))


@pytest.mark.parametrize(
    ("head", "error", "why"),
    [
        (begin(Feature.RESUMING), NoSeamError, "the rest of another"),
        (begin(Feature.DEDUP), NoSeamError, "DEDUP"),
        (begin(payload=b"not a packed nvlist....."), StreamError, "not a packed list"),
        (END, StreamError, "does not start with a BEGIN"),
        (begin()[:100], StreamError, "ended in its BEGIN"),
        (begin(payload=b"some nvlist.")[:-4], StreamError, "is not whole"),
        (begin(payload=b"some nvlist."), StreamError, "not a packed list"),
        (begin(payload=b"a list"), StreamError, "a payload of 6 bytes"),
    ],
)
def test_streams_that_cannot_be_resumed(head: bytes, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        Resuming(head, 7, 0)


def test_a_begin_whose_list_is_xdr_keeps_it_so() -> None:
    """As OpenZFS packs it since May 2026: with zeros up to a multiple of 8."""
    parts = split(stream("plain"))
    own = XDR.ljust(-(-len(XDR) // 8) * 8, b"\0")
    parts[0] = with_begin(parts[0], features_of(parts[0]), own)
    follower = Follower()
    follower.feed(memoryview(summed(parts)))
    follower.finish()
    token = tokens(parts)[-1]
    made = resume(parts, token, [], 1, [10007])
    assert is_sound(made)
    head = split(made)[0]
    assert len(head) % 8 == 0
    added = {"resume_object": token[0], "resume_offset": token[1]}
    assert head[HEADER_SIZE:].startswith(XDR[:12])
    assert nvlist.decode(head[HEADER_SIZE:]) == nvlist.decode(XDR) | added
