"""Intervals cover what `experiments/results/interval_coverage.md` says, in draws of another seed."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "experiments"))

import interval_coverage as study


@pytest.mark.slow
@pytest.mark.parametrize("kind", study.KINDS)
def test_coverage_is_as_the_table_says(kind):
    lines = (line.split(" | ") for line in study.RESULT.read_text().splitlines())
    stated = {words[1]: (int(words[2]), float(words[3])) for words in lines if words[0] == f"| {kind}"}
    cases = study.KINDS[kind]()
    assert [case.name for case in cases] == list(stated)
    for case in cases:
        row = study.coverage(kind, case, case.repetitions // 4, seed=1)
        count, share = stated[case.name]
        error = np.sqrt(max(share * (1 - share), 0.01) * (1 / count + 1 / row.repetitions))
        assert abs(row.coverage - share) < 4 * error, row
