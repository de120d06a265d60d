"""HPACK that remembers the header lists that come again, as those of a service link do.

A block that puts nothing into a table and does not change its size changes nothing for those after it. So as long as
nothing but such blocks come between, the same list gives the same block, and the same block the same list: looking it
up takes a microsecond, where hpack needs ten for encoding and twenty for decoding. Any other block, or a change of a
table's size, makes both forget; a service whose every request has a path of its own gains nothing, and pays two
microseconds. Secrets, which are never indexed, are never remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple

MOST: Final = 64
"""Lists that are remembered at a time."""
LONGEST: Final = 64
"""Bytes of a block that is worth remembering."""
_FIRST, _LAST = 0x81, 0xFE
"""Bytes that are a whole reference each."""


def is_reference(block: bytes) -> bool:
    """Whether a block is made of single-byte references only."""
    return 0 < len(block) <= LONGEST and min(block) >= _FIRST and max(block) <= _LAST


class RememberingEncoder(Encoder):
    """An encoder that remembers blocks of nothing but references; any other makes it forget."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[tuple[Any, ...], bytes] = {}

    @property
    def header_table_size(self) -> int:
        """Bytes that the table may hold; the next block announces a change (RFC 7541, 4.2)."""
        size: int = self.header_table.maxsize
        return size

    @header_table_size.setter
    def header_table_size(self, size: int) -> None:
        if size == self.header_table.maxsize:
            return  # hpack would forget that an earlier change was not announced yet
        self.header_table.maxsize = size
        # Only the smallest and the last must be told; hpack tells, and keeps, all of them.
        smallest = min([*self.table_size_changes, size])
        self.table_size_changes = [size] if smallest == size else [smallest, size]

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """The block for a header list."""
        key = tuple(headers)
        if not self.table_size_changes:  # which the next block must announce
            block = self._blocks.get(key)
            if block is not None:
                return block
        block = bytes(super().encode(key, huffman))
        if not is_reference(block) or len(self._blocks) >= MOST:
            self._blocks.clear()
        else:
            self._blocks[key] = block
        return block


class RememberingDecoder(Decoder):
    """A decoder whose table only :meth:`decode` changes."""

    def __init__(self) -> None:
        super().__init__()
        self._lists: dict[bytes, list[HeaderTuple]] = {}
        self._most = 0

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """The header list of a block. Raises what hpack raises."""
        known = self._lists.get(data) if raw and self._most == self.max_header_list_size else None
        if known is not None:
            return known.copy()
        table = self.header_table
        before = table.dynamic_entries[0] if table.dynamic_entries else None, table.maxsize
        fields = list(super().decode(data, raw))
        after = table.dynamic_entries[0] if table.dynamic_entries else None, table.maxsize
        same = before[0] is after[0] and before[1] == after[1] and self._most == self.max_header_list_size
        if not raw or not same or len(self._lists) >= MOST:
            self._lists.clear()
            self._most = self.max_header_list_size
        elif len(data) <= LONGEST and not any(type(field) is NeverIndexedHeaderTuple for field in fields):
            self._lists[bytes(data)] = fields.copy()
        return fields
