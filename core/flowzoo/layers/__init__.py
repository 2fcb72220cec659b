"""Invertible layers, one a file."""

from flowzoo.layers.autoregressive import MaskedAffineAutoregressive as MaskedAffineAutoregressive
from flowzoo.layers.composition import Composition as Composition
from flowzoo.layers.coupling import AffineCoupling as AffineCoupling
from flowzoo.layers.normalization import InvertibleBatchNorm as InvertibleBatchNorm
from flowzoo.layers.permutation import Permutation as Permutation
from flowzoo.layers.radial_squash import RadialSquash as RadialSquash
