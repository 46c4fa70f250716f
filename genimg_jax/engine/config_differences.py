"""Where two configurations differ, and whether a run can go on with the other one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from genimg_jax import families
from genimg_jax.engine.config import RESUMABLE_KEYS, flatten, located
from genimg_jax.options import inference_only

# What may lie elsewhere by then: its contents are compared, by the data's fingerprint and the weights of other runs.
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
    """Where two configurations differ. More steps are safe while no schedule depends on their number, and so is what
    training does not read, and another place of what is the same there."""
    one, two = flatten(located(stored)), flatten(located(given))
    after = [f"model.{name}" for name in inference_only(families.load(stored["family"]).Options)]
    constant = all(v == "constant" for k, v in two.items() if k.startswith("optimizer.") and k.endswith("schedule"))
    return [
        Difference(
            key,
            one.get(key),
            two.get(key),
            bool(RESUMABLE_KEYS.fullmatch(key)) or key in (*after, *MOVABLE) or (key == "train.steps" and constant),
        )
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
    ]


def table(found: list[Difference]) -> str:
    """`Difference`s for a person to read, one a line."""
    width = max(len(d.key) for d in found)
    return "\n".join(f"  {d.key:{width}}  stored {d.stored!r}, given {d.given!r}" for d in found)
