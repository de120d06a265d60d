"""A study: several figures of one run, of both variants, each with the bar that it must meet."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from attrs import field, frozen

from tests.benchmarks import report
from tests.benchmarks.harness import OURS

Take = Callable[[str], dict[str, float]]
"""Runs a variant, and returns its figures by name."""
Taken = dict[str, dict[str, float]]
"""The figures of one round through all variants, by variant and name; the others are compared with the first."""


@frozen
class Figure:
    """One thing that a study measures, and how ours may stand to the bare loop's."""

    name: str
    unit: str
    bar: float | None = None
    """The most that ours may be, compared; None where the figure is only told."""
    beyond: bool = False
    """Whether to compare by the difference, and not by the ratio."""
    factor: float = 1
    """What turns what was measured into the unit."""
    digits: int = 0

    def compared(self, pair: Taken, variant: str) -> float:
        ours, bare = pair[variant][self.name], next(iter(pair.values()))[self.name]
        return (ours - bare) * self.factor if self.beyond else ours / bare

    def show(self, measured: float) -> str:
        return f"{measured * self.factor:,.{self.digits}f}"

    def show_compared(self, compared: float) -> str:
        return f"{compared:+,.{self.digits}f}" if self.beyond else f"{compared:.2f}"


@frozen
class Begun:
    """A study whose peers are there."""

    take: Take
    terms: str
    """What all runs share, in words."""


@frozen(kw_only=True)
class Study:
    """One job, measured in both variants."""

    name: str
    work: str
    figures: tuple[Figure, ...]
    open: Callable[[float], AbstractContextManager[Begun]]
    """Starts the peers that all runs share; is told the seconds of a run."""


@frozen
class Report:
    """The rounds of a study, as lines and as JSON."""

    study: Study
    begun: Begun
    variants: tuple[str, ...]
    pairs: list[Taken] = field(factory=list)

    def rounds(self, count: int) -> Iterator[Taken]:
        """Run all variants in turn, ``count`` times, every other time in reverse order."""
        for number in range(count):
            order: Sequence[str] = self.variants[::-1] if number % 2 else self.variants
            taken = {variant: self.begun.take(variant) for variant in order}
            self.pairs.append({variant: taken[variant] for variant in self.variants})
            yield self.pairs[-1]

    def heading(self) -> str:
        bare, *others = (f"{variant:>{self._width}}" for variant in self.variants)
        columns = f"{'pair':<8}{'figure':<16}{bare}{''.join(f'{other}  compared' for other in others)}"
        return f"{self.study.name}: {self.study.work}\n{self.begun.terms}\n{columns}"

    def rows(self, label: str, pair: Taken) -> str:
        """A line for each figure."""
        bare, *others = self.variants
        lines = []
        for figure in self.study.figures:
            line = f"{label:<8}{figure.name:<16}{figure.show(pair[bare][figure.name]):>{self._width}}"
            for variant in others:
                compared = figure.show_compared(figure.compared(pair, variant))
                line += f"{figure.show(pair[variant][figure.name]):>{self._width}}{compared:>10}"
            lines.append(f"{line}  {figure.unit}")
        return "\n".join(lines)

    def summary(self) -> str:
        lines = []
        for variant in self.variants[1:]:
            for figure in self.study.figures:
                found = self.compared(figure, variant)
                shown = figure.show_compared(statistics.median(found))
                sign, unit = ("-", f" {figure.unit}") if figure.beyond else ("/", "")
                between = f"{figure.show_compared(min(found))} to {figure.show_compared(max(found))}"
                line = f"{figure.name}, {variant} {sign} {self.variants[0]}: {shown}{unit}"
                line += f", the median of {len(found)} ({between})"
                if figure.bar is not None:
                    line += f"; bar {figure.bar:,g}: {'met' if self.met(figure, variant) else 'missed'}"
                lines.append(line)
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """The figures, and what they were measured with."""
        return {
            "name": self.study.name,
            "work": self.study.work,
            "terms": self.begun.terms,
            "pairs": self.pairs,
            "figures": {
                figure.name: {
                    "shown": figure.unit,
                    "factor": figure.factor,
                    "compared by": "difference" if figure.beyond else "ratio",
                    "bar": figure.bar,
                    "met": self.met(figure, OURS),
                    **{v: statistics.median(self.compared(figure, v)) for v in self.variants[1:]},
                }
                for figure in self.study.figures
            },
            **report.machine(),
        }

    def compared(self, figure: Figure, variant: str) -> list[float]:
        return [figure.compared(pair, variant) for pair in self.pairs]

    def met(self, figure: Figure, variant: str) -> bool | None:
        """Whether the median is within the bar."""
        return None if figure.bar is None else statistics.median(self.compared(figure, variant)) <= figure.bar

    @property
    def _width(self) -> int:
        return max(11, *(len(variant) + 2 for variant in self.variants))
