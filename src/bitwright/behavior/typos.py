"""Misspelt texts: what slips from a keyboard, before the texts become numbers of words or word pieces.

The table of neighbouring keys is Bitwright's own, of an American keyboard. The shares are its own, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from bitwright.arguments import checked
from bitwright.errors import InvalidInput
from bitwright.values.behavior import SEVERITIES

SHARES = (0.01, 0.02, 0.04, 0.06, 0.10)
"""Of the letters, by severity."""
_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))


def _neighbours() -> dict[str, str]:
    """Letter -> the letters whose keys touch its own."""
    places = {
        key: (row, column + offset) for row, (keys, offset) in enumerate(_ROWS) for column, key in enumerate(keys)
    }
    return {
        key: "".join(
            other
            for other, (line, across) in places.items()
            if other != key and abs(line - row) <= 1 and abs(across - column) <= 1
        )
        for key, (row, column) in places.items()
    }


NEIGHBOURS = _neighbours()
"""Letter -> the letters whose keys touch its own."""


@checked
def typos(texts: Iterable[str], severity: int, seed: int = 0) -> list[str]:
    """The texts with 1 to 10 % of their letters mistyped; the same for the same seed.

    A letter is replaced by one beside it on the keyboard, left out, typed twice, or changes places with the next one,
    each as often as the others. Only the letters a to z are, whatever their case.

    Args:
        texts: of any language that is typed with these letters.
        severity: 1 to 5.
        seed: of what is drawn; each text draws its own.

    Raises:
        InvalidInput: a severity that there is not.
    """
    if severity not in SEVERITIES:
        raise InvalidInput(f"severity must be one of {', '.join(map(str, SEVERITIES))}, got {severity!r}")
    return [_typed(text, SHARES[severity - 1], random.Random(f"{seed} {i}")) for i, text in enumerate(texts)]


def _typed(text: str, share: float, drawn: random.Random) -> str:
    found, place = "", 0
    while place < len(text):
        letter, following = text[place], text[place + 1 : place + 2]
        place += 1
        if letter.lower() not in NEIGHBOURS or drawn.random() >= share:
            found += letter
            continue
        slip: Callable[[str], str] = drawn.choice((_beside(drawn), lambda _: "", lambda key: 2 * key))
        if drawn.random() < 0.25 and following.lower() in NEIGHBOURS:
            found += following + letter
            place += 1
        else:
            found += slip(letter)
    return found


def _beside(drawn: random.Random) -> Callable[[str], str]:
    def slip(key: str) -> str:
        other = drawn.choice(NEIGHBOURS[key.lower()])
        return other.upper() if key.isupper() else other

    return slip
