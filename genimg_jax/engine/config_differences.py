"""The differences of two configurations, and whether a run can continue with the other one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from genimg_jax import families
from genimg_jax.engine.config import RESUMABLE_KEYS, flatten, located
from genimg_jax.options import inference_only

# Locations that may change: their contents are compared, by the data's fingerprint and the weights of other runs.
MOVABLE = (
    "data.path",
    "data.captions.vocabulary",
    "data.features.encoder",
    "data.features.checkpoint",
    "data.features.statistics",
    "tokenizer.workdir",
)


class Difference(NamedTuple):
    key: str
    stored: Any
    given: Any
    safe: bool


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[Difference]:
    """The differences of two configurations. Safe are options that training does not read, other locations of the same
    contents, and another number of steps if no schedule depends on it."""
    stored, given = flatten(located(stored)), flatten(located(given))
    unread = [f"model.{name}" for name in inference_only(families.load(stored["family"]).Options)]
    constant = all(v == "constant" for k, v in given.items() if k.startswith("optimizer.") and k.endswith("schedule"))
    return [
        Difference(
            key,
            stored.get(key),
            given.get(key),
            bool(RESUMABLE_KEYS.fullmatch(key)) or key in (*unread, *MOVABLE) or (key == "train.steps" and constant),
        )
        for key in sorted({*stored, *given})
        if stored.get(key) != given.get(key)
    ]


def table(rows: list[Difference]) -> str:
    """The differences as text, one a line."""
    width = max(len(d.key) for d in rows)
    return "\n".join(f"  {d.key:{width}}  stored {d.stored!r}, given {d.given!r}" for d in rows)
