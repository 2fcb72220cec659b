"""Invertible layers, one a file."""

from flowzoo.layers.additive_coupling import AdditiveCoupling as AdditiveCoupling
from flowzoo.layers.autoregressive import MaskedAffineAutoregressive as MaskedAffineAutoregressive
from flowzoo.layers.channel_permutation import ChannelPermutation as ChannelPermutation
from flowzoo.layers.composition import Composition as Composition
from flowzoo.layers.conformal import Orthogonal as Orthogonal
from flowzoo.layers.conformal import Pad as Pad
from flowzoo.layers.conformal import Scale as Scale
from flowzoo.layers.conformal import Shift as Shift
from flowzoo.layers.conformal import SpecialConformal as SpecialConformal
from flowzoo.layers.conformal_embedding import ConformalEmbedding as ConformalEmbedding
from flowzoo.layers.conv_coupling import ConvCoupling as ConvCoupling
from flowzoo.layers.coupling import AffineCoupling as AffineCoupling
from flowzoo.layers.coupling_base import Coupling as Coupling
from flowzoo.layers.down_sampling import DownSampling as DownSampling
from flowzoo.layers.image_shape import ImageShape as ImageShape
from flowzoo.layers.masked_autoregressive import MaskedAutoregressive as MaskedAutoregressive
from flowzoo.layers.normalization import InvertibleBatchNorm as InvertibleBatchNorm
from flowzoo.layers.permutation import Permutation as Permutation
from flowzoo.layers.radial_squash import RadialSquash as RadialSquash
from flowzoo.layers.rational_quadratic import Knots as Knots
from flowzoo.layers.rational_quadratic import SplineShape as SplineShape
from flowzoo.layers.rational_quadratic import apply_spline as apply_spline
from flowzoo.layers.rational_quadratic import build_knots as build_knots
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND as LOG_SCALE_BOUND
from flowzoo.layers.scale_bound import Bound as Bound
from flowzoo.layers.spline_autoregressive import SplineAutoregressive as SplineAutoregressive
from flowzoo.layers.spline_coupling import SplineCoupling as SplineCoupling
from flowzoo.layers.thickened import Thickened as Thickened
from flowzoo.layers.thickened import surface_log_prob as surface_log_prob
from flowzoo.layers.volume_preserving_coupling import (
    VolumePreservingCoupling as VolumePreservingCoupling,
)
from flowzoo.layers.whitening import Whitener as Whitener
from flowzoo.layers.whitening import Whitening as Whitening
from flowzoo.layers.whitening import principal_rotation as principal_rotation
from flowzoo.layers.whitening import principal_whitener as principal_whitener
from flowzoo.layers.whitening import variance_floor as variance_floor
