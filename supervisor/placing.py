"""How many connections a link should have, and where they should lead, pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")


def wanted(demand: int, per_connection: int, *, least: int, most: int) -> int:
    """Connections for ``demand`` requests, open and waiting, within what the link was given."""
    needed = -(-demand // max(per_connection, 1))
    return min(max(needed, least), most)


def order(
    places: Iterable[K],
    counts: Mapping[K, int],
    *,
    is_aside: Callable[[K], bool],
    has_lost: Callable[[K], bool],
) -> list[K]:
    """The places in the order in which they should be tried.

    First those that neither failed nor lost against another lately, among these the ones with the fewest connections.
    """
    return sorted(places, key=lambda place: (is_aside(place), has_lost(place), counts.get(place, 0)))


def uneven(places: Sequence[K], counts: Mapping[K, int]) -> tuple[K, K] | None:
    """The place that has too many connections and the one that has too few; None where they differ by one at most."""
    if len(places) < 2:
        return None
    most = max(places, key=lambda place: counts.get(place, 0))
    least = min(places, key=lambda place: counts.get(place, 0))
    return (most, least) if counts.get(most, 0) - counts.get(least, 0) >= 2 else None
