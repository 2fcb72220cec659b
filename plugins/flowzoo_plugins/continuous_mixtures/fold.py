"""A layer that is piecewise linear in one column: many to one, with a gate that picks the piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowzoo.layers.scale_bound import Bound, bound_log_scale, raw_log_scale
from flowzoo.nets import MLP, Activation
from flowzoo.validation import check_positive

_CUT = 0.02  # width of a falling piece at the start, in standard deviations of the column
_NEAR = 0.01  # share of the rows whose spacing tells how thin the column is


class Folded(NamedTuple):
    """Of N rows: z (N, D), log|det dz/dy| + log p(k|z) (N,), nats, and the piece k (N,) int64."""

    value: Tensor
    log_factor: Tensor
    piece: Tensor


class Fold(nn.Module):
    r"""A zigzag of P linear pieces in one column, P odd, and p(k|z), the piece a row came from.

    .. math:: z_j = f(y_j), \quad f' = (-1)^k a_k \text{ on piece } k, \qquad
        p_Y(y) = p_Z(z)\, p(k \mid z)\, a_k

    Pieces are cut at knots b_1 < .. < b_{P-1}; f is continuous and goes from -inf to inf, so every
    z comes from at least one. The gate is a softmax over the pieces whose image holds z_j. Cuts,
    slopes and gate are learned. The density jumps where a piece ends.

    Source: Dinh, Sohl-Dickstein, Larochelle, Pascanu (2019), A RAD approach to deep mixture models,
    for the idea, a domain partitioned by a piecewise invertible map; the zigzag, the mask of its
    gate and its start were written without their section on it at hand.

    Args:
        features: D.
        column: j.
        pieces: P.
        hidden: hidden widths of the gate's network.
        activation: of it.
        log_scale_bound: bound on |log a|, or ``none``.

    Raises:
        ValueError: an even number of pieces, or a column that is not there.

    Example:
        >>> fold = Fold(2, column=0, pieces=3, hidden=(8,))
        >>> y = torch.randn(5, 2)
        >>> folded = fold.encode(y)
        >>> torch.allclose(fold.decode(folded.value, folded.piece), y, atol=1e-5)
        True
    """

    def __init__(
        self,
        features: int,
        *,
        column: int,
        pieces: int,
        hidden: Sequence[int],
        activation: Activation = "tanh",
        log_scale_bound: Bound = "none",
    ) -> None:
        super().__init__()
        if check_positive("pieces", pieces) % 2 == 0 or pieces == 1:
            raise ValueError(f"pieces: expected an odd number >= 3, got {pieces}")
        if not 0 <= column < features:
            raise ValueError(f"column: expected 0 to {features - 1}, got {column}")
        self.features, self.column, self.pieces = features, column, pieces
        self.log_scale_bound = log_scale_bound
        self.first_knot = nn.Parameter(torch.tensor(-0.5))
        self.log_gaps = nn.Parameter(torch.zeros(pieces - 2))
        self.raw_slopes = nn.Parameter(torch.zeros(pieces))
        self.gate = MLP(features, pieces, hidden=hidden, activation=activation)

    @torch.no_grad()
    def place(self, y: Tensor) -> None:
        """Lay the data y (N, D) over one another in (P + 1) / 2 rising pieces.

        The column is cut where it is thinnest near its quantiles; thin falling pieces stand in the
        cuts, as steep as brings the means of all rising pieces to one place.
        """
        column = y[:, self.column].double().sort().values
        spread = column.std(correction=0).clamp(min=1e-6)
        cuts = _valleys(column, (self.pieces - 1) // 2)
        cell = (column[:, None] > cuts).sum(dim=1)
        here = cell[:, None] == torch.arange(len(cuts) + 1, device=y.device)
        middles = torch.cat([column[:1], (cuts[1:] + cuts[:-1]) / 2, column[-1:]])
        count = here.sum(dim=0)
        means = torch.where(count > 0, (here * column[:, None]).sum(dim=0) / count, middles)
        width = _CUT * spread
        # knots that round to one another would hide a piece
        width = torch.maximum(width, 8.0 * torch.finfo(y.dtype).eps * column.abs().max())
        knots = torch.stack([cuts - width / 2, cuts + width / 2], dim=1).flatten()
        gaps = (knots[1:] - knots[:-1]).clamp(min=width / 2)
        falls = torch.zeros(self.pieces, dtype=column.dtype, device=column.device)
        falls[1::2] = ((means[1:] - means[:-1]).clamp(min=width) / width).log()
        self.first_knot.copy_(knots[0])
        self.log_gaps.copy_(gaps.log())
        self.raw_slopes.copy_(raw_log_scale(falls, self.log_scale_bound))

    def encode(self, y: Tensor) -> Folded:
        """y (N, D) to z, with the piece of each row."""
        knots, heights, slopes = self._zigzag()
        column = y[:, self.column]
        piece = (column[:, None] > knots).sum(dim=1)
        anchor = (piece - 1).clamp(min=0)
        z = self._with_column(y, heights[anchor] + slopes[piece] * (column - knots[anchor]))
        own = piece[:, None] == self._numbers(y)
        # its own piece reaches it, whatever rounding says
        log_share = torch.where(own, self._log_gate(z, heights, own), 0.0).sum(dim=1)
        return Folded(z, slopes[piece].abs().log() + log_share, piece)

    def log_pieces(self, z: Tensor) -> Tensor:
        """log p(k|z) of each piece, (N, P); -inf where a piece does not reach z (N, D)."""
        return self._log_gate(z, self._zigzag()[1], None)

    def decode(self, z: Tensor, piece: Tensor) -> Tensor:
        """The y (N, D) of piece (N,) that is folded to z (N, D)."""
        knots, heights, slopes = self._zigzag()
        anchor = (piece - 1).clamp(min=0)
        column = (z[:, self.column] - heights[anchor]) / slopes[piece] + knots[anchor]
        return self._with_column(z, column)

    def _zigzag(self) -> tuple[Tensor, Tensor, Tensor]:
        """Knots (P - 1,), f there (P - 1,), and the slopes (P,)."""
        gaps = self.log_gaps.exp()
        knots = torch.cat([self.first_knot[None], self.first_knot + gaps.cumsum(dim=0)])
        signs = 1.0 - 2.0 * (torch.arange(self.pieces, device=knots.device) % 2)
        slopes = signs.to(knots) * bound_log_scale(self.raw_slopes, self.log_scale_bound).exp()
        rises = (slopes[1:-1] * gaps).cumsum(dim=0)
        heights = torch.cat([torch.zeros_like(knots[:1]), rises])
        return knots, heights - heights.mean() + knots.mean(), slopes

    def _log_gate(self, z: Tensor, heights: Tensor, own: Tensor | None) -> Tensor:
        low, high = (
            torch.minimum(heights[:-1], heights[1:]),
            torch.maximum(heights[:-1], heights[1:]),
        )
        column = z[:, self.column, None]
        reached = torch.cat(
            [column <= heights[:1], (column >= low) & (column <= high), column >= heights[-1:]],
            dim=1,
        )
        if own is not None:
            reached = reached | own
        return torch.where(reached, self.gate(z), -torch.inf).log_softmax(dim=1)

    def _numbers(self, like: Tensor) -> Tensor:
        return torch.arange(self.pieces, device=like.device)

    def _with_column(self, rows: Tensor, column: Tensor) -> Tensor:
        """Rows (N, D) with another column j, (N,)."""
        here = torch.arange(self.features, device=rows.device) == self.column
        return torch.where(here, column[:, None], rows)


def _valleys(column: Tensor, count: int) -> Tensor:
    """Where a sorted column (N,) is thinnest, near each of its ``count`` inner quantiles."""
    rows = len(column)
    reach = max(1, int(_NEAR * rows))
    found = []
    for number in range(1, count + 1):
        low, high = (int((number + side) / (count + 1) * (rows - 1)) for side in (-0.5, 0.5))
        index = torch.arange(low, max(low, high) + 1, device=column.device)
        before, after = (index - reach).clamp(min=0), (index + reach).clamp(max=rows - 1)
        thin = (column[after] - column[before]).argmax()
        found.append((column[after[thin]] + column[before[thin]]) / 2)
    return torch.stack(found)
