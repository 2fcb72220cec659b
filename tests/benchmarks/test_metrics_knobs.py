"""Names of settings: read back as what they were built from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowzoo_bench.metrics.knobs import knob_name, parse_knob_name

KNOBS = st.floats(0, 1e300)


@given(st.sampled_from(["precision", "frechet_distance[classifier]", "a[chosen s]"]), KNOBS, KNOBS)
def test_names_read_back(base, s, t):
    name = knob_name(base, noise_scale=s, temperature=t)
    expected = {knob: value for knob, value in (("s", s), ("t", t)) if value != 1}
    assert parse_knob_name(name) == (base, expected)
    assert (name == base) == (not expected)


def test_names_are_short():
    assert knob_name("x[y]", noise_scale=0.2, temperature=2.0) == "x[y][s=0.2][t=2]"
    assert knob_name("x", noise_scale=0) == "x[s=0]"
    assert knob_name("x", noise_scale=1, temperature=1.0) == "x"


@pytest.mark.parametrize("name", ["x", "x[y]", "x[s=]", "x[s=big]", "x[r=2]", "x[s=1] more", "[]"])
def test_other_names_have_no_knobs(name):
    assert parse_knob_name(name) == (name, {})


def test_bad_knobs_are_refused():
    with pytest.raises(ValueError, match="noise_scale: expected a finite number >= 0, got -1"):
        knob_name("x", noise_scale=-1)
    with pytest.raises(ValueError, match="temperature"):
        knob_name("x", temperature=float("nan"))
    with pytest.raises(ValueError, match="base: expected a name without knobs"):
        knob_name("x[s=0.2]", noise_scale=0.5)
