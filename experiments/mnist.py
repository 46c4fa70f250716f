"""Every family on MNIST under one protocol: trains each configuration, evaluates it, prints two tables: images in 256
levels, and binarised ones.

    python experiments/mnist.py --workdir runs/mnist                 # one after another: hours of two cores
    python experiments/mnist.py --workdir runs/mnist --jobs 12       # side by side on one GPU: minutes
    python experiments/mnist.py --workdir runs/mnist --only flow,gan

Checkpoints are chosen on the validation split and measured on the test split. The output of each run is in NAME.log.
"""

import argparse
import concurrent.futures
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

GENIMG = (sys.executable, "-m", "genimg_jax")
ROOT = pathlib.Path(__file__).parent.parent
SAMPLES = "precision/classifier,recall/classifier,density/classifier,coverage/classifier"
COLUMNS = {
    "none": f"frechet_corrected/classifier,kernel/classifier,{SAMPLES},gan_train,gan_test,images_seen",
    "dynamic": f"frechet_corrected/classifier,kernel/classifier,{SAMPLES},negative_log_likelihood,images_seen",
}
DPM = ("--config.model.solver=dpm_solver", "--config.model.steps=12")


class Row(NamedTuple):
    config: str
    binarize: str = "none"  # how the images that it models are binarised
    sampling: tuple[str, ...] = ()
    tokenizer: str = ""


ROWS = {
    "autoencoder": Row("autoencoder_mnist.py"),
    "flow": Row("flow_mnist.py", sampling=DPM),
    "diffusion": Row("diffusion_mnist.py", sampling=DPM),
    "meanflow": Row("meanflow_mnist.py", sampling=("--config.model.steps=4", "--config.model.evaluate_times=1")),
    "gan": Row("gan_mnist.py"),
    "vq": Row("vq_mnist.py"),
    "latent": Row("latent_mnist.py", tokenizer="vq"),
    "vae": Row("vae_mnist.py", "dynamic"),
    "made": Row("made_mnist.py", "dynamic"),
    "pixelcnn": Row("pixelcnn_mnist.py", "dynamic"),
    "rnn_pixel": Row("rnn_mnist.py:pixel", "dynamic"),
    "rnn_row": Row("rnn_mnist.py", "dynamic"),
}
TOKENIZERS = {row.tokenizer for row in ROWS.values()}


def training(name: str, row: Row, tiny: bool) -> list[list[str]]:
    """Training, and the held-out likelihood or loss where the suites below do not measure it."""
    config = f"{row.config.partition(':')[0]}:tiny" if tiny else row.config
    train = ["train", "--config", str(ROOT / "configs" / config), "--workdir", name]
    train += [f"--config.tokenizer.workdir={row.tokenizer}"] * bool(row.tokenizer)
    return [train, *([["evaluate", "--workdir", name]] if row.binarize == "none" else [])]


def suite(name: str, row: Row, binarize: str, samples: int) -> list[list[str]]:
    command = ["evaluate", "--workdir", name, "--suite", "full", f"--config.evaluate.samples={samples}", *row.sampling]
    command.append("--config.evaluate.features=pixels,classifier")
    if binarize == "dynamic":
        command.append("--config.evaluate.classifier_tests=False")
    if row.binarize != "dynamic":
        command += [f"--config.data.binarize={binarize}", "--config.evaluate.likelihood=False"]
    return [command]


def run(workdir: pathlib.Path, name: str, commands: list[list[str]]) -> str:
    """Runs the commands one after another; what to say of them."""
    since = time.monotonic()
    for command in commands:
        with (workdir / f"{name}.log").open("a") as log:
            print("$ genimg", *command, file=log, flush=True)
            code = subprocess.run([*GENIMG, *command], cwd=workdir, stdout=log, stderr=log).returncode
        if code:
            return f"{name}: exit code {code} of genimg {command[0]}; see {workdir / name}.log"
    return f"{name}: {time.monotonic() - since:.0f} s"


def together(workdir: pathlib.Path, jobs: int, work: dict[str, list[list[str]]]) -> None:
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run, workdir, *item) for item in work.items()]):
            print(done.result(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--only", default=",".join(ROWS), help="rows, separated by commas")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--samples", type=int, default=5000, help="generated images of each row")
    parser.add_argument("--tiny", action="store_true", help="the tiny variant of each configuration, as a rehearsal")
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    rows = {name: ROWS[name] for name in options.only.split(",")}
    for first in (True, False):  # tokenizers before what is trained over them
        chosen = {name: row for name, row in rows.items() if (name in TOKENIZERS) == first}
        together(options.workdir, options.jobs, {n: training(n, row, options.tiny) for n, row in chosen.items()})
    for binarize, columns in COLUMNS.items():
        compared = {n: r for n, r in rows.items() if n not in TOKENIZERS and r.binarize in ("none", binarize)}
        work = {name: suite(name, row, binarize, options.samples) for name, row in compared.items()}
        together(options.workdir, options.jobs, work)
        table = [*GENIMG, "evaluate", "--table", ",".join(compared), "--columns", columns]
        shown = subprocess.run(table, cwd=options.workdir, capture_output=True, text=True)
        (options.workdir / f"{binarize}.md").write_text(shown.stdout)
        print(f"\nbinarize: {binarize}\n\n{shown.stdout or shown.stderr}")


if __name__ == "__main__":
    main()
