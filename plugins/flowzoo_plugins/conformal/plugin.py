"""What the conformal plugin says about itself; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

CEF = PluginSpec(
    kind="base-flow",
    name="cef",
    summary="conformal embedding flow: any flow on R^d, then a conformal map into R^D",
    target="flowzoo_plugins.conformal.cef:CEF",
    capabilities={
        "conditional": True,
        "charts": True,
        "packable": True,
        "fast": "both",
        "beneath": "any flow; fast and packable as that flow is, said here of realnvp",
        "injective": True,
        "conformal": True,
        "min_features": 2,
    },
    check_options={"base_flow": {"name": "realnvp", "layers": 2, "hidden": [16]}},
    paper="Ross, Cresswell (2021), Tractable Density Estimation on Learned Manifolds with "
    "Conformal Embedding Flows, NeurIPS",
    bibtex="""@inproceedings{ross2021tractable,
  title={Tractable Density Estimation on Learned Manifolds with Conformal Embedding Flows},
  author={Ross, Brendan Leigh and Cresswell, Jesse C.},
  booktitle={Advances in Neural Information Processing Systems},
  year={2021}
}""",
    version="2",  # rotations are powers of a Cayley transform
)
