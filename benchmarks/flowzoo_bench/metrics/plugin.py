"""Specs of the built-in metrics; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

EMBEDDING_SEPARABILITY = PluginSpec(
    "metric",
    "embedding-separability",
    "Nearest-neighbour accuracy of classes in a model's embedding, and in the data",
    "flowzoo_bench.metrics.embedding_separability:EmbeddingSeparability",
)
IMAGE_QUALITY = PluginSpec(
    "metric",
    "image-quality",
    "Frechet and kernel distance, precision, recall, density, coverage of sampled images on the "
    "features of a classifier of the training images",
    "flowzoo_bench.metrics.image_quality:ImageQuality",
)
IMPORTANCE = PluginSpec(
    "metric",
    "importance",
    "How far estimates by importance sampling may be trusted: effective sample size, bias, spread "
    "over repeats, gap to the ELBO",
    "flowzoo_bench.metrics.importance:Importance",
)
INTRINSIC_DIMENSION = PluginSpec(
    "metric",
    "intrinsic-dimension",
    "The dimension a model finds, in all and row by row, beside the true one where it is known",
    "flowzoo_bench.metrics.intrinsic_dimension:IntrinsicDimension",
)
LOG_LIKELIHOOD = PluginSpec(
    "metric",
    "log-likelihood",
    "Mean test log-likelihood of every evaluation, gap to the oracle, reconstruction error",
    "flowzoo_bench.metrics.log_likelihood:LogLikelihood",
)
SAMPLE_KDE = PluginSpec(
    "metric",
    "sample-kde",
    "Log-likelihood of generated samples under a Gaussian KDE of the training data",
    "flowzoo_bench.metrics.sample_kde:SampleKDE",
)
SUPPORT_DISTANCE = PluginSpec(
    "metric",
    "support-distance",
    "Distance of generated samples to the noiseless support, and bridge mass",
    "flowzoo_bench.metrics.support_distance:SupportDistance",
)
THROUGHPUT = PluginSpec(
    "metric",
    "throughput",
    "Samples and scored rows per second, parameter count",
    "flowzoo_bench.metrics.throughput:Throughput",
)
TWO_SAMPLE = PluginSpec(
    "metric",
    "two-sample",
    "Sliced Wasserstein and energy distance of generated samples to held-out rows",
    "flowzoo_bench.metrics.two_sample:TwoSample",
    paper="Bonneel, Rabin, Peyre, Pfister (2015), Sliced and Radon Wasserstein Barycenters of "
    "Measures; Szekely, Rizzo (2013), Energy statistics: A class of statistics based on distances",
    bibtex="""@article{bonneel2015sliced,
  title={Sliced and {R}adon {W}asserstein Barycenters of Measures},
  author={Bonneel, Nicolas and Rabin, Julien and Peyr{\\'e}, Gabriel and Pfister, Hanspeter},
  journal={Journal of Mathematical Imaging and Vision},
  volume={51},
  number={1},
  pages={22--45},
  year={2015}
}

@article{szekely2013energy,
  title={Energy statistics: A class of statistics based on distances},
  author={Sz{\\'e}kely, G{\\'a}bor J. and Rizzo, Maria L.},
  journal={Journal of Statistical Planning and Inference},
  volume={143},
  number={8},
  pages={1249--1272},
  year={2013}
}""",
)
