"""hyper's map of header fields: case-insensitive, ordered, with several values to a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final, TypeVar, overload

from actors.errors import InvalidHeaders
from actors.headers import SECRETS, Headers, Pair, Text

D = TypeVar("D")
_WHOLE: Final = frozenset((b"set-cookie", b"set-cookie2"))
"""Names whose values may hold commas that separate nothing."""


class HTTPHeaderMap:
    """Header fields as hyper gives them: names and values are bytes, whether they were given as str or bytes.

    ``headers[name]`` is the list of all values of a name, in order, with comma-separated ones taken apart; assigning
    adds another value and :meth:`replace` replaces all. Iterating gives ``(name, value)`` pairs with names in lower
    case; :meth:`iter_raw` gives them as they came. :meth:`get_all` and :meth:`text` answer in str.
    """

    __slots__ = ("_pairs",)

    def __init__(self, *args: HTTPHeaderMap | Mapping[Any, Text] | Iterable[tuple[Text, Text]], **kwargs: Text) -> None:
        """``args`` are mappings, or iterables of pairs."""
        self._pairs: list[Pair] = []
        for each in args:
            self._pairs += [(_bytes(name), _bytes(value)) for name, value in _raw(each)]
        self._pairs += [(_bytes(name), _bytes(value)) for name, value in kwargs.items()]

    @classmethod
    def of(cls, headers: Headers) -> HTTPHeaderMap:
        """The map of fields that came in."""
        made = cls.__new__(cls)
        made._pairs = list(headers)
        return made

    # --- the mapping, as hyper has it ---------------------------------------------------------------------------------

    def __getitem__(self, key: Text) -> list[bytes]:
        """Every value of a name, comma-separated ones taken apart. Raises KeyError."""
        wanted = _bytes(key).lower()
        values = [value for name, value in self._pairs if name.lower() == wanted]
        if not values:
            raise KeyError(f"no header {wanted.decode('latin-1')!r}")
        return [part for value in values for part in _parts(wanted, value)]

    def __setitem__(self, key: Text, value: Text) -> None:
        """Add a value to those that the name has."""
        self._pairs.append((_bytes(key), _bytes(value)))

    def __delitem__(self, key: Text) -> None:
        """Remove every value of a name. Raises KeyError."""
        wanted = _bytes(key).lower()
        kept = [pair for pair in self._pairs if pair[0].lower() != wanted]
        if len(kept) == len(self._pairs):
            raise KeyError(f"no header {wanted.decode('latin-1')!r}")
        self._pairs = kept

    def __iter__(self) -> Iterator[Pair]:
        for name, value in self._pairs:
            lower = name.lower()
            for part in _parts(lower, value):
                yield lower, part

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, (str, bytes)):
            return False
        wanted = _bytes(key).lower()
        return any(name.lower() == wanted for name, _ in self._pairs)

    def keys(self) -> Iterator[bytes]:
        """The names in lower case, one for each value."""
        return (name for name, _ in self)

    def items(self) -> Iterator[Pair]:
        """The pairs that iterating gives."""
        return iter(self)

    def values(self) -> Iterator[bytes]:
        """The values, comma-separated ones taken apart."""
        return (value for _, value in self)

    @overload
    def get(self, key: Text) -> list[bytes] | None: ...
    @overload
    def get(self, key: Text, default: D) -> list[bytes] | D: ...
    def get(self, key: Text, default: object = None) -> object:
        """What ``headers[key]`` gives, or ``default``."""
        return self[key] if key in self else default  # noqa: SIM401  (this is that)

    def iter_raw(self) -> Iterator[Pair]:
        """The pairs as they were given, in order."""
        return iter(self._pairs)

    def replace(self, key: Text, value: Text) -> None:
        """Put one value in the place of all that the name has; a name that is new comes last."""
        raw, wanted = (_bytes(key), _bytes(value)), _bytes(key).lower()
        kept: list[Pair] = []
        placed = False
        for pair in self._pairs:
            if pair[0].lower() != wanted:
                kept.append(pair)
            elif not placed:
                kept.append(raw)
                placed = True
        self._pairs = kept if placed else [*kept, raw]

    def merge(self, other: HTTPHeaderMap | Mapping[Any, Text]) -> None:
        """Add every pair of another map; merging a map into itself changes nothing."""
        if other is self:
            return
        self._pairs += [(_bytes(name), _bytes(value)) for name, value in _raw(other)]

    update = merge

    def clear(self) -> None:
        """Remove every field."""
        self._pairs = []

    def pop(self, key: Text, *default: D) -> list[bytes] | D:
        """Remove every value of a name and return what ``headers[key]`` gave, or ``default``. Raises KeyError."""
        if default and key not in self:
            return default[0]
        values = self[key]
        del self[key]
        return values

    def setdefault(self, key: Text, default: Text) -> list[bytes]:
        """What ``headers[key]`` gives, after ``default`` was added where there was nothing."""
        if key not in self:
            self[key] = default
        return self[key]

    def __eq__(self, other: object) -> bool:
        return self._pairs == other._pairs if isinstance(other, HTTPHeaderMap) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        shown = [(name, b"(hidden)" if name.lower() in SECRETS else value) for name, value in self._pairs]
        return f"HTTPHeaderMap({shown!r})"

    # --- in str -------------------------------------------------------------------------------------------------------

    def text(self, name: Text, default: str | None = None) -> str | None:
        """The values of a name as one str (latin-1), joined by commas as they came, or ``default``."""
        values = self.get_all(name)
        return ", ".join(values) if values else default

    def get_all(self, name: Text, failobj: D | None = None) -> list[str] | D | None:
        """Every value of a name as str (latin-1), comma-separated ones together, or ``failobj``."""
        wanted = _bytes(name).lower()
        values = [value.decode("latin-1") for given, value in self._pairs if given.lower() == wanted]
        return values or failobj

    def getlist(self, name: Text) -> list[str]:
        """What :meth:`get_all` gives, under urllib3's name; nothing where there is none."""
        return self.get_all(name) or []


MutableMapping.register(HTTPHeaderMap)  # by what it does; its iteration gives pairs, which no mapping's does


def _raw(
    fields: HTTPHeaderMap | Mapping[Any, Text] | Iterable[tuple[Text, Text]],
) -> Iterable[tuple[Text, Text]]:
    if isinstance(fields, HTTPHeaderMap):
        return fields.iter_raw()
    return fields.items() if isinstance(fields, Mapping) else fields


def _bytes(text: object) -> bytes:
    if isinstance(text, str):
        return text.encode("utf-8", "surrogateescape")
    if isinstance(text, bytes):
        return text
    raise InvalidHeaders(f"a header's name and value are str or bytes, not {type(text).__name__}")


def _parts(lower: bytes, value: bytes) -> list[bytes]:
    return [value] if lower in _WHOLE or b"," not in value else [part.strip() for part in value.split(b",")]
