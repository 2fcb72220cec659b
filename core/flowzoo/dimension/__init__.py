"""How many dimensions data or a model's latent space has: estimators, one a file."""

from flowzoo.dimension.levina_bickel import harmonic_mean as harmonic_mean
from flowzoo.dimension.levina_bickel import levina_bickel as levina_bickel
from flowzoo.dimension.lidl import lidl as lidl
from flowzoo.dimension.neighbours import nearest_distances as nearest_distances
from flowzoo.dimension.spectrum import SpectrumRank as SpectrumRank
from flowzoo.dimension.spectrum import rank_of_spectrum as rank_of_spectrum
from flowzoo.dimension.two_nn import two_nn as two_nn
