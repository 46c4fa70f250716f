"""The training steps that are measured, said once for both frameworks. No framework is imported here."""

from typing import NamedTuple

import numpy as np


class Problem(NamedTuple):
    family: str
    model: dict  # the family's options, or the network and its fields
    image_shape: tuple[int, int, int]
    batch_size: int
    optimizer: dict  # Adam: learning_rate, b1
    runtime: dict  # `engine.runtime.Options` found fastest for it on two cores
    torch: tuple[str, ...]  # the variants of `torch_step.make` that suit it
    levels: int = 256
    domains: int = 1  # of images: 2 for a translation
    period: int = 1  # steps after which lazy penalties repeat: a turn is a multiple of it
    plain: str = ""  # the same problem without penalties


PLAIN = ("eager", "compiled")
CONVOLUTIONS = ("eager", "eager-channels_last", "compiled", "compiled-channels_last")
PENALTIES = (*CONVOLUTIONS, "compiled-penalties", "compiled-penalties-channels_last")
GAN_ADAM = {"learning_rate": 2e-4, "b1": 0.5}
ADAM = {"learning_rate": 1e-3, "b1": 0.9}
PROBLEMS = {
    "mlp_gan": Problem(
        family="gan",
        model={"network": "mlp", "width": 512, "depth": 3, "latent": 64, "generator_normalization": "batch"},
        image_shape=(28, 28, 1),
        batch_size=64,
        optimizer=GAN_ADAM,
        runtime={"cpu_tuning": False, "host_devices": 1},
        torch=PLAIN,
    ),
    "dcgan32": Problem(
        family="gan",
        model={"network": "conv", "width": 64, "latent": 128, "generator_normalization": "batch"},
        image_shape=(32, 32, 3),
        batch_size=64,
        optimizer=GAN_ADAM,
        runtime={"cpu_tuning": True, "host_devices": 1},
        torch=CONVOLUTIONS,
    ),
    "conv_vae": Problem(
        family="vae",
        model={"network": "conv", "width": 32, "latent": 64, "likelihood": "discretized_logistic"},
        image_shape=(32, 32, 3),
        batch_size=128,
        optimizer=ADAM,
        runtime={"cpu_tuning": True, "host_devices": 1},
        torch=CONVOLUTIONS,
    ),
    "row_gru": Problem(
        family="rnn",
        model={"cell": "gru", "width": 512},
        image_shape=(28, 28, 1),
        batch_size=64,
        optimizer=ADAM,
        runtime={"cpu_tuning": True, "host_devices": 1},
        torch=PLAIN,
        levels=2,
    ),
    "pixelcnn": Problem(
        family="pixelcnn",
        model={"features": 32, "layers": 10, "kernel_radius": 1, "first_kernel_radius": 3},
        image_shape=(28, 28, 1),
        batch_size=64,
        optimizer=ADAM,
        runtime={"cpu_tuning": True, "host_devices": 2},
        torch=CONVOLUTIONS,
        levels=2,
    ),
    "pixel_transformer": Problem(
        family="transformer",
        model={"width": 256, "depth": 6, "heads": 4},
        image_shape=(16, 16, 1),
        batch_size=16,
        optimizer=ADAM,
        runtime={"cpu_tuning": True, "host_devices": 2},
        torch=PLAIN,
    ),
    "unet": Problem(
        family="flow",
        model={"network": "unet", "width": 64, "multipliers": (1, 2, 2), "blocks": 1, "attention": (16,)},
        image_shape=(32, 32, 3),
        batch_size=32,
        optimizer=ADAM,
        runtime={"cpu_tuning": True, "host_devices": 2},
        torch=CONVOLUTIONS,
    ),
    "dit_4": Problem(
        family="flow",
        model={"network": "dit", "patch": 4, "width": 256, "depth": 6, "heads": 4},
        image_shape=(32, 32, 3),
        batch_size=64,
        optimizer=ADAM,
        runtime={"cpu_tuning": True, "host_devices": 1},
        torch=PLAIN,
    ),
}
STYLES = {
    "width": 32,
    "max_width": 256,
    "latent": 128,
    "mapping_depth": 8,
    "mapping_rate": 0.01,
    "style_mixing": 0.9,
    "minibatch_group": 4,
    "penalty": "r1",
    "penalty_weight": 1.0,
    "penalty_every": 16,
    "path_length_weight": 1.0,
    "path_length_every": 8,
}
PROBLEMS |= {
    "stylegan2": Problem(
        family="stylegan2",
        model=STYLES,
        image_shape=(32, 32, 3),
        batch_size=16,
        optimizer={"learning_rate": 2e-3, "b1": 0.0},
        runtime={"cpu_tuning": True, "host_devices": 1},
        torch=(*PENALTIES, "eager-grouped"),
        period=16,
        plain="stylegan2_plain",
    ),
    "cyclegan": Problem(
        family="cyclegan",
        model={
            "width": 32,
            "num_downsamples": 2,
            "blocks": 6,
            "cycle_weight": 5.0,
            "pool": 50,
            "discriminator_width": 64,
            "discriminator_depth": 3,
        },
        image_shape=(64, 64, 3),
        batch_size=4,
        optimizer=GAN_ADAM,
        runtime={"cpu_tuning": True, "host_devices": 1},
        torch=CONVOLUTIONS,
        domains=2,
    ),
}
ROWS, PATCHES = PROBLEMS["row_gru"], PROBLEMS["dit_4"]
STYLEGAN2, DCGAN = PROBLEMS["stylegan2"], PROBLEMS["dcgan32"]
PROBLEMS |= {
    "stylegan2_plain": STYLEGAN2._replace(
        model={**STYLES, "penalty": "none", "path_length_weight": 0.0}, torch=CONVOLUTIONS, period=1, plain=""
    ),
    "stylegan2_every_step": STYLEGAN2._replace(
        model={**STYLES, "penalty_every": 1, "path_length_every": 1}, torch=PENALTIES, period=1
    ),
    "dcgan32_r1": DCGAN._replace(model={**DCGAN.model, "penalty": "r1"}, torch=PENALTIES, plain="dcgan32"),
    "row_lstm": ROWS._replace(model={**ROWS.model, "cell": "lstm"}),
    "dit_2": PATCHES._replace(
        model={**PATCHES.model, "patch": 2}, batch_size=32, runtime={"cpu_tuning": True, "host_devices": 2}
    ),
}


def batches(problem: Problem, count: int = 8) -> list[np.ndarray]:
    """Images as a data loader hands them over: bytes."""  # -> count x u8[B, H, W, C]
    generator = np.random.default_rng(0)
    shape = (problem.batch_size, *problem.image_shape)
    return [generator.integers(0, problem.levels, shape, dtype=np.uint8) for _ in range(count)]
