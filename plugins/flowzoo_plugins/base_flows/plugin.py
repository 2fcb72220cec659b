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
_NICE_PAPER = (
    "Dinh, Krueger, Bengio (2015), NICE: Non-linear Independent Components Estimation, "
    "ICLR workshop"
)
_NICE_BIBTEX = """@inproceedings{dinh2015nice,
  title={{NICE}: Non-linear Independent Components Estimation},
  author={Dinh, Laurent and Krueger, David and Bengio, Yoshua},
  booktitle={International Conference on Learning Representations, Workshop Track},
  year={2015}
}"""
_GIN_PAPER = (
    "Sorrenson, Rother, Koethe (2020), Disentanglement by Nonlinear ICA with General "
    "Incompressible-flow Networks (GIN), ICLR"
)
_GIN_BIBTEX = """@inproceedings{sorrenson2020disentanglement,
  title={Disentanglement by Nonlinear {ICA} with General Incompressible-flow Networks ({GIN})},
  author={Sorrenson, Peter and Rother, Carsten and K{\\"o}the, Ullrich},
  booktitle={International Conference on Learning Representations},
  year={2020}
}"""
_SPREAD_PAPER = "Zhang, Sun, Zhang, McDonagh (2023), Spread Flows for Manifold Modelling, AISTATS"
_SPREAD_BIBTEX = """@inproceedings{zhang2023spread,
  title={Spread Flows for Manifold Modelling},
  author={Zhang, Mingtian and Sun, Yitong and Zhang, Chen and McDonagh, Steven},
  booktitle={International Conference on Artificial Intelligence and Statistics},
  year={2023}
}"""
_SMALL = {"layers": 2, "hidden": [16]}
_SMALL_SPLINES = {**_SMALL, "num_bins": 4}

REALNVP = PluginSpec(
    kind="base-flow",
    name="realnvp",
    summary="affine couplings with separate tanh scale and ReLU translation nets",
    target="flowzoo_plugins.base_flows.realnvp:RealNVP",
    capabilities={"conditional": True, "packable": True, "fast": "both"},
    paper=_REALNVP_PAPER,
    bibtex=_REALNVP_BIBTEX,
    check_options=_SMALL,
    version="2",  # rotations are powers of a Cayley transform
)

MAF = PluginSpec(
    kind="base-flow",
    name="maf",
    summary="masked affine autoregressive layers; fast density, D passes to sample",
    target="flowzoo_plugins.base_flows.maf:MAF",
    capabilities={"conditional": True, "packable": True, "fast": "encode"},
    paper=_MAF_PAPER,
    bibtex=_MAF_BIBTEX,
    check_options=_SMALL,
)

NSF_COUPLING = PluginSpec(
    kind="base-flow",
    name="nsf-coupling",
    summary="rational-quadratic spline couplings",
    target="flowzoo_plugins.base_flows.nsf:NSFCoupling",
    capabilities={"conditional": True, "packable": True, "fast": "both"},
    paper=_NSF_PAPER,
    bibtex=_NSF_BIBTEX,
    check_options=_SMALL_SPLINES,
    version="2",  # rotations are powers of a Cayley transform
)

NSF_AUTOREGRESSIVE = PluginSpec(
    kind="base-flow",
    name="nsf-autoregressive",
    summary="masked autoregressive rational-quadratic splines; fast density, D passes to sample",
    target="flowzoo_plugins.base_flows.nsf:NSFAutoregressive",
    capabilities={"conditional": True, "packable": True, "fast": "encode"},
    paper=_NSF_PAPER,
    bibtex=_NSF_BIBTEX,
    check_options=_SMALL_SPLINES,
)

NICE = PluginSpec(
    kind="base-flow",
    name="nice",
    summary="additive couplings; volume preserving",
    target="flowzoo_plugins.base_flows.nice:NICE",
    capabilities={
        "conditional": True,
        "packable": True,
        "fast": "both",
        "volume_preserving": True,
    },
    paper=_NICE_PAPER,
    bibtex=_NICE_BIBTEX,
    check_options=_SMALL,
    version="2",  # rotations are powers of a Cayley transform
)

