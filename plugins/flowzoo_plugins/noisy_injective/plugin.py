"""What the noisy-injective plugin says about itself; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

_PAPER = "Cunningham et al. (2020), Normalizing Flows Across Dimensions, arXiv:2006.13070"
_BIBTEX = """@article{cunningham2020normalizing,
  title = {Normalizing Flows Across Dimensions},
  author = {Cunningham, Edmond and Zabounidis, Renos and Agrawal, Abhinav and Fiterau, Ina and
            Sheldon, Daniel},
  journal = {arXiv preprint arXiv:2006.13070},
  year = {2020}
}"""

NIF = PluginSpec(
    kind="mixture",
    name="nif",
    summary="a base flow over a low-dimensional plane with Gaussian noise, exact density",
    target="flowzoo_plugins.noisy_injective.flow:NoisyInjectiveFlow",
    capabilities={
        "evaluations": {"exact": "exact, lebesgue", "elbo": "lower bound, lebesgue"},
        "methods": ["sample_and_log_prob", "embed", "reconstruct", "intrinsic_dimension"],
        "knobs": ["temperature", "noise_scale"],
        "trained": True,
        "packable": "where the base flow is",
    },
    check_options={"base_flow": {"name": "realnvp", "layers": 2, "hidden": [16]}},
    paper=_PAPER,
    bibtex=_BIBTEX,
)

DEEP_NIF = PluginSpec(
    kind="mixture",
    name="deep-nif",
    summary="a flow on few columns, a noisy injection into many, a flow there: bound and estimate",
    target="flowzoo_plugins.noisy_injective.deep:DeepNIF",
    capabilities={
        "evaluations": {
            "importance": "estimate, lebesgue",
            "elbo": "lower bound, lebesgue",
            "exact": "without a latent flow, under a Gaussian injection",
        },
        "injections": ["gaussian", "up-sampling", "stochastic-coupling"],
        "methods": ["embed", "reconstruct", "importance_estimate"],
        "knobs": ["temperature", "noise_scale"],
        "trained": True,
        "packable": "where the flows are",
    },
    check_options={
        "latent_flow": {"name": "realnvp", "layers": 2, "hidden": [8]},
        "base_flow": {"name": "realnvp", "layers": 2, "hidden": [8]},
        "training_samples": 4,
        "num_samples": 16,
    },
    paper=_PAPER,
    bibtex=_BIBTEX,
)
