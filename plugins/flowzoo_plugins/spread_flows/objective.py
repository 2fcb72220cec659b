"""What the loss of spread flows and its diagnostics are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from flowzoo_plugins.spread_flows.atlas import SpreadPrior
from flowzoo_plugins.spread_flows.entropy import drawn_noise_entropy, mixture_log_prob

Spread = Literal["latent", "data", "offset"]
Entropy = Literal["drop", "kde"]
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


def objective_of(
    spread: Spread | None, entropy: Entropy | None, whitened: bool
) -> tuple[Spread, Entropy]:
    """Where the noise goes and what becomes of the entropy, as chosen where they are not given.

    On the data, unless an entropy is asked for, or codes are whitened, which would change the
    noise of the data.

    Raises:
        ValueError: an unknown one, or two that do not go together.
    """
    if spread is None:
        spread = "data" if entropy is None and not whitened else "latent"
    if entropy is None:
        entropy = "drop" if spread == "data" else "kde"
    for name, value, kind in (("entropy", entropy, Entropy), ("spread", spread, Spread)):
        if value not in get_args(kind):
            raise ValueError(f"{name}: expected one of {get_args(kind)}, got {value!r}")
    if spread == "data" and entropy != "drop":
        raise ValueError(
            f"entropy: expected 'drop' for noise on the data, whose entropy f does not change, "
            f"got {entropy!r}"
        )
    return spread, entropy


class SpreadRows(NamedTuple):
    """Rows with their noise, N of them.

    Attributes:
        x: with the noise on the data, (N, D).
        z: their codes, (N, D).
        noisy: the codes with the noise on them, (N, D).
        cross: -log p of the noisy codes, (N,).
        log_abs_det: log|det dz/dx|, (N,).
    """

    x: Tensor
    z: Tensor
    noisy: Tensor
    cross: Tensor
    log_abs_det: Tensor

    @property
    def surrogate(self) -> Tensor:
        """The loss without entropy, (N,)."""
        return self.cross - self.log_abs_det


def spread_rows(
    encode: Encode,
    prior: SpreadPrior,
    x: Tensor,
    noise: Tensor,
    spread: Spread,
    std: Tensor,
    data_std: float,
) -> SpreadRows:
    """Rows under the noise of the data, their codes under that of the codes.

    Args:
        encode: rows (N, D) to codes (N, D) and log|det dz/dx| (N,).
        prior: p.
        x: (N, D).
        noise: standard normal; the first D columns are the spread's. More noise on the data has
            the next D, or none of its own where the spread is on the data too.
        spread: where the noise goes.
        std: sigma of codes and prior, ().
        data_std: of all noise on the data.
    """
    first = _drawn(noise, x.shape[1], spread)
    if spread == "data":
        x = x + data_std * first
    elif data_std > 0.0:
        x = x + data_std * noise[:, x.shape[1] :]
    z, log_abs_det = encode(x)
    noisy = z if spread == "data" else z + std * first
    return SpreadRows(x, z, noisy, -prior.log_prob(noisy, noise_std=std), log_abs_det)


def watched(
    rows: SpreadRows, clean: Tensor, noise: Tensor, spread: Spread, std: Tensor
) -> Mapping[str, Tensor]:
    """The loss without entropy, the entropy it leaves out, the floor of both; nats, (N,) each.

    Noise on the codes has entropy H(sigma epsilon) whatever f does, and the loss takes off
    log|det J|; noise on the data comes under f itself, and its entropy is none of f's. The entropy
    is taken where the noise has brought the rows: at their centres, as eq. 39 takes it for the
    loss, it comes out half a nat an axis of noise too low, and may lie below the floor.

    Args:
        rows: as ``spread_rows`` has them.
        clean: the data without noise, (N, D).
        noise: as there.
        spread: as there.
        std: of the noise that the floor is the entropy of, on the data or on the codes, ().
    """
    floor = drawn_noise_entropy(_drawn(noise, clean.shape[1], spread), std)
    if spread == "data":
        entropy = -mixture_log_prob(rows.x, std, clean)
    else:
        entropy = -mixture_log_prob(rows.noisy, std, rows.z) - rows.log_abs_det
        floor = floor - rows.log_abs_det
    return {"surrogate": rows.surrogate, "entropy": entropy, "floor": floor}


def _drawn(noise: Tensor, features: int, spread: Spread) -> Tensor:
    """What sigma multiplies, (N, D): noise, or ones."""
    first = noise[:, :features]
    return torch.ones_like(first) if spread == "offset" else first
