"""What is missing is skipped and said, or fails where everything is required."""

import needs
import pytest


def test_what_is_missing_is_skipped_or_fails(monkeypatch):
    monkeypatch.setitem(needs.NAMES, "no_such_module", "Something")
    monkeypatch.delenv("GENIMG_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs Something: No module named 'no_such_module'"):
        needs.module("no_such_module.part")
    monkeypatch.setenv("GENIMG_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="needs Something"):
        needs.module("no_such_module.part")
    assert needs.module("pytest") is pytest


def test_the_last_line_counts_what_was_left_out():
    reasons = ["Skipped: needs PyTorch: x", "Skipped: needs Chromium: y: z", "Skipped: needs PyTorch: w", "no data"]
    assert needs.summary(reasons) == (
        "left out (tests, or files of them): 2 need PyTorch, 1 need Chromium; .ci/run installs these; "
        "1 skipped for other reasons, which pytest -rs gives"
    )
    assert needs.summary([]) == ""
