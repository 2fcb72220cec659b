"""Conformal maps: their Jacobian is a length scale times an orthogonal matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.validation import check_positive


def _shape(num_charts: int | None, *sizes: int) -> tuple[int, ...]:
    """``sizes``, with a leading K for a map indexed by chart."""
    if num_charts is None:
        return sizes
    return (check_positive("num_charts", num_charts), *sizes)


def _of(value: Tensor, chart: Tensor | None) -> Tensor:
    """Each row's own value where there are charts, the one value otherwise."""
    return value if chart is None else value[chart]


class Scale(BaseFlow):
    r"""One factor for all features.

    .. math:: x = \lambda z, \qquad \log|\det dz/dx| = -D \log\lambda

    Args:
        features: D.
        num_charts: K for a scale a chart; None for one.

    Source: Ross, Cresswell (2021).

    Example:
        >>> import torch
        >>> scale = Scale(3)
        >>> _ = scale.log_scale.data.fill_(0.5)
        >>> scale.encode(torch.zeros(1, 3)).log_abs_det
        tensor([-1.5000], grad_fn=<ExpandBackward0>)
    """

    def __init__(self, features: int, *, num_charts: int | None = None) -> None:
        super().__init__(features, num_charts=num_charts)
        self.log_scale = nn.Parameter(torch.zeros(_shape(num_charts, 1)))

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        log_scale = _of(self.log_scale, chart)
        return Step(x * (-log_scale).exp(), self._volume(log_scale, x))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        log_scale = _of(self.log_scale, chart)
        return Step(z * log_scale.exp(), self._volume(log_scale, z))

    def _volume(self, log_scale: Tensor, like: Tensor) -> Tensor:
        return (-self.features * log_scale[..., 0]).expand(len(like))


class Shift(BaseFlow):
    r"""A translation, :math:`x = z + a`; the volume term is zero.

    Args:
        features: D.
        num_charts: K for a translation a chart; None for one.

    Example:
        >>> import torch
        >>> shift = Shift(2)
        >>> _ = shift.offset.data.fill_(1.0)
        >>> shift.encode(torch.ones(1, 2)).value.tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, features: int, *, num_charts: int | None = None) -> None:
        super().__init__(features, num_charts=num_charts)
        self.offset = nn.Parameter(torch.zeros(_shape(num_charts, features)))

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step(x - _of(self.offset, chart), x.new_zeros(len(x)))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step(z + _of(self.offset, chart), z.new_zeros(len(z)))


_SQUARINGS = 2


class Orthogonal(BaseFlow):
    r"""A rotation, with a reflection where its start has one; the volume term is zero.

    .. math:: z = x Q, \qquad Q = Q_0\, C(S / 4)^4, \quad C(S) = (I + S/2)(I - S/2)^{-1},
        \quad S = A - A^T

    A is strictly upper triangular, D (D - 1) / 2 numbers that start at zero. The start Q_0 (buffer
    ``start``, the identity until it is set) is fixed while A is trained. Powers of a Cayley
    transform are orthogonal to rounding; an angle a of S turns by 8 arctan(a / 8), within 1.3 % of
    the exponential's a up to a quarter turn, at a tenth of its cost.

    Args:
        features: D.
        num_charts: K for a matrix a chart; None for one.

    Example:
        >>> import torch
        >>> turn = Orthogonal(2)
        >>> _ = turn.angles.data.fill_(torch.pi / 2)
        >>> turn.encode(torch.tensor([[1.0, 0.0]])).value.round().abs().tolist()
        [[0.0, 1.0]]
    """

    start: Tensor
    places: Tensor

    def __init__(self, features: int, *, num_charts: int | None = None) -> None:
        super().__init__(features, num_charts=num_charts)
        pairs = features * (features - 1) // 2
        self.angles = nn.Parameter(torch.zeros(_shape(num_charts, pairs)))
        start = torch.eye(features).expand(_shape(num_charts, features, features))
        self.register_buffer("start", start.clone())
        # where each entry of A - A^T is found among (0, angles, -angles)
        places = torch.zeros(features, features, dtype=torch.int64)
        row, column = torch.triu_indices(features, features, 1)
        places[row, column] = torch.arange(1, pairs + 1)
        places[column, row] = torch.arange(pairs + 1, 2 * pairs + 1)
        self.register_buffer("places", places.flatten(), persistent=False)

    def matrix(self) -> Tensor:
        """Q, (D, D), or (K, D, D) for charts; its columns are the latent axes in data space."""
        zero = torch.zeros_like(self.start[..., 0, :1])
        entries = torch.cat([zero, self.angles, -self.angles], dim=-1)
        skew = entries.index_select(-1, self.places).reshape(self.start.shape)
        half = skew / (2 << _SQUARINGS)
        identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
        turned: Tensor = torch.linalg.solve(identity - half, identity + half)
        for _ in range(_SQUARINGS):
            turned = turned @ turned
        return self.start @ turned

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step(_times(x, _of(self.matrix(), chart)), x.new_zeros(len(x)))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step(_times(z, _of(self.matrix().mT, chart)), z.new_zeros(len(z)))


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows (N, D) times one matrix (D, D), or each times its own, (N, D, D)."""
    if matrix.ndim == 2:
        return rows @ matrix
    return torch.einsum("ni,nij->nj", rows, matrix)