GIN = PluginSpec(
    kind="base-flow",
    name="gin",
    summary="affine couplings whose log-scales sum to zero; volume preserving",
    target="flowzoo_plugins.base_flows.gin:GIN",
    capabilities={
        "conditional": True,
        "packable": True,
        "fast": "both",
        "volume_preserving": True,
    },
    paper=_GIN_PAPER,
    bibtex=_GIN_BIBTEX,
    check_options=_SMALL,
    version="2",  # rotations are powers of a Cayley transform
)

CONV_GIN = PluginSpec(
    kind="base-flow",
    name="conv-gin",
    summary="couplings of image channels between down-samplings, then of columns; keeps volume",
    target="flowzoo_plugins.base_flows.conv_gin:ConvGIN",
    capabilities={
        "conditional": True,
        "packable": True,
        "fast": "both",
        "volume_preserving": True,
        "images": "features = C H W of the option shape",
        "features": 16,  # of the checked instance
    },
    paper=_SPREAD_PAPER,
    bibtex=_SPREAD_BIBTEX,
    check_options={"shape": [1, 4, 4], "couplings": [2], "channels": 4, "hidden": [8]},
)

NFLOWS_REALNVP = PluginSpec(
    kind="base-flow",
    name="nflows-realnvp",
    summary="affine couplings of the nflows library",
    target="flowzoo_plugins.base_flows.nflows_adapter:NflowsRealNVP",
    capabilities={"conditional": True, "packable": False, "fast": "both"},
    paper=_REALNVP_PAPER,
    bibtex=_REALNVP_BIBTEX,
    check_options=_SMALL,
)

NFLOWS_MAF = PluginSpec(
    kind="base-flow",
    name="nflows-maf",
    summary="masked affine autoregressive layers of the nflows library",
    target="flowzoo_plugins.base_flows.nflows_adapter:NflowsMAF",
    capabilities={"conditional": True, "packable": False, "fast": "encode"},
    paper=_MAF_PAPER,
    bibtex=_MAF_BIBTEX,
    check_options=_SMALL,
)

NFLOWS_NSF = PluginSpec(
    kind="base-flow",
    name="nflows-nsf",
    summary="rational-quadratic spline couplings of the nflows library",
    target="flowzoo_plugins.base_flows.nflows_adapter:NflowsNSF",
    capabilities={"conditional": True, "packable": False, "fast": "both"},
    paper=_NSF_PAPER,
    bibtex=_NSF_BIBTEX,
    expected_failed_checks={"meta-device": "nflows indexes by boolean masks"},
    check_options=_SMALL_SPLINES,
)

NORMFLOWS_REALNVP = PluginSpec(
    kind="base-flow",
    name="normflows-realnvp",
    summary="masked affine flow layers of the normflows library",
    target="flowzoo_plugins.base_flows.normflows_adapter:NormflowsRealNVP",
    capabilities={"conditional": False, "packable": False, "fast": "both"},
    paper=_REALNVP_PAPER,
    bibtex=_REALNVP_BIBTEX,
    expected_failed_checks={
        "registered-tensors": "normflows keeps a second copy of each mask outside the buffers",
        "gradients": "normflows' log-scales have no bound and overflow far from the data",
    },
    check_options=_SMALL,
)

ZUKO_MAF = PluginSpec(
    kind="base-flow",
    name="zuko-maf",
    summary="masked affine autoregressive layers of the zuko library",
    target="flowzoo_plugins.base_flows.zuko_adapter:ZukoMAF",
    requires=("zuko>=1.4",),
    capabilities={"conditional": True, "packable": True, "fast": "encode"},
    paper=_MAF_PAPER,
    bibtex=_MAF_BIBTEX,
    check_options=_SMALL,
)

ZUKO_NSF = PluginSpec(
    kind="base-flow",
    name="zuko-nsf",
    summary="masked autoregressive rational-quadratic splines of the zuko library",
    target="flowzoo_plugins.base_flows.zuko_adapter:ZukoNSF",
    requires=("zuko>=1.4",),
    capabilities={"conditional": True, "packable": True, "fast": "encode"},
    paper=_NSF_PAPER,
    bibtex=_NSF_BIBTEX,
    check_options=_SMALL_SPLINES,
)
