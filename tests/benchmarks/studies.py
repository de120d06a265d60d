"""A study: several figures of one run, of each variant, and the bars that ours must meet."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from attrs import field, frozen

from tests.benchmarks import report
from tests.benchmarks.harness import BARE, NOISE, OURS, RECORDED

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
    alone: bool = False
    """Whether the bar is for the figure as it is, whatever the bare loop's."""
    least: bool = False
    """Whether the bars are the least that ours may be."""
    always: bool = False
    """Whether each run must meet the bar, and not only their median."""
    rivals: Mapping[str, float] = field(factory=dict)
    """The bars of the ratios to other variants than the bare loop."""

    def compared(self, pair: Taken, variant: str, other: str | None = None) -> float:
        """How a variant stands to another one, which is the first unless said."""
        ours, others = pair[variant][self.name], pair[other or next(iter(pair))][self.name]
        if self.beyond:
            return (ours - others) * self.factor
        return ours / others if others else math.nan

    def show(self, measured: float) -> str:
        return f"{measured * self.factor:,.{self.digits}f}"

    def show_compared(self, compared: float) -> str:
        if math.isnan(compared):
            return "-"
        return f"{compared:+,.{self.digits}f}" if self.beyond else f"{compared:.2f}"


@frozen
class Verdict:
    """What all runs together say of one figure of one variant."""

    figure: Figure
    variant: str
    other: str | None
    """What it is compared with; None where it stands alone."""
    bar: float | None
    values: Sequence[float]
    """One of each run, in the unit where it is not a ratio."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.bar is None:
            return None
        figure = self.figure
        counts = (min if figure.least else max)(self.values) if figure.always else self.median
        return counts >= self.bar if figure.least else counts <= self.bar

    def __str__(self) -> str:
        figure = self.figure
        if self.other is None:
            line, unit, show = f"{figure.name}, {self.variant}: ", f" {figure.unit}", self._show
        elif figure.beyond:
            line, unit, show = f"{figure.name}, {self.variant} - {self.other}: ", f" {figure.unit}", self._show_compared
        else:
            line, unit, show = f"{figure.name}, {self.variant} / {self.other}: ", "", self._show_compared
        line += f"{show(self.median)}{unit}, the median of {len(self.values)} "
        line += f"({show(min(self.values))} to {show(max(self.values))})"
        if self.bar is None:
            return line
        which = ("at least " if figure.least else "") + f"{self.bar:,g}" + (", always" if figure.always else "")
        return f"{line}; bar {which}: {'met' if self.met else 'missed'}"

    def _show(self, value: float) -> str:
        return f"{value:,.{self.figure.digits}f}"

    def _show_compared(self, value: float) -> str:
        return self.figure.show_compared(value)

    def as_json(self) -> dict[str, Any]:
        return {
            "figure": self.figure.name,
            "variant": self.variant,
            "compared with": self.other,
            "median": self.median,
            "spread": [min(self.values), max(self.values)],
            "bar": self.bar,
            "met": self.met,
        }


@frozen
class Begun:
    """A study whose peers are there."""

    take: Take
    terms: str
    """What all runs share, in words."""


@frozen(kw_only=True)
class Study:
    """One job, measured in several variants."""

    name: str
    work: str
    figures: tuple[Figure, ...]
    open: Callable[[float], AbstractContextManager[Begun]]
    """Starts the peers that all runs share; is told the seconds of a run."""
    variants: tuple[str, ...] = (BARE, OURS)
    """The first is what the others are compared with."""
    ours: tuple[str, ...] = (OURS,)
    """Those of them that must meet the bars."""
    seconds: float = 3.0
    """How long a run takes, about, unless that is asked otherwise."""
    pairs: int = 7
    """How often all variants run, unless that is asked otherwise."""


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
        return "\n".join(str(verdict) for verdict in self.verdicts()) + "\n"

    def as_json(self) -> dict[str, Any]:
        """The figures, and what they were measured with."""
        return {
            "name": self.study.name,
            "work": self.study.work,
            "terms": self.begun.terms,
            "pairs": self.pairs,
            "units": {each.name: {"shown": each.unit, "factor": each.factor} for each in self.study.figures},
            "verdicts": [verdict.as_json() for verdict in self.verdicts()],
            **report.machine(),
        }

    def verdicts(self) -> Iterator[Verdict]:
        """How each figure of each variant stands; bars are for ours, and for the bare loop's own noise."""
        first, *others = self.variants
        for variant in self.variants:
            for figure in self.study.figures:
                barred = variant in (*self.study.ours, RECORDED, NOISE)
                bar = figure.bar if barred else None
                if figure.alone:
                    values = [pair[variant][figure.name] * figure.factor for pair in self.pairs]
                    yield Verdict(figure, variant, None, bar, values)
                elif variant in others:
                    values = [figure.compared(pair, variant) for pair in self.pairs]
                    yield Verdict(figure, variant, first, bar, values)
                for rival, least in figure.rivals.items() if variant in self.study.ours else ():
                    values = [figure.compared(pair, variant, rival) for pair in self.pairs]
                    yield Verdict(figure, variant, rival, least, values)

    @property
    def _width(self) -> int:
        return max(11, *(len(variant) + 2 for variant in self.variants))
