"""Specs of the partitioners; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

KMEANS = PluginSpec(
    kind="partitioner",
    name="kmeans",
    summary="nearest k-means centre in data space",
    target="flowzoo_plugins.partitioners.kmeans:KMeans",
    capabilities={"codes": "data space", "trained": False, "packable": True},
    check_options={"num_charts": 4, "restarts": 2},
    paper="Lloyd (1982), Least squares quantization in PCM, IEEE Trans. Information Theory",
    bibtex="""@article{lloyd1982least,
  title={Least squares quantization in {PCM}},
  author={Lloyd, Stuart P.},
  journal={IEEE Transactions on Information Theory},
  volume={28},
  number={2},
  pages={129--137},
  year={1982}
}""",
)

VQ_AUTOENCODER = PluginSpec(
    kind="partitioner",
    name="vq-autoencoder",
    summary="nearest code in the latent space of a vector-quantised auto-encoder",
    target="flowzoo_plugins.partitioners.vq_autoencoder:VQAutoencoder",
    capabilities={
        "codes": "latent space",
        "trained": True,
        "packable": True,
        "methods": ["encode", "reconstruct", "usage", "perplexity"],
    },
    check_options={"num_charts": 4, "hidden": [16, 16]},
    paper="van den Oord, Vinyals, Kavukcuoglu (2017), Neural Discrete Representation Learning, "
    "NIPS; as used by Sidheekh et al. (2022), VQ-Flows, section 4.2.1",
    bibtex="""@inproceedings{oord2017neural,
  title={Neural Discrete Representation Learning},
  author={van den Oord, Aaron and Vinyals, Oriol and Kavukcuoglu, Koray},
  booktitle={Advances in Neural Information Processing Systems},
  year={2017}
}""",
)
