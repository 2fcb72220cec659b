"""Specs of the baselines; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

GAUSSIAN = PluginSpec(
    kind="mixture",
    name="gaussian",
    summary="one Gaussian with the maximum-likelihood mean and full covariance",
    target="flowzoo_plugins.baselines.gaussian:Gaussian",
    capabilities={
        "evaluations": {"exact": "exact, lebesgue"},
        "methods": ["sample_and_log_prob", "embed"],
        "trained": False,
        "packable": True,
    },
)

GMM = PluginSpec(
    kind="mixture",
    name="gmm",
    summary="full-covariance Gaussian mixture, number of components chosen on validation",
    target="flowzoo_plugins.baselines.gmm:GaussianMixture",
    capabilities={
        "evaluations": {"exact": "exact, lebesgue"},
        "methods": ["sample_and_log_prob", "assign"],
        "trained": False,
        "packable": True,
    },
    check_options={"num_components": [1, 4]},
    paper="Dempster, Laird, Rubin (1977), Maximum Likelihood from Incomplete Data via the EM "
    "Algorithm, Journal of the Royal Statistical Society B",
    bibtex="""@article{dempster1977maximum,
  title={Maximum Likelihood from Incomplete Data via the {EM} Algorithm},
  author={Dempster, A. P. and Laird, N. M. and Rubin, D. B.},
  journal={Journal of the Royal Statistical Society. Series B},
  volume={39},
  number={1},
  pages={1--38},
  year={1977}
}""",
)

KDE = PluginSpec(
    kind="mixture",
    name="kde",
    summary="Gaussian kernel density, bandwidth by cross-validated likelihood",
    target="flowzoo_plugins.baselines.kde:KernelDensity",
    capabilities={
        "evaluations": {"exact": "exact, lebesgue"},
        "methods": ["sample_and_log_prob", "intrinsic_dimension", "local_dimension"],
        "trained": False,
        "packable": True,
    },
    paper="Parzen (1962), On Estimation of a Probability Density Function and Mode, "
    "The Annals of Mathematical Statistics",
    bibtex="""@article{parzen1962estimation,
  title={On Estimation of a Probability Density Function and Mode},
  author={Parzen, Emanuel},
  journal={The Annals of Mathematical Statistics},
  volume={33},
  number={3},
  pages={1065--1076},
  year={1962}
}""",
)

GLOBAL = PluginSpec(
    kind="mixture",
    name="global",
    summary="one base flow over all of the data, no charts",
    target="flowzoo_plugins.baselines.global_flow:GlobalFlow",
    capabilities={
        "evaluations": {"exact": "exact, lebesgue"},
        "injections": {
            "evaluations": {
                "thickened": "exact, lebesgue",
                "manifold": "exact, surface(dim=d, learned)",
            },
            "methods": ["reconstruct"],
        },
        "methods": ["sample_and_log_prob", "embed", "codes", "transform_layers"],
        "trained": True,
        "packable": "where the base flow is",
    },
    check_options={"base_flow": {"name": "realnvp", "layers": 2, "hidden": [16]}},
    paper="Rezende, Mohamed (2015), Variational Inference with Normalizing Flows, ICML",
    bibtex="""@inproceedings{rezende2015variational,
  title={Variational Inference with Normalizing Flows},
  author={Rezende, Danilo Jimenez and Mohamed, Shakir},
  booktitle={International Conference on Machine Learning},
  year={2015}
}""",
)
