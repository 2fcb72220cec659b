"""The shipped LGF experiments are the paper's presets, and local methods have equal parameters."""

from __future__ import annotations

from typing import Any

import pytest

from flowzoo import registry
from flowzoo_bench.experiment import load_experiment
from flowzoo_plugins.continuous_mixtures.presets import (
    DRAWS_2D,
    DRAWS_UCI,
    EPOCHS_2D,
    LGF_2D,
    LGF_UCI,
    MAF_2D,
    MAF_UCI,
    TRAINING_2D,
    TRAINING_UCI,
)

UCI = ("power", "gas", "hepmass", "miniboone")


def flow_of(options: dict[str, Any]) -> dict[str, Any]:
    """A base flow as it would be built, with what is left to its defaults."""
    flow = dict(options["base_flow"])
    flow.setdefault("normalization", "batch")
    return flow


@pytest.mark.parametrize("task", UCI)
def test_lgf_uci_has_the_grids_of_the_paper(task):
    experiment = load_experiment("lgf_uci")
    assert {k: experiment.training[k] for k in TRAINING_UCI} == TRAINING_UCI
    assert experiment.replicates == 3
    on_task = [m for m in experiment.methods if m.runs_on(task)]
    mafs = [flow_of(m.options) for m in on_task if m.mixture == "global"]
    assert sorted(map(str, (sorted(f.items()) for f in mafs))) == sorted(
        str(sorted(f.items())) for f in MAF_UCI[task]
    )
    lgfs = [dict(m.options) for m in on_task if m.mixture == "lgf"]
    assert len(lgfs) == 8
    for expected in LGF_UCI[task]:
        wanted = {**expected, **DRAWS_UCI, "objective": "elbo"}
        assert wanted in lgfs


@pytest.mark.parametrize(("name", "draws"), [("lgf_2d", 1), ("lgf_2d_paper", DRAWS_2D)])
def test_lgf_2d_has_the_networks_of_the_paper(name, draws):
    experiment = load_experiment(name)
    assert {k: experiment.training[k] for k in TRAINING_2D} == TRAINING_2D
    methods = {m.label: m for m in experiment.methods if m.mixture in ("global", "lgf")}
    pairs = {
        "two-uniforms": ("MAF 80k (paper)", "LGF 81k (paper)"),
        "others": ("MAF 160k (paper)", "LGF 120k (paper)"),
        "large-spirals": ("MAF 364k (paper)", "LGF 222k (paper)"),
    }
    assert len(methods) == 6
    for preset, (maf, lgf) in pairs.items():
        assert flow_of(methods[maf].options) == MAF_2D[preset]
        given = {k: v for k, v in methods[lgf].options.items() if k in LGF_2D[preset]}
        given["base_flow"] = {**given["base_flow"], "normalization": "none"}
        wanted = {"index_features": 1, **LGF_2D[preset]}
        assert {"index_features": 1, **given} == wanted
        assert methods[lgf].options["training_samples"] == draws
        assert methods[lgf].options["objective"] == "elbo"
        for label in (maf, lgf):
            epochs = methods[label].options.get("training", {}).get("epochs", 500)
            assert epochs == EPOCHS_2D[preset]


@pytest.mark.parametrize("name", ["local_methods", "local_tuning"])
@pytest.mark.parametrize("features", [2, 3, 7, 12, 30])
def test_local_methods_have_equal_parameters(name, features):
    counts = {}
    for method in load_experiment(name).methods:
        at_thirty = features == 30 and "breast-cancer" in method.exclude_tasks
        if at_thirty or method.mixture in ("gaussian", "gmm", "kde"):
            continue
        options = {k: v for k, v in method.options.items() if k != "training"}
        model = registry.build("mixture", method.mixture, features=features, **options)
        counts[method.label] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert len(counts) == (9 if name == "local_methods" else 8) - (features == 30)
    reference = counts["LGF-MAF"]
    assert all(abs(count / reference - 1) < 0.05 for count in counts.values()), counts
