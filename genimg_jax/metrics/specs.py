"""What a measured number means, so that numbers of different meanings are never put side by side."""

import dataclasses
import json
from collections.abc import Mapping
from typing import NamedTuple

from genimg_jax import directions, files
from genimg_jax.errors import DataError

Scalar = str | int | float | bool | None
LIKELIHOODS = ("negative_log_likelihood", "bits_per_dimension", "bits_per_code")  # one log-likelihood, in three units


@dataclasses.dataclass(frozen=True)
class MetricSpec:
    """Everything that changes a metric's value, except the model.

    A field that does not apply is None: a likelihood has no features, raw pixels no weights. `protocol` holds the
    rest, such as {"k": 5}, {"directions": 512} or {"importance samples": 500, "unit": "bits/dim"}.
    """

    metric: str
    features: str | None
    weights: str | None  # hash of the feature network's weights
    resize: str | None  # how images reach the network's size
    samples: int  # generated images
    reference: str | None  # the dataset compared with, such as "mnist 3.0.1"
    split: str | None
    reference_samples: int | None
    seed: int | None  # of the generated images and of the metric's random draws
    protocol: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)

    def fields(self) -> dict[str, Scalar]:
        """All of it as one flat record, protocol entries as `protocol.<name>`."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        protocol = record.pop("protocol")
        return {**record, **{f"protocol.{name}": value for name, value in protocol.items()}}

    def digest(self) -> str:
        """Twelve hexadecimal digits that differ where any field does; 5 and 5.0 are one value."""
        text = json.dumps({n: _plain(v) for n, v in self.fields().items()}, sort_keys=True)
        return files.digest(text, 12)


def _plain(value: Scalar) -> Scalar:
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Measurement(NamedTuple):
    """A value under its spec, with the ends of its interval where there is one."""

    value: float
    spec: MetricSpec
    low: float | None = None
    high: float | None = None


class Table(NamedTuple):
    """Rows in the order given, columns in order of appearance; None where a row has no such measurement. Cells may be
    texts, and their columns lack a digest, ""."""

    columns: list[str]
    digests: list[str]
    rows: dict[str, list[Measurement | str | None]]


def table(measurements: Mapping[str, Mapping[str, Measurement]]) -> Table:
    """A table of {row: {column: measurement}}.

    Raises `DataError` where a column would hold two digests, naming the rows and every field that differs.
    """
    firsts: dict[str, tuple[str, MetricSpec]] = {}
    for row, cells in measurements.items():
        for column, measurement in cells.items():
            first, spec = firsts.setdefault(column, (row, measurement.spec))
            if spec.digest() != measurement.spec.digest():
                raise DataError(
                    f"column {column!r} cannot hold both {first!r} and {row!r}, whose protocols differ in "
                    f"{_differences(spec, measurement.spec)}; measure both alike, or give them columns of their own."
                )
    columns = list(firsts)
    digests = [firsts[column][1].digest() for column in columns]
    return Table(columns, digests, {row: [cells.get(c) for c in columns] for row, cells in measurements.items()})


def _differences(first: MetricSpec, second: MetricSpec) -> str:
    ours, theirs = first.fields(), second.fields()
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name} ({ours.get(name)!r} and {theirs.get(name)!r})" for name in names)


def cell(measurement: Measurement, digits: int = 4) -> str:
    """The value, and its interval in brackets."""
    ends = (measurement.low, measurement.high)
    interval = "" if None in ends else " [{:.{d}g}, {:.{d}g}]".format(*ends, d=digits)
    return f"{measurement.value:.{digits}g}{interval}"


def markdown(contents: Table, digits: int = 4) -> str:
    """The table in GitHub's Markdown: heads have arrows towards better values, the last row has the digests."""

    def text(content: Measurement | str | None) -> str:
        return cell(content, digits) if isinstance(content, Measurement) else content or ""

    lines = [["", *map(directions.arrow, contents.columns)], ["---"] * (len(contents.columns) + 1)]
    lines += [[name, *map(text, cells)] for name, cells in contents.rows.items()]
    lines += [["protocol", *(f"`{digest}`" if digest else "" for digest in contents.digests)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
