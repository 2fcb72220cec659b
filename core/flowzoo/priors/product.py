"""Independent priors side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Prior, Step
from flowzoo.validation import check_context, check_rows


class Product(Prior):
    r"""A prior a block of columns, independent of one another.

    .. math:: \log q(z) = \sum_i \log q_i(z_i), \qquad z = (z_1, z_2, \dots)

    ``temperature`` and ``noise_scale`` go to every part; ``from_normal`` takes the noise of all of
    them, side by side.

    Args:
        parts: unconditional priors, from the first block of columns to the last.

    Raises:
        ValueError: no parts, or a conditional one.

    Example:
        >>> from flowzoo.priors import StandardNormal, UniformBall
        >>> Product([UniformBall(2), StandardNormal(1)]).log_prob(torch.zeros(1, 3))
        tensor([-2.0637])
    """

    def __init__(self, parts: Sequence[Prior]) -> None:
        if not parts:
            raise ValueError("parts: expected at least one prior, got none")
        for index, part in enumerate(parts):
            if part.context_features:
                raise ValueError(
                    f"parts: expected unconditional priors, part {index} takes "
                    f"{part.context_features} context columns"
                )
        super().__init__(sum(part.features for part in parts))
        self.parts = nn.ModuleList(parts)

    def part(self, index: int) -> Prior:
        """The prior of block ``index``."""
        return self._each()[index]

    def _each(self) -> tuple[Prior, ...]:
        return tuple(self.parts)  # type: ignore[arg-type]

    @property
    def noise_features(self) -> int:
        """Standard normal numbers that a draw takes, those of the parts together."""
        return sum(part.noise_features for part in self._each())

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log q(z) in nats, (N,), for z (N, d).

        Raises:
            ValueError: z has the wrong shape, or a context is given.
        """
        check_rows("z", z, self.features)
        check_context(context, self.context_features, len(z))
        blocks = torch.split(z, [part.features for part in self._each()], dim=1)
        pairs = zip(self._each(), blocks, strict=True)
        return torch.stack([part.log_prob(block) for part, block in pairs]).sum(dim=0)

    def sample(
        self,
        num: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``num`` draws, (num, d); see the parts for ``temperature``.

        Raises:
            ValueError: a temperature some part refuses, or a context is given.
        """
        check_context(context, self.context_features, num)
        draws = [
            part.sample(num, temperature=temperature, noise_scale=noise_scale, generator=generator)
            for part in self._each()
        ]
        return torch.cat(draws, dim=1)

    def from_normal(self, noise: Tensor) -> Tensor:
        """Each part's block of ``noise`` (N, noise_features) turned into its draws, (N, d)."""
        check_rows("noise", noise, self.noise_features)
        blocks = torch.split(noise, [part.noise_features for part in self._each()], dim=1)
        pairs = zip(self._each(), blocks, strict=True)
        return torch.cat([part.from_normal(block) for part, block in pairs], dim=1)

    def support_map(self) -> BaseFlow | None:
        """The parts' support maps side by side; None where every support is all of its space."""
        maps = [(part.features, part.support_map()) for part in self._each()]
        return None if all(one is None for _, one in maps) else _SideBySide(maps)


class _SideBySide(BaseFlow):
    """Bijections on blocks of columns; a block whose map is None passes."""

    def __init__(self, blocks: Sequence[tuple[int, BaseFlow | None]]) -> None:
        super().__init__(sum(features for features, _ in blocks))
        self.sizes = [features for features, _ in blocks]
        self.maps = nn.ModuleList([nn.Identity() if one is None else one for _, one in blocks])

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return self._mapped(x, "encode")

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return self._mapped(z, "decode")

    def _mapped(self, value: Tensor, direction: str) -> Step:
        volume = value.new_zeros(len(value))
        blocks = []
        for one, block in zip(self.maps, torch.split(value, self.sizes, dim=1), strict=True):
            if isinstance(one, BaseFlow):
                block, change = one.encode(block) if direction == "encode" else one.decode(block)
                volume = volume + change
            blocks.append(block)
        return Step(torch.cat(blocks, dim=1), volume)
