"""How far the likelihood by the ODE is from the known density, and how often its interval covers it, at the defaults.

    python experiments/likelihood_error.py > experiments/results/likelihood_error.md

Mixtures of Gaussians have a known density at every noise level and an ideal denoiser in closed form; one of them is
fitted to scikit-learn's digits with a level's uniform noise. Images are drawn from the mixture. Levels are so fine here
that dequantisation adds nothing. The truth that an interval has to cover is the expected -log p(x), from a million
draws; the bias is the mean of the estimate less the exact log p of the same images.
"""

import argparse
import pathlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from genimg_jax import core
from genimg_jax.families import denoising, diffusion, flow
from genimg_jax.metrics import intervals
from genimg_jax.objectives import interpolants

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests"))
import gaussian_score

LEVELS, CHUNK = 2**16, 1600
FAMILIES = {
    "diffusion": (diffusion.Options(), interpolants.variance_exploding()),
    "flow": (flow.Options(), interpolants.rectified()),
}


class Toy(NamedTuple):
    mixture: gaussian_score.Mixture
    shape: tuple[int, int, int]
    images: int  # of a test set


def digits() -> gaussian_score.Mixture:
    """Ten Gaussians with full covariances, whose smallest standard deviations are 0.03 or more."""
    images, rng = load_digits().data / 8 - 1, np.random.default_rng(0)
    images = images + rng.uniform(-1 / 16, 1 / 16, images.shape)
    fitted = GaussianMixture(10, reg_covar=1e-3, random_state=0).fit(images)
    return gaussian_score.mixture(fitted.weights_, fitted.means_, fitted.covariances_)


def toys() -> dict[str, Toy]:
    rng, size = np.random.default_rng(0), 4
    gaussian = gaussian_score.gaussian(0.5 * rng.normal(size=size), gaussian_score.random_covariance(rng, size))
    parts = [gaussian_score.random_covariance(rng, size, 0.5) for _ in range(2)]
    modes = gaussian_score.mixture([0.6, 0.4], rng.normal(size=(2, size)), parts)
    narrow = gaussian_score.gaussian([0.2, -0.1, 0.0, 0.1], gaussian_score.random_covariance(rng, size, 0.03))
    small = {"a Gaussian": gaussian, "two Gaussians": modes, "a narrow Gaussian": narrow}
    return {
        **{name: Toy(mixture, (2, 2, 1), 256) for name, mixture in small.items()},
        "digits, ten Gaussians": Toy(digits(), (8, 8, 1), 64),
    }


def family(toy: Toy, name: str) -> core.Family:
    """The family whose network is ideal, at its default options."""
    options, path = FAMILIES[name]
    ideal = denoising.Model(
        init=lambda *_: {},
        draw=lambda *_: {},
        error=lambda *_: (jnp.zeros(1), {}),
        denoiser=lambda params, condition: gaussian_score.denoiser(toy.mixture),
        guided=lambda params, condition: gaussian_score.denoiser(toy.mixture),
        from_noise=lambda params, condition, noise, keys: noise,
        interpolant=lambda params: path,
    )
    return denoising.family(options, core.Spec(toy.shape, 0, LEVELS), {"model": core.Optimizer(None)}, ideal)


def log_density(mixture: gaussian_score.Mixture, x: np.ndarray) -> np.ndarray:  # [N, D] -> f64[N]
    run = jax.jit(lambda x: gaussian_score.log_density(mixture, x, jnp.zeros(len(x))))
    parts = np.array_split(x, -(-len(x) // CHUNK))
    return np.concatenate([np.asarray(run(jnp.asarray(part, float)), np.float64) for part in parts])


def row(toy_name: str, toy: Toy, name: str, repetitions: int) -> str:
    made, size, count = family(toy, name), int(np.prod(toy.shape)), repetitions * toy.images
    x = gaussian_score.draw(toy.mixture, np.random.default_rng(1), count)
    run = jax.jit(
        lambda batch, f: getattr(made, f)(core.Weights({"model": {}}, {}, {}), batch, jax.random.key(2)),
        static_argnums=1,
    )
    found = {"log_prob": [], "log_prob_at_half": []}
    for index in np.array_split(np.arange(count), -(-count // CHUNK)):
        batch = {"image": jnp.asarray(x[index].reshape(-1, *toy.shape), jnp.float32), "index": jnp.asarray(index)}
        for f, values in found.items():
            values.append(np.asarray(run(batch, f), np.float64))
    unit = size * np.log(2)
    estimate, half = ((np.concatenate(v) - size * np.log(2 / (LEVELS - 1))) / unit for v in found.values())
    bias = intervals.mean(estimate - log_density(toy.mixture, x) / unit)
    rng = np.random.default_rng(3)
    draws = [log_density(toy.mixture, gaussian_score.draw(toy.mixture, rng, 20_000)).mean() for _ in range(50)]
    truth = -np.mean(draws) / unit

    inside, widths, errors = 0, [], []
    for part in np.array_split(np.arange(count), repetitions):
        error = abs((estimate - half)[part]).mean()
        interval = intervals.mean(-estimate[part])
        inside += interval.low - error <= truth <= interval.high + error
        widths.append(interval.high - interval.estimate)
        errors.append(error)
    cells = [toy_name, name, f"{bias.estimate:+.5f} [{bias.low:+.5f}, {bias.high:+.5f}]", f"{np.mean(errors):.5f}"]
    cells += [f"{np.mean(widths):.4f}", f"{inside / repetitions:.1%} of {repetitions}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    repetitions = parser.parse_args().repetitions
    columns = "data", "family", "bias, bits a dimension [95 %]", "half the steps change", "half interval", "covered"
    print(f"{__doc__.partition(chr(10))[0]}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    for toy_name, toy in toys().items():
        for name in FAMILIES:
            print(row(toy_name, toy, name, repetitions), flush=True)


if __name__ == "__main__":
    main()
