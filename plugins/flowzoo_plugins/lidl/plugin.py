"""What the LIDL plugin says about itself; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

LIDL = PluginSpec(
    kind="mixture",
    name="lidl",
    summary="one flow a noise level, trained as one: local dimension by how log p falls with noise",
    target="flowzoo_plugins.lidl.mixture:LIDL",
    capabilities={
        "evaluations": {"exact": "exact, lebesgue, of the smallest noise level"},
        "methods": ["sample_and_log_prob", "intrinsic_dimension", "local_dimension"],
        "trained": True,
        "packable": "where the base flow is",
    },
    check_options={
        "base_flow": {"name": "realnvp", "layers": 2, "hidden": [8], "normalization": "none"},
        "noise_levels": [0.05, 0.1],
        "num_points": 50,
    },
    paper="Tempczyk et al. (2022), LIDL: Local Intrinsic Dimension Estimation Using Approximate "
    "Likelihood, ICML",
    bibtex="""@inproceedings{tempczyk2022lidl,
  title = {{LIDL}: Local Intrinsic Dimension Estimation Using Approximate Likelihood},
  author = {Tempczyk, Piotr and Michaluk, Rafa{\\l} and Garncarek, {\\L}ukasz and
            Spurek, Przemys{\\l}aw and Tabor, Jacek and Goli{\\'n}ski, Adam},
  booktitle = {International Conference on Machine Learning},
  pages = {21205--21231},
  year = {2022}
}""",
)
