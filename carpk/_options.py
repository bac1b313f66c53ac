"""Settings of a session: `carpk.options`."""

from __future__ import annotations

import dataclasses

from carpk.errors import CarpkError


@dataclasses.dataclass(frozen=True)
class Interval:
    """An equal-tailed interval that holds the share `prob` of draws, replicates or patients."""

    prob: float

    def __post_init__(self) -> None:
        if isinstance(self.prob, bool) or not isinstance(self.prob, int | float):
            raise CarpkError(
                f"options: interval_prob must be a number such as 0.95, but is {self.prob!r}."
            )
        if not 0 < self.prob < 1:
            percent = f"; for {self.prob:g} % give {self.prob / 100:g}" if self.prob >= 1 else ""
            raise CarpkError(
                f"options: interval_prob must lie between 0 and 1, but is {self.prob:g}{percent}."
            )

    @property
    def tails(self) -> tuple[float, float]:
        """The probabilities of its ends."""
        return (1 - self.prob) / 2, (1 + self.prob) / 2

    @property
    def with_median(self) -> tuple[float, float, float]:
        """The probabilities of its lower end, the median and its upper end."""
        low, high = self.tails
        return low, 0.5, high

    @property
    def columns(self) -> tuple[str, str]:
        """Its columns in tables: ("eti90_low", "eti90_high")."""
        percent = f"{100 * self.prob:.10g}"
        return f"eti{percent}_low", f"eti{percent}_high"

    def __str__(self) -> str:
        return f"{100 * self.prob:.10g} %"


class _Before:
    """The settings before a change, which come back at the end of a `with` block."""

    def __init__(self, options: Options, interval: Interval) -> None:
        self._options, self._interval = options, interval

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._options._interval = self._interval


class Options:
    """Settings of a session.

        ck.options(interval_prob=0.95)            # from now on; or ck.options.interval_prob = 0.95
        with ck.options(interval_prob=0.5): ...   # and afterwards as before

    Attributes:
        interval_prob: share of draws, replicates or patients in the intervals of tables, figures
            and checks, all of which are equal-tailed; 0.9 unless set. Tables name it in their
            columns (`eti90_low`). Results keep the one with which they were made. It changes
            neither fits nor verdicts.
    """

    __slots__ = ("_interval",)

    def __init__(self) -> None:
        self._interval = Interval(0.9)

    @property
    def interval_prob(self) -> float:
        return self._interval.prob

    @interval_prob.setter
    def interval_prob(self, prob: float) -> None:
        self._interval = Interval(prob)

    @property
    def interval(self) -> Interval:
        return self._interval

    def __call__(self, *, interval_prob: float) -> _Before:
        before = _Before(self, self._interval)
        self._interval = Interval(interval_prob)
        return before

    def __dir__(self) -> list[str]:
        return ["interval_prob"]

    def __repr__(self) -> str:
        return f"Options(interval_prob={self.interval_prob:g})"


options = Options()
