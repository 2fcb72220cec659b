"""The presets of the LGF paper: parameter counts as printed, grids of D.3."""

from __future__ import annotations

import pytest
from torch import nn

from flowzoo.registry import build, build_part
from flowzoo_plugins.continuous_mixtures.presets import LGF_2D, LGF_UCI, MAF_2D, MAF_UCI


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "maf", "lgf"),
    [
        ("two-uniforms", 80_080, 80_810),
        ("others", 160_160, 119_910),
        ("large-spirals", 364_160, 221_910),
    ],
)
def test_parameter_counts_are_those_of_the_paper(name, maf, lgf):
    assert count(build_part("base-flow", MAF_2D[name], features=2)) == maf
    assert count(build("mixture", "global", features=2, base_flow=MAF_2D[name])) == maf
    assert count(build("mixture", "lgf", features=2, **LGF_2D[name])) == lgf


@pytest.mark.parametrize(
    ("name", "features"), [("power", 6), ("gas", 8), ("hepmass", 21), ("miniboone", 43)]
)
def test_grids_have_nine_and_eight_models_that_build(name, features):
    mafs, lgfs = MAF_UCI[name], LGF_UCI[name]
    assert (len(mafs), len(lgfs)) == (9, 8)
    assert len({str(flow) for flow in mafs}) == 9
    assert len({str(options) for options in lgfs}) == 8
    flow = build_part("base-flow", mafs[0], features=features)
    assert len(flow.layers()) == 5
    model = build("mixture", "lgf", features=features, **lgfs[-1])
    assert len(model.joint.layers) == 10
    assert model.joint.index_features == 10 * {6: 2, 8: 2, 21: 5, 43: 10}[features]
