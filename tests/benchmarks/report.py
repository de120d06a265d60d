"""What a benchmark says: a table that grows as pairs end, or one JSON object."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from tests.benchmarks.harness import OURS, Pair, Running


def ratios(pairs: Sequence[Pair], variant: str) -> list[float]:
    """The figures of a variant, each divided by the baseline of its pair."""
    return [pair[variant] / next(iter(pair.values())) for pair in pairs]


def medians(pairs: Sequence[Pair]) -> Pair:
    """The median figure of each variant."""
    return {variant: statistics.median(pair[variant] for pair in pairs) for variant in pairs[0]}


def bests(running: Running, pairs: Sequence[Pair]) -> Pair:
    """The best figure of each variant: what it does while nobody else uses the machine."""
    best = min if running.benchmark.unit.less_is_better else max
    return {variant: best(pair[variant] for pair in pairs) for variant in pairs[0]}


@frozen
class Table:
    """The lines for a reader."""

    running: Running

    def heading(self) -> str:
        benchmark = self.running.benchmark
        bare, *others = (f"{variant:>{self._width}}" for variant in self.running.variants)
        return (
            f"{benchmark.name}: {benchmark.work}\n"
            f"{benchmark.unit.shown}; {benchmark.unit.of} in a run: {self.running.amount:,}\n"
            f"{'pair':<8}{bare}{''.join(f'{other}  ratio' for other in others)}"
        )

    def row(self, number: int, pair: Pair) -> str:
        return self._row(str(number), pair, {variant: ratios([pair], variant)[0] for variant in list(pair)[1:]})

    def summary(self, pairs: Sequence[Pair]) -> str:
        bare, *others = self.running.variants
        found = {variant: ratios(pairs, variant) for variant in others}
        middle = {variant: statistics.median(found[variant]) for variant in others}
        best = bests(self.running, pairs)
        lines = [
            self._row("median", medians(pairs), middle),
            self._row("best", best, {variant: best[variant] / best[bare] for variant in others}),
        ]
        for variant in others:
            between = f"{min(found[variant]):.2f} to {max(found[variant]):.2f}"
            lines.append(f"{variant} / {bare}: {middle[variant]:.2f}, the median of {len(pairs)} ({between})")
        return "\n".join(lines) + "\n"

    @property
    def _width(self) -> int:
        return max(11, *(len(variant) + 2 for variant in self.running.variants))

    def _row(self, label: str, figures: Pair, compared: Pair) -> str:
        show, width = self.running.benchmark.unit.show, self._width
        first = f"{label:<8}{show(figures[self.running.variants[0]]):>{width}}"
        return first + "".join(f"{show(figures[variant]):>{width}}{ratio:>7.2f}" for variant, ratio in compared.items())


def as_json(running: Running, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The figures, and what they were measured with."""
    found = {variant: ratios(pairs, variant) for variant in running.variants[1:]}
    return {
        "name": running.benchmark.name,
        "work": running.benchmark.work,
        "unit": running.benchmark.unit.name,
        "amount": running.amount,
        "pairs": pairs,
        "medians": medians(pairs),
        "bests": bests(running, pairs),
        "ratio": statistics.median(found[OURS]),
        "ratios": {variant: statistics.median(values) for variant, values in found.items()},
        "spread": {variant: [min(values), max(values)] for variant, values in found.items()},
        **machine(),
    }


def machine() -> dict[str, Any]:
    """What figures were measured with."""
    return {
        "python": platform.python_version(),
        "h2": importlib.metadata.version("h2"),
        "nproc": os.cpu_count(),
    }