class SpecialConformal(BaseFlow):
    r"""An inversion, a translation by -b and an inversion again.

    .. math:: z = \frac{x - b |x|^2}{1 - 2 b \cdot x + |b|^2 |x|^2}, \qquad
        \log|\det dz/dx| = -D \log|1 - 2 b \cdot x + |b|^2 |x|^2|

    The inverse is the same with -b. The map bends planes into spheres; it is a bijection but for
    the pole x = b / |b|^2, which goes to infinity (not finite in floating point). b starts at zero.

    Args:
        features: D.
        num_charts: K for a b a chart; None for one.

    Source: Ross, Cresswell (2021); their code's volume term has the wrong sign in the
    direction it does not train.

    Example:
        >>> import torch
        >>> bend = SpecialConformal(2)
        >>> _ = bend.b.data.copy_(torch.tensor([0.0, 1.0]))
        >>> bend.encode(torch.tensor([[1.0, 0.0]])).value.tolist()
        [[0.5, -0.5]]
    """

    def __init__(self, features: int, *, num_charts: int | None = None) -> None:
        super().__init__(features, num_charts=num_charts)
        self.b = nn.Parameter(torch.zeros(_shape(num_charts, features)))

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        value, log_ratio = _bend(x, _of(self.b, chart))
        return Step(value, -self.features * log_ratio)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        value, log_ratio = _bend(z, -_of(self.b, chart))
        return Step(value, self.features * log_ratio)


def _bend(x: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The special conformal map of x (N, D), and the log of its denominator (N,).

    The denominator is |w|^2 with w = x / |x| - |x| b, and the map is |x| w / |w|^2: near the pole,
    where w is small, the sum 1 - 2 b.x + |b|^2 |x|^2 itself would cancel to nothing. At the origin,
    where x has no direction, that sum cannot cancel and is used.
    """
    square = x.square().sum(dim=1, keepdim=True)
    reach = b.square().sum(dim=-1, keepdim=True) * square
    near = reach < 0.25  # the sum is then between 1/4 and 9/4
    one = torch.ones_like(square)
    # what is not chosen is computed of 1, as 0 / 0 in a branch that is not taken spoils gradients
    plain = torch.where(near, 1.0 - 2.0 * (b * x).sum(dim=1, keepdim=True) + reach, one)
    norm = torch.where(near, one, square).sqrt()
    w = x / norm - norm * b
    ratio = torch.where(near, one, w.square().sum(dim=1, keepdim=True))
    value = torch.where(near, (x - square * b) / plain, norm * w / ratio)
    return value, torch.where(near, plain, ratio)[:, 0].log()


class Pad(BaseFlow):
    r"""d columns into D by zeros: :math:`x = (z, 0)`; encoding drops the last D - d columns.

    The flattest conformal embedding: the volume term is zero.

    Args:
        features: D.
        latent_features: d, less than D.

    Raises:
        ValueError: ``latent_features`` is not in 1..D-1.

    Example:
        >>> import torch
        >>> Pad(3, latent_features=2).decode(torch.ones(1, 2)).value.tolist()
        [[1.0, 1.0, 0.0]]
    """

    def __init__(self, features: int, *, latent_features: int) -> None:
        if check_positive("latent_features", latent_features) >= features:
            raise ValueError(
                f"latent_features: expected 1 to {features - 1}, got {latent_features}"
            )
        super().__init__(features, latent_features=latent_features)

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step(x[:, : self.latent_features], x.new_zeros(len(x)))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        zeros = z.new_zeros(len(z), self.features - self.latent_features)
        return Step(torch.cat([z, zeros], dim=1), z.new_zeros(len(z)))
