"""The terms of one connection: what its peer allows and what it may hold; its wire writes them, its streams read them.

So a call that cannot work is refused where it is made, and nothing of it is sent.
"""

from __future__ import annotations

from actors.errors import InvalidHeaders, Misuse
from actors.headers import Pair, list_size
from actors.memory import Account
from actors.settings import Limits


class Terms:
    """What holds between the two ends of one connection now."""

    __slots__ = ("extended_connect", "initial_window", "limits", "max_header_list", "memory", "push", "spare")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.memory = Account(limits)
        self.initial_window = 65_535
        """Bytes that the peer takes of each new stream before it says more (SETTINGS_INITIAL_WINDOW_SIZE)."""
        self.spare = 0
        """Bytes over all streams that surely go out with the next turn, less those that were counted upon since."""
        self.push = False
        """Whether the peer takes pushes (SETTINGS_ENABLE_PUSH)."""
        self.extended_connect = False
        """Whether the peer takes ``:protocol`` (SETTINGS_ENABLE_CONNECT_PROTOCOL, RFC 8441)."""
        self.max_header_list: int | None = None
        """Bytes of a header list that the peer takes (SETTINGS_MAX_HEADER_LIST_SIZE); None: it did not say."""

    def check(self, fields: list[Pair]) -> None:
        """Raise InvalidHeaders for a header list that the peer does not take (RFC 9113, 10.5.1)."""
        most = self.max_header_list
        if most is not None and (size := list_size(fields)) > most:
            raise InvalidHeaders(f"the headers have {size} bytes and the peer takes {most}: send fewer or shorter ones")

    def check_protocol(self) -> None:
        """Raise Misuse where the peer does not take extended CONNECT (RFC 8441, 3)."""
        if not self.extended_connect:
            raise Misuse("the peer takes no ':protocol': it did not say ENABLE_CONNECT_PROTOCOL (RFC 8441)")
