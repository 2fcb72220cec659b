"""Linear maps from few columns to many, and algebra in the size of the few."""

from flowzoo.low_rank.factor import DenseFactor as DenseFactor
from flowzoo.low_rank.factor import DiagonalFactor as DiagonalFactor
from flowzoo.low_rank.factor import Factor as Factor
from flowzoo.low_rank.loading import DenseLoading as DenseLoading
from flowzoo.low_rank.loading import Loading as Loading
from flowzoo.low_rank.up_sampling import UpSampling as UpSampling
