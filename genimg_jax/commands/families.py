"""genimg families"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from genimg_jax.commands import command_line

ABOUT = "what each family can do, and the options of one: genimg families [--family vae]"


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("family", "", "show this family's options", flag_values=values)


def main(arguments: Sequence[str]) -> None:
    values = command_line.parse("families", ABOUT, define, arguments)
    from genimg_jax import core, families
    from genimg_jax.engine import optimizers

    if values.family:
        module = families.load(values.family)
        print(module.__doc__.strip() + "\n")
        for field in dataclasses.fields(module.Options):
            allowed = field.metadata.get("choices")
            print(f"  model.{field.name:26} {field.default!r:16} {', '.join(allowed) if allowed else ''}".rstrip())
        return
    fields = {"source": core.Field((64, 64, 1)), "map": core.Field((64, 64), 2)}  # some families cannot be without
    spec = core.Spec((64, 64, 1), 10, 2, fields)
    print(f"{'family':16} {'log_prob is':12} {'groups':26} can")
    for name in families.REGISTRY:
        module = families.load(name)
        optimizer = {g: optimizers.make(optimizers.Options(), 1, 1) for g in module.GROUPS}
        family = module.make(module.Options(), spec, optimizer)
        able = {
            "sample": family.sample,
            "log_prob": family.log_prob,
            "reconstruct": core.space_with(family, "encode"),
            "interpolate": core.space_with(family, "prior", "interpolate"),
            "denoise": family.denoise,
            "inpaint": family.inpaint,
        }
        can = ", ".join(verb for verb, function in able.items() if function)
        print(f"{name:16} {family.likelihood_kind or '-':12} {', '.join(module.GROUPS):26} {can}")
