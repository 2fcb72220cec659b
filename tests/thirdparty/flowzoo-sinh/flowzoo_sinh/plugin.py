"""What the plugins say about themselves; imports nothing heavy."""

from flowzoo.plugin import PluginSpec

_PAPER = "Jones, Pewsey (2009), Sinh-arcsinh distributions, Biometrika 96(4)"
_BIBTEX = """@article{jones2009sinh,
  title={Sinh-arcsinh distributions},
  author={Jones, M. C. and Pewsey, Arthur},
  journal={Biometrika},
  volume={96},
  number={4},
  pages={761--780},
  year={2009}
}"""

FLOW = PluginSpec(
    kind="base-flow",
    name="sinh-arcsinh",
    summary="skewness and tail weight of every coordinate",
    target="flowzoo_sinh.flow:SinhArcsinh",
    capabilities={"conditional": True, "packable": True, "fast": "both"},
    paper=_PAPER,
    bibtex=_BIBTEX,
)

SLABS = PluginSpec(
    kind="partitioner",
    name="slabs",
    summary="slabs across the data's widest direction",
    target="flowzoo_sinh.partitioner:Slabs",
    capabilities={"codes": "data space", "trained": False, "packable": True},
    check_options={"num_charts": 3},
)

ATLAS = PluginSpec(
    kind="mixture",
    name="sinh-atlas",
    summary="one conditional base flow a chart, summed exactly",
    target="flowzoo_sinh.mixture:SinhAtlas",
    capabilities={"evaluations": {"exact": "exact, lebesgue"}, "packable": True},
    check_options={
        "partitioner": {"name": "slabs", "num_charts": 3},
        "training": {"epochs": 2, "batch_size": 64},
    },
    paper=_PAPER,
    bibtex=_BIBTEX,
)

NORMAL = PluginSpec(
    kind="task",
    name="sinh-normal",
    summary="a correlated normal, skewed and with heavy tails",
    target="flowzoo_sinh.task:SinhNormal",
    capabilities={"oracle": True, "support": False, "real": False},
    check_options={"num_train": 200, "num_valid": 100, "num_test": 100},
    paper=_PAPER,
    bibtex=_BIBTEX,
)

QUANTILES = PluginSpec(
    kind="metric",
    name="quantile-distance",
    summary="how far the quantiles of samples are from those of test rows",
    target="flowzoo_sinh.metric:QuantileDistance",
)
