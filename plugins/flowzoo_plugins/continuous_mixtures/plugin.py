"""What the plugins of continuous and discrete index mixtures say about themselves."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

_PAPER = (
    "Cornish, Caterini, Deligiannidis, Doucet (2020), Relaxing Bijectivity Constraints with "
    "Continuously Indexed Normalising Flows, ICML; first as Localised Generative Flows"
)
_BIBTEX = """@inproceedings{cornish2020relaxing,
  title = {Relaxing Bijectivity Constraints with Continuously Indexed Normalising Flows},
  author = {Cornish, Rob and Caterini, Anthony L. and Deligiannidis, George and Doucet, Arnaud},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}"""

LGF = PluginSpec(
    kind="mixture",
    name="lgf",
    summary="localised generative flows: a flow's layers with a continuous index between them",
    target="flowzoo_plugins.continuous_mixtures.lgf:LGF",
    capabilities={
        "evaluations": {"importance": "estimate, lebesgue", "elbo": "lower bound, lebesgue"},
        "methods": ["embed", "importance_estimate"],
        "with a partitioner": ["assign"],
        "packable": "where the base flow is",
    },
    paper=_PAPER,
    bibtex=_BIBTEX,
    check_options={
        "base_flow": {"name": "maf", "layers": 2, "hidden": [8]},
        "p_hidden": [8],
        "q_hidden": [8],
        "num_samples": 64,
    },
)
