"""Bech32 (BIP 173), without its limit of 90 characters, as age uses it for its keys.

Source: https://github.com/bitcoin/bips/blob/master/bip-0173.mediawiki and the conventions of
https://c2sp.org/age. Errors never quote the text: it may be a private key.
"""

from __future__ import annotations

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM = 6


def encode(hrp: str, data: bytes) -> str:
    """The lower-case Bech32 text of ``data`` under the human-readable part ``hrp``."""
    words = _regroup(data, 8, 5, pad=True)
    state = _polymod([*_expand(hrp), *words, *(0,) * _CHECKSUM]) ^ 1
    words += [state >> 5 * (_CHECKSUM - 1 - i) & 31 for i in range(_CHECKSUM)]
    return hrp + "1" + "".join(_ALPHABET[word] for word in words)


def decode(text: str) -> tuple[str, bytes]:
    """(human-readable part in lower case, data) of a Bech32 text in one case.

    Raises ValueError on anything else.
    """
    if text not in (text.lower(), text.upper()):
        raise ValueError("mixed case")
    hrp, separator, tail = text.lower().rpartition("1")
    if not separator or not hrp or not all("!" <= char <= "~" for char in hrp):
        raise ValueError("no human-readable part")
    if len(tail) < _CHECKSUM or not set(tail) <= set(_ALPHABET):
        raise ValueError("not Bech32 characters")
    words = [_ALPHABET.index(char) for char in tail]
    if _polymod([*_expand(hrp), *words]) != 1:
        raise ValueError("wrong checksum")
    return hrp, bytes(_regroup(words[:-_CHECKSUM], 5, 8, pad=False))


def _polymod(words: list[int]) -> int:
    state = 1
    for word in words:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ word
        for bit, term in enumerate(_GENERATOR):
            if top >> bit & 1:
                state ^= term
    return state


def _expand(hrp: str) -> list[int]:
    codes = hrp.encode("ascii")
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _regroup(words: bytes | list[int], width: int, into: int, *, pad: bool) -> list[int]:
    """Cut a sequence of ``width``-bit numbers into ``into``-bit ones, most significant first."""
    held, bits, regrouped = 0, 0, []
    for word in words:
        held = held << width | word
        bits += width
        while bits >= into:
            bits -= into
            regrouped.append(held >> bits)
            held &= (1 << bits) - 1
    if pad and bits:
        regrouped.append(held << into - bits)
    elif not pad and (bits >= width or held):
        raise ValueError("padding is not zero")
    return regrouped
