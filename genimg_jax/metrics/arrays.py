"""Checks of sets of feature vectors, the input of every distance."""

import numpy as np

from genimg_jax.errors import DataError


def feature_set(features: np.ndarray, name: str, least: int = 2) -> np.ndarray:  # [N, D] -> f32[N, D]
    """The set as float32. Raises `DataError` unless it is [N, D] with N >= `least`, D >= 1 and every value finite."""
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0:
        raise DataError(f"the {name} features have shape {features.shape}; they must be [samples, features].")
    if len(features) < least:
        raise DataError(f"there are {len(features)} {name} samples; this measure needs at least {least}.")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, np.float32)
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{np.sum(~finite)} of {len(features)} {name} feature vectors are not finite in float32, the first at "
            f"index {np.argmin(finite)}; look at the images there."
        )
    return features


def feature_sets(least: int = 2, **sets: np.ndarray) -> list[np.ndarray]:  # name=[N, D] -> [f32[N, D]]
    """Several sets in one feature space, in the order given. Raises `DataError` where their widths differ too."""
    checked = [feature_set(features, name, least) for name, features in sets.items()]
    widths = {name: features.shape[1] for name, features in zip(sets, checked, strict=True)}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} has {width}" for name, width in widths.items())
        raise DataError(f"the feature sets differ in width: {listed}; take both from one feature network.")
    return checked
