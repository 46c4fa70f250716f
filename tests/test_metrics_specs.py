"""Digests tell protocols apart, all of them, and tables keep them apart."""

import dataclasses

import pytest

from genimg_jax.errors import DataError
from genimg_jax.metrics.specs import Measurement, MetricSpec, markdown, table

SPEC = MetricSpec("frechet", "inception", "a1b2", "bilinear 299", 10_000, "mnist 3.0.1", "test", 10_000, 0, {"k": 5})


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(MetricSpec)])
def test_every_field_changes_the_digest(field):
    old = getattr(SPEC, field)
    new = {"k": 3} if field == "protocol" else old + 1 if isinstance(old, int) else old + "x"
    assert dataclasses.replace(SPEC, **{field: new}).digest() != SPEC.digest()


def test_order_and_number_type_do_not():
    first = dataclasses.replace(SPEC, protocol={"a": 1, "b": 2.5})
    second = dataclasses.replace(SPEC, protocol={"b": 2.5, "a": 1.0})
    assert first.digest() == second.digest()
    assert len(first.digest()) == 12
    assert dataclasses.replace(SPEC, protocol={"a": "1", "b": 2.5}).digest() != first.digest()
    # A protocol entry is not the field of the same name.
    assert dataclasses.replace(SPEC, protocol={"k": 5, "seed": 0}).digest() != SPEC.digest()


def test_a_column_refuses_a_second_protocol_and_says_what_differs():
    other = dataclasses.replace(SPEC, samples=5000, protocol={"k": 3})
    with pytest.raises(DataError, match=r"'fid'.*'vae'.*'gan'.*samples \(10000 and 5000\), protocol.k \(5 and 3\)"):
        table({"vae": {"fid": Measurement(1.0, SPEC)}, "gan": {"fid": Measurement(2.0, other)}})
    apart = table({"vae": {"fid": Measurement(1.0, SPEC)}, "gan": {"fid 5k": Measurement(2.0, other)}})
    assert apart.columns == ["fid", "fid 5k"]
    assert apart.rows["gan"][0] is None


def test_heads_of_columns_have_arrows_towards_better_values():
    names = ("precision/pixels", "frechet/pixels", "negative_log_likelihood (exact)", "gan_test", "gan_test_control")
    text = markdown(table({"vae": {name: Measurement(1.0, SPEC) for name in names}}))
    shown = (
        "| precision/pixels ↑ | frechet/pixels ↓ | negative_log_likelihood (exact) ↓ | gan_test ↑ | gan_test_control |"
    )
    assert text.splitlines()[0] == f"|  {shown}"


def test_markdown_shows_values_intervals_and_digests():
    text = markdown(table({"vae": {"fid": Measurement(1.23456, SPEC, 1.1, 1.4)}, "gan": {}}), digits=3)
    assert text.splitlines() == [
        "|  | fid |",
        "| --- | --- |",
        "| vae | 1.23 [1.1, 1.4] |",
        "| gan |  |",
        f"| protocol | `{SPEC.digest()}` |",
    ]
