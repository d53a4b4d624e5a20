"""Numbers out of counters: rates from two readings, percentiles from histogram buckets. Pure.

The counters are the fields of `stats:<queue>`: `submitted:<name>`, `retried:<name>`, `ended:<name>:<state>`,
`attempt:<name>:<outcome>`, and the histograms `wait:<b>`, `run:<b>`, whose bucket b holds the durations with
floor(4 * log2(1 + ms)) = b.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

import msgspec

from taskq_core.model.lifecycle import ENDED, Kind
from taskq_core.read.facts import PlacedEvent

__all__ = [
    "Flow",
    "Sampler",
    "buckets",
    "flow_of",
    "lower_ms",
    "percentile_s",
    "rates_of_events",
    "total",
    "upper_ms",
]

WINDOW_MS = 10_000  # a rate looks back so far
SHORTEST_MS = 1_000  # two readings closer than this tell nothing
_ENDS = frozenset(Kind(state.value) for state in ENDED)


class Flow(msgspec.Struct, frozen=True):
    """Tasks that came in and that ended: totals, or per second."""

    came: float
    went: float


def total(counters: Mapping[str, int], prefix: str) -> int:
    """Sum of the counters whose name begins so."""
    return sum(n for field, n in counters.items() if field.startswith(prefix))


def flow_of(counters: Mapping[str, int]) -> Flow:
    """What a queue's counters say: lives begun, lives ended."""
    came = total(counters, "submitted:") + total(counters, "retried:")
    return Flow(came, total(counters, "ended:"))


class Sampler:
    """Remembers readings of the counters for a few seconds and makes rates of them."""

    def __init__(self) -> None:
        self._readings: deque[tuple[int, dict[str, Flow]]] = deque()

    def add(self, at: int, flows: Mapping[str, Flow]) -> None:
        """One reading at server milliseconds `at`. A clock or a counter that went back starts anew."""
        if self._readings and (at < self._readings[-1][0] or _fell(self._readings[-1][1], flows)):
            self._readings.clear()
        self._readings.append((at, dict(flows)))
        while len(self._readings) > 2 and self._readings[1][0] <= at - WINDOW_MS:
            _ = self._readings.popleft()

    def rates(self) -> dict[str, Flow] | None:
        """Tasks per second by queue over about ten seconds; None when there is no reading to compare with."""
        if not self._readings:
            return None
        (first, then), (last, now) = self._readings[0], self._readings[-1]
        if last - first < SHORTEST_MS or last - first > 6 * WINDOW_MS:
            return None
        span = (last - first) / 1000
        none = Flow(0, 0)
        return {
            queue: Flow(
                (flow.came - then.get(queue, none).came) / span,
                (flow.went - then.get(queue, none).went) / span,
            )
            for queue, flow in now.items()
        }


def _fell(before: Mapping[str, Flow], now: Mapping[str, Flow]) -> bool:
    return any(
        queue in now and (now[queue].came < flow.came or now[queue].went < flow.went)
        for queue, flow in before.items()
    )


def rates_of_events(events: Iterable[PlacedEvent], now_ms: int, *, complete: bool) -> dict[str, Flow]:
    """Tasks per second by queue, out of the newest events.

    They span the last ten seconds; fewer when there were so many that not all were read (not `complete`).
    """
    came: Counter[str] = Counter()
    went: Counter[str] = Counter()
    since = now_ms - WINDOW_MS
    first = now_ms
    for placed in events:
        first = min(first, placed.at)
        if placed.at < since:
            continue
        queue = placed.event.detail.queue
        if placed.event.kind in {Kind.SUBMITTED, Kind.RETRIED}:
            came[queue] += 1
        elif placed.event.kind in _ENDS:
            went[queue] += 1
    start = since if complete else max(since, first)
    span = max(SHORTEST_MS, now_ms - start) / 1000
    return {queue: Flow(came[queue] / span, went[queue] / span) for queue in came.keys() | went.keys()}


def lower_ms(bucket: int) -> float:
    """The smallest duration in a bucket, in milliseconds."""
    return 2 ** (bucket / 4) - 1


def upper_ms(bucket: int) -> float:
    """The bound that all durations in a bucket lie below, in milliseconds."""
    return 2 ** ((bucket + 1) / 4) - 1


def buckets(counters: Mapping[str, int], what: str) -> Counter[int]:
    """The histogram `wait` or `run` of a queue: bucket -> how many."""
    found: Counter[int] = Counter()
    for field, n in counters.items():
        name, _, bucket = field.partition(":")
        if name == what and bucket.isdecimal():
            found[int(bucket)] += n
    return found


def percentile_s(histogram: Mapping[int, int], share: float) -> float | None:
    """The duration in seconds below which this share of all lies; None for an empty histogram.

    Between a bucket's bounds it is a straight line: right to within 19 %.
    """
    count = sum(histogram.values())
    if not count:
        return None
    wanted = share * count
    seen = 0
    for bucket in sorted(histogram):
        here = histogram[bucket]
        if seen + here >= wanted:
            part = (wanted - seen) / here if here else 0
            low, high = lower_ms(bucket), upper_ms(bucket)
            return round((low + (high - low) * part) / 1000, 6)
        seen += here
    return None
