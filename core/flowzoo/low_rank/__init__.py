"""Linear maps from few columns to many, and algebra in the size of the few."""

from flowzoo.low_rank.build import build_loading as build_loading
from flowzoo.low_rank.factor import DenseFactor as DenseFactor
from flowzoo.low_rank.factor import DiagonalFactor as DiagonalFactor
from flowzoo.low_rank.factor import Factor as Factor
from flowzoo.low_rank.loading import DenseLoading as DenseLoading
from flowzoo.low_rank.loading import Loading as Loading
from flowzoo.low_rank.principal_start import PrincipalStart as PrincipalStart
from flowzoo.low_rank.principal_start import principal_start as principal_start
from flowzoo.low_rank.up_sampling import UpSampling as UpSampling
