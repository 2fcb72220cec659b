"""What the spread-flows plugin says about itself; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

_PAPER = "Zhang et al. (2023), Spread Flows for Manifold Modelling, AISTATS"
_BIBTEX = """@inproceedings{zhang2023spread,
  title = {Spread Flows for Manifold Modelling},
  author = {Zhang, Mingtian and Sun, Yitong and Zhang, Chen and McDonagh, Steven},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  year = {2023}
}"""

SPREAD = PluginSpec(
    kind="mixture",
    name="spread",
    summary="a base flow over a Gaussian of learned rank: manifolds of unknown dimension",
    target="flowzoo_plugins.spread_flows.flow:SpreadFlow",
    capabilities={
        "evaluations": {"exact": "exact, lebesgue", "manifold": "exact, surface (learned)"},
        "methods": [
            "sample_and_log_prob",
            "embed",
            "reconstruct",
            "intrinsic_dimension",
            "local_dimension",
            "spectrum",
            "codes",
        ],
        "knobs": ["temperature", "noise_scale"],
        "packable": "where the base flow is",
    },
    paper=_PAPER,
    bibtex=_BIBTEX,
    version="2",  # noise on the data by default
    check_options={"base_flow": {"name": "gin", "layers": 2, "hidden": [16], "order": "rotation"}},
)
