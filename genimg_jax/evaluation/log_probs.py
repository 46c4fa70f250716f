"""The log-likelihood of each test image, stored beside a report so that models can be compared image by image."""

import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from genimg_jax.data import Source, identity
from genimg_jax.errors import DataError
from genimg_jax.evaluation.likelihood import NATS
from genimg_jax.metrics.specs import Measurement


def arrays(values: np.ndarray, measured: Mapping[str, Measurement], source: Source) -> dict[str, np.ndarray]:
    """What `NAME-log_prob.npz` holds beside the report `NAME.json`: the values in nats, row i that of image i of the
    split; the images' fingerprint; and the digest of the likelihood's protocol."""  # f64[N]
    digest = measured[NATS].spec.digest()
    return {"log_prob": values, "data": np.array(identity.content(source)), "digest": np.array(digest)}


def read(report_file: pathlib.Path, metrics: Mapping[str, Any]) -> np.ndarray | None:
    """The values beside a report with these metrics; None where none were stored, as by earlier versions.

    Values of one digest belong to the same images in the same order. Raises `DataError` where the file is damaged, or
    does not belong to the report.
    """  # -> f64[N]
    path = report_file.with_name(f"{report_file.stem}-log_prob.npz")
    if NATS not in metrics or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            values, digest = archive["log_prob"].astype(np.float64), str(archive["digest"])
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); evaluate the run anew.") from error
    stated = metrics[NATS]
    if digest != stated["digest"] or not np.isclose(-values.mean(), float(stated["value"]), equal_nan=True):
        raise DataError(f"{path} does not belong to {report_file.name} beside it; evaluate the run anew.")
    return values
