"""A glob over whole workspace paths, matched in one pass however many stars it has.

`re` tries every way to share a path among the stars: 25 of them keep a worker busy for hours. Here all ways are
followed at once, as the bits of a number: bit n is set while the first n tokens fit what was read (Baeza-Yates and
Gonnet, "A New Approach to Text Searching", 1992, with loops for the stars). With at most two stars `re` cannot go
astray, and is many times as fast over ten thousand paths.
"""

import re

_SPELLED = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_MAX_STARS_FOR_RE = 2
_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|.", re.DOTALL)


class PathPattern:
    """`*` within a folder, `**` across folders, `**/` also for no folder at all, `?` for one letter but `/`."""

    def __init__(self, pattern: str) -> None:
        tokens = _TOKEN.findall(pattern)
        literal = [token not in _SPELLED for token in tokens]
        first = literal.index(False) if False in literal else len(tokens)
        last = len(tokens) - literal[::-1].index(False) if False in literal else 0
        self.beginning = "".join(tokens[:first])  # what every path that fits begins and ends with
        self.ending = "".join(tokens[last:])
        stars = sum(token.startswith("*") for token in tokens)
        self._quick = (
            re.compile("".join(_SPELLED.get(token) or re.escape(token) for token in tokens), re.DOTALL)
            if stars <= _MAX_STARS_FOR_RE
            else None
        )
        self._letters: dict[str, int] = {}  # bits where this letter is read
        self._any_but_slash = 0  # bits of ?
        self._stays = 0  # bits of * and **, which read on and stay
        self._stays_at_slash = 0  # bits of ** alone
        self._skips = 0  # bits that may read nothing
        self._leaves_out = 0  # bits before a **/ that stands for no folder at all: three bits on, it is over
        place = 0
        for token in tokens:
            if token == "**/":  # noqa: S105
                self._leaves_out |= 1 << place
                self._skips |= 0b11 << place
                self._stays |= 0b10 << place
                self._stays_at_slash |= 0b10 << place
                self._letters["/"] = self._letters.get("/", 0) | 0b100 << place
                place += 3
                continue
            bit = 1 << place
            if token == "?":  # noqa: S105
                self._any_but_slash |= bit
            elif token[0] == "*":
                self._stays |= bit
                self._skips |= bit
                self._stays_at_slash |= bit if token == "**" else 0  # noqa: S105
            else:
                self._letters[token] = self._letters.get(token, 0) | bit
            place += 1
        self._whole = 1 << place

    def matches(self, path: str) -> bool:
        """Whether the pattern fits the whole path."""
        return bool(self._quick.fullmatch(path)) if self._quick else self.matches_in_one_pass(path)

    def matches_in_one_pass(self, path: str) -> bool:
        """The same, however many stars there are."""
        state = self._closed(1)
        for letter in path:
            moves = self._letters.get(letter, 0) | (0 if letter == "/" else self._any_but_slash)
            stays = self._stays_at_slash if letter == "/" else self._stays
            state = self._closed((state & moves) << 1 | state & stays)
            if not state:
                return False
        return bool(state & self._whole)

    def _closed(self, state: int) -> int:
        """The state with everything that can be reached without reading."""
        while True:
            more = state | (state & self._skips) << 1 | (state & self._leaves_out) << 3
            if more == state:
                return state
            state = more
