"""Specs of the base flows; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

_REALNVP_PAPER = "Dinh, Sohl-Dickstein, Bengio (2017), Density estimation using Real NVP, ICLR"
_REALNVP_BIBTEX = """@inproceedings{dinh2017density,
  title={Density estimation using {Real NVP}},
  author={Dinh, Laurent and Sohl-Dickstein, Jascha and Bengio, Samy},
  booktitle={International Conference on Learning Representations},
  year={2017}
}"""
_MAF_PAPER = (
    "Papamakarios, Pavlakou, Murray (2017), Masked Autoregressive Flow for Density Estimation, NIPS"
)
_MAF_BIBTEX = """@inproceedings{papamakarios2017masked,
  title={Masked Autoregressive Flow for Density Estimation},
  author={Papamakarios, George and Pavlakou, Theo and Murray, Iain},
  booktitle={Advances in Neural Information Processing Systems},
  year={2017}
}"""
_NSF_PAPER = "Durkan, Bekasov, Murray, Papamakarios (2019), Neural Spline Flows, NeurIPS"
_NSF_BIBTEX = """@inproceedings{durkan2019neural,
  title={Neural Spline Flows},
  author={Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019}
}"""

REALNVP = PluginSpec(
    kind="base-flow",
    name="realnvp",
    summary="affine couplings with separate tanh scale and ReLU translation nets",
    target="flowzoo_plugins.base_flows.realnvp:RealNVP",
    capabilities={"conditional": True, "packable": True, "fast": "both"},
    paper=_REALNVP_PAPER,
    bibtex=_REALNVP_BIBTEX,
)

MAF = PluginSpec(
    kind="base-flow",
    name="maf",
    summary="masked affine autoregressive layers; fast density, D passes to sample",
    target="flowzoo_plugins.base_flows.maf:MAF",
    capabilities={"conditional": True, "packable": True, "fast": "encode"},
    paper=_MAF_PAPER,
    bibtex=_MAF_BIBTEX,
)

NFLOWS_REALNVP = PluginSpec(
    kind="base-flow",
    name="nflows-realnvp",
    summary="affine couplings of the nflows library",
    target="flowzoo_plugins.base_flows.nflows_adapter:NflowsRealNVP",
    capabilities={"conditional": True, "packable": False, "fast": "both"},
    paper=_REALNVP_PAPER,
    bibtex=_REALNVP_BIBTEX,
)

NFLOWS_MAF = PluginSpec(
    kind="base-flow",
    name="nflows-maf",
    summary="masked affine autoregressive layers of the nflows library",
    target="flowzoo_plugins.base_flows.nflows_adapter:NflowsMAF",
    capabilities={"conditional": True, "packable": False, "fast": "encode"},
    paper=_MAF_PAPER,
    bibtex=_MAF_BIBTEX,
)

NFLOWS_NSF = PluginSpec(
    kind="base-flow",
    name="nflows-nsf",
    summary="rational-quadratic spline couplings of the nflows library",
    target="flowzoo_plugins.base_flows.nflows_adapter:NflowsNSF",
    capabilities={"conditional": True, "packable": False, "fast": "both"},
    paper=_NSF_PAPER,
    bibtex=_NSF_BIBTEX,
)

NORMFLOWS_REALNVP = PluginSpec(
    kind="base-flow",
    name="normflows-realnvp",
    summary="masked affine flow layers of the normflows library",
    target="flowzoo_plugins.base_flows.normflows_adapter:NormflowsRealNVP",
    capabilities={"conditional": False, "packable": False, "fast": "both"},
    paper=_REALNVP_PAPER,
    bibtex=_REALNVP_BIBTEX,
)
