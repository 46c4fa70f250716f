"""Makes the classifiers that the package ships, by the recipe that all others are trained by.

    python experiments/classifiers.py digits
    TFDS_DATA_DIR=... python experiments/classifiers.py mnist

Writes genimg_jax/evaluation/weights/NAME.safetensors, whose metadata holds the record: recipe, data, accuracies, and
what it took. The same command on the same kind of machine writes the same bytes, but for the times.
"""

import argparse
import json
import platform
import sys
import time

from genimg_jax.engine import runtime
from genimg_jax.errors import exit_code

SOURCES = {"digits": {"source": "digits"}, "mnist": {"source": "tfds", "name": "mnist"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SOURCES)
    name = parser.parse_args().name
    print(runtime.prepare(runtime.Options()))
    import jax

    from genimg_jax import data
    from genimg_jax.evaluation import classifiers

    options = data.Options(**SOURCES[name])
    train, test = (data.open_source(options, split) for split in (options.train_split, options.evaluate_split))
    path = classifiers.WEIGHTS / f"{name}.safetensors"
    more = {
        "command": f"python experiments/classifiers.py {name}",
        "jax": jax.__version__,
        "machine": f"{platform.machine()} {jax.default_backend()}",
    }
    seconds = time.process_time()
    found = classifiers.train_on_source(path, train, test, name, classifiers.STANDARD, more)
    print(json.dumps(found.record, indent=2))
    print(f"{path}: {path.stat().st_size:,} bytes, {time.process_time() - seconds:.0f} s of processor time")


if __name__ == "__main__":
    sys.exit(exit_code(main))
