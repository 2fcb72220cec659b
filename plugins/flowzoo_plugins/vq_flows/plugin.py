"""What the VQ-Flows plugin says about itself; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

VQ = PluginSpec(
    kind="mixture",
    name="vq",
    summary="VQ-Flows: one conditional flow per chart of a learned atlas, mixed by chart weights",
    target="flowzoo_plugins.vq_flows.mixture:VQFlow",
    capabilities={
        "evaluations": ["full", "truncated", "elbo", "renormalised"],
        "charts": True,
        "sample_and_log_prob": True,
        "embed": ["sample", "mean", "argmax"],
        "injections": {
            "evaluations": {"manifold": "lower bound, surface(dim=d, learned), one chart a point"},
            "methods": ["reconstruct"],
        },
        "noisy injective priors": {
            "methods": ["reconstruct", "intrinsic_dimension"],
            "knobs": ["temperature", "noise_scale"],
        },
        "assign": True,
    },
    check_options={
        "base_flow": {"name": "realnvp", "layers": 2, "hidden": [16]},
        "partitioner": {"name": "kmeans", "num_charts": 3, "restarts": 1},
        "overlap": 2,
        "weights": "learned",
        "objective": "exact",
        "leak_samples": 256,
    },
    paper="Sidheekh et al. (2022), VQ-Flows: Vector Quantized Local Normalizing Flows, "
    "arXiv:2203.11556",
    bibtex="""@inproceedings{sidheekh2022vqflows,
  title = {{VQ-Flows}: Vector Quantized Local Normalizing Flows},
  author = {Sidheekh, Sahil and Dock, Chris B. and Jain, Tushar and Balan, Radu and
            Singh, Maneesh K.},
  booktitle = {Uncertainty in Artificial Intelligence (UAI)},
  year = {2022}
}""",
)
