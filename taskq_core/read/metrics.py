"""What /metrics tells about the whole system, as data and as Prometheus text.

Only names that one process can know for all are here; what a process knows of itself (loop lag, requests,
pool) it adds by itself. Every family is present even when nothing happened yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

__all__ = ["MetricFamily", "MetricsSnapshot", "Sample", "render"]


class Sample(msgspec.Struct, frozen=True):
    """One line: the family's name + suffix, labels, value."""

    labels: dict[str, str]
    value: float
    suffix: str = ""  # _total, _bucket, _sum, _count


class MetricFamily(msgspec.Struct, frozen=True):
    """One metric. `name` is without `_total`, as the text format's TYPE line wants it for counters too."""

    name: str
    kind: str  # counter, gauge, histogram
    help: str
    samples: list[Sample]


class MetricsSnapshot(msgspec.Struct, frozen=True):
    """All families at one moment (server milliseconds; 0 when the server is away)."""

    at: int
    families: list[MetricFamily]


def render(families: Iterable[MetricFamily]) -> str:
    """The text that Prometheus scrapes (format 0.0.4)."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: MetricFamily) -> Iterator[str]:
    name = f"{family.name}_total" if family.kind == "counter" else family.name
    yield f"# HELP {name} {family.help}"
    yield f"# TYPE {name} {family.kind}"
    for sample in family.samples:
        labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sample.labels.items())
        yield f"{family.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
