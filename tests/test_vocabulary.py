"""The code speaks the field's words: names that it had for them before do not come back."""

import io
import pathlib
import tokenize
from collections.abc import Collection

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# The old name, and the field's word.
OLD = {
    "item_keys": "per_example_keys",
    "likelihood_of": "likelihood_spec",
    "data_std": "sigma_data",
    "times_mean": "P_mean",
    "times_std": "P_std",
    "guide_width": "autoguidance_width",
    "guidance_least": "guidance_sigma_min",
    "guidance_greatest": "guidance_sigma_max",
    "angular_velocity_target": "v_target",
    "halvings": "num_downsamples",
    "revival_threshold": "dead_code_threshold",
    "first_reach": "first_kernel_radius",
    "enlarge": "pixel_shuffle",
    "label_dropout": "condition_dropout",
    "completion": "inpaint_method",
    "waves": "fourier_features",
    "Trunk": "Blocks",
    "hindrance": "why_not_vmappable",
    "convolves": "has_convolutions",
    "shareable": "round_up",
    "anywhere": "any_process",
    "living": "active",
    "untrained": "inference_only",
    "own_pairs": "self_similarity",
    "OwnPairs": "SelfSimilarity",
    "Uncopied": "NullDistances",
    "random_convolutions": "random_conv",
    "PASSING": "VOLATILE_KEYS",
    "of_reference": "reference_values",
    "anecdote": "too_few_seeds",
    "obeyed": "prompt_accuracy",
    "answered": "exit_code",
    "regressed": "regression_batch",
    "run_cells": "run_trials",
    "by_setting": "by_configuration",
    "enlarged": "unstandardize",
    "shrunk": "standardize",
    "hindered": "excluded",
}
# Names that say nothing about a value.
VAGUE = {"found", "own", "made", "said", "told", "drawn", "held", "seen"}


def names_among(words: Collection[str], code: str) -> set[str]:
    return {t.string for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.string in words}


FILES = [path for room in ("genimg_jax", "configs") for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_the_fields(path):
    found = names_among(OLD, path.read_text())
    assert not found, "; ".join(f"{name} is called {OLD[name]}" for name in sorted(found))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_a_value_is(path):
    assert not names_among(VAGUE, path.read_text())


def test_an_old_name_is_found():
    assert names_among(OLD, "keys = core.item_keys(key, index)  # halvings") == {"item_keys"}
    assert names_among(VAGUE, 'found = "told"') == {"found"}
