"""The contract of a density model: the thing that is trained, scored and sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowzoo.interfaces.measure import Evaluation
from flowzoo.interfaces.stage import Stage
from flowzoo.validation import check_draw, check_finite, check_positive, check_rows


class Mixture(nn.Module, ABC):
    """A density on R^features.

    Subclasses implement ``stages``, ``_log_prob`` and ``_sample``, declare their ``evaluations``
    (the first is the default) and name in ``capabilities`` which optional methods they have, of
    ``sample_and_log_prob(num)``, ``embed(x)``, ``reconstruct(x)``,

    * ``assign(x)``: chart of each row, (N,) integers;
    * ``noise_scale``: ``sample`` takes the keyword ``noise_scale`` (default 1), a factor on the
      standard deviation of the noise around the model's manifold; at 0 draws lie on it, and
      ``reconstruct(x)`` is a point of the manifold;
    * ``intrinsic_dimension()``: the dimension found, () or (K,) for K charts, ``assign``'s order;
    * ``local_dimension(x)``: the dimension found around each row, (N,), not always whole;
    * ``spectrum()``: variance over noise along each direction of the latent space, largest first,
      (D,) or (K, D) for K charts;
    * ``importance_estimate(x, num_samples=None, generator=None)``: log-density of rows by weighted
      draws, their effective sample size and the bias (an ``ImportanceEstimate``), as in the
      evaluation ``importance``, without gradients;
    * ``codes(x)`` and ``sample_codes(num, generator=None)``: the whole latent rows (N, D) of data,
      and draws of the prior there.
    """

    evaluations: Mapping[str, Evaluation]
    capabilities: ClassVar[frozenset[str]] = frozenset()
    packable: ClassVar[bool] = True  # False where vmap cannot run the losses

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = check_positive("features", features)

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The training stages in order; group names are relative to the mixture."""

    def log_prob(
        self,
        x: Tensor,
        *,
        evaluation: str | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(x) in nats, (N,), of the kind and measure ``evaluations[evaluation]`` declares.

        Args:
            x: data, (N, D), of the model's dtype and device.
            evaluation: one of ``evaluations``; the first when None.
            num_samples: for estimates, how many samples; None for as many as the model says.
            generator: for estimates, where randomness comes from.

        Raises:
            ValueError: unknown evaluation, wrong shape, dtype or device, a non-finite row, or
                ``num_samples`` below 1.
        """
        if evaluation is None:
            evaluation = next(iter(self.evaluations))
        elif evaluation not in self.evaluations:
            raise ValueError(
                f"evaluation: expected one of {sorted(self.evaluations)}, got {evaluation!r}"
            )
        if num_samples is not None:
            check_positive("num_samples", num_samples)
        check_finite("x", check_rows("x", x, self.features, self._reference()))
        return self._log_prob(x, evaluation, num_samples, generator)

    def sample(
        self,
        num: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``num`` draws, (num, D).

        Raises:
            ValueError: ``num`` is negative or ``temperature`` is not positive.
        """
        check_draw(num, temperature)
        return self._sample(num, temperature, generator)

    @abstractmethod
    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor: ...

    @abstractmethod
    def _sample(
        self, num: int, temperature: float, generator: torch.Generator | None
    ) -> Tensor: ...

    def _reference(self) -> Tensor | None:
        """A floating parameter or buffer that tells the model's dtype and device."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor
        return None
