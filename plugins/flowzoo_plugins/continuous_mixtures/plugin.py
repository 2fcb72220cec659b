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

DISCRETE_LGF = PluginSpec(
    kind="mixture",
    name="discrete-lgf",
    summary="localised generative flows with finite indices: exact sums, or a Concrete relaxation",
    target="flowzoo_plugins.continuous_mixtures.discrete:DiscreteLGF",
    capabilities={
        "evaluations": {
            "exact": "exact, lebesgue; up to max_paths terms",
            "importance": "estimate, lebesgue; with an inference model",
            "elbo": "lower bound, lebesgue; with an inference model",
        },
        "methods": ["embed"],
        "with an inference model": ["importance_estimate"],
        "of one layer": ["assign"],
        "packable": "where the base flow is",
    },
    paper=_PAPER,
    bibtex=_BIBTEX,
    check_options={
        "base_flow": {"name": "maf", "layers": 2, "hidden": [8]},
        "num_values": 3,
        "p_hidden": [8],
        "q_hidden": [8],
        "num_samples": 64,
    },
)

RAD = PluginSpec(
    kind="mixture",
    name="rad",
    summary="RAD: a flow with piecewise linear folds, each gated; a hard partition, exact",
    target="flowzoo_plugins.continuous_mixtures.rad:RAD",
    capabilities={
        "evaluations": {"exact": "exact, lebesgue"},
        "methods": ["embed", "assign"],
        "packable": "where the base flow is",
    },
    paper="Dinh, Sohl-Dickstein, Larochelle, Pascanu (2019), A RAD approach to deep mixture "
    "models, arXiv:1903.07714",
    bibtex="""@article{dinh2019rad,
  title = {A {RAD} approach to deep mixture models},
  author = {Dinh, Laurent and Sohl-Dickstein, Jascha and Larochelle, Hugo and Pascanu, Razvan},
  journal = {arXiv:1903.07714},
  year = {2019}
}""",
    check_options={
        "base_flow": {"name": "maf", "layers": 2, "hidden": [8]},
        "folds": 2,
        "pieces": 3,
        "gate_hidden": [8],
    },
)
