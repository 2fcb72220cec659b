r"""What is maximised: bounds of log p(x) from K draws of the indices a row.

With w_k = p(x, u_k) / q(u_k | x) and u_k ~ q(. | x) by reparametrisation,

* ``elbo``: mean of log w_k, with its whole gradient;
* ``stl``: the same value; its gradient leaves out the score of q, whose mean is zero
  (Roeder et al., 2017);
* ``importance``: log mean w_k, IWAE (Burda et al., 2016), with its whole gradient;
* ``dreg``: the same value, with the doubly reparametrised gradient (Tucker et al., 2019).

All parameters lambda move q here, those of the bijections too: q(u_l|z_l) sees z_l. So the two
lower-variance gradients split log w by how lambda enters, not by whose parameter it is:

.. math:: \nabla \log w = \partial_\lambda \log p(x, u) - \partial_\lambda \log q(u | x)
    + \partial_u \log w \; \partial_\lambda u

the first at fixed u. The middle term has mean zero in ``stl``; in ``dreg`` it turns the weights
\tilde w_k of the last term into \tilde w_k^2. Both hold for stacks of any depth.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.func import functional_call

from flowzoo_plugins.continuous_mixtures.joint import Inference, Joint, Relax

Objective = Literal["elbo", "stl", "importance", "dreg"]


def bound(
    joint: Joint,
    x: Tensor,
    noise: Tensor,
    objective: Objective,
    *,
    context: Tensor | None = None,
    log_weight: Tensor | None = None,
    relax: Relax | None = None,
) -> Tensor:
    r"""A lower bound of log p(x), (N,), nats, in expectation over the noise.

    With M charts a row, mixed by weights p_m, it is a bound of log sum_m p_m p(x|m): for the two
    importance-weighted ones the log of the mean of sum_m p_m w_{mk}, for ``elbo`` and ``stl``

    .. math:: \log \sum_m p_m + \sum_m \frac{p_m}{\sum_j p_j} \mathrm{ELBO}_m

    which is linear in the draws: a sharper mix would correlate with them, and the score that
    ``stl`` leaves out would have a mean.

    Args:
        joint: the model.
        x: rows, (N, D).
        noise: standard normals, (N, M, K, n).
        objective: which bound and which gradient.
        context: of each chart, (N, M, C); None for none.
        log_weight: log p_m of each chart, (N, M); None for zeros.
        relax: see ``Joint.infer``.
    """
    rows, charts, draws, _ = noise.shape
    flat = x.repeat_interleave(charts, dim=0) if charts > 1 else x
    own = None if context is None else context.flatten(0, 1)
    found = joint.infer(flat, noise.flatten(0, 2), own, relax)
    shape = (rows, charts, draws)
    log_w = (found.log_p - found.log_q).reshape(shape)
    log_charts = log_w.new_zeros(rows, charts) if log_weight is None else log_weight
    if objective == "elbo":
        return _mean_of_charts(log_charts, log_w.mean(dim=2))
    weighted = log_w + log_charts[:, :, None] - math.log(draws)
    if objective == "importance":
        return weighted.flatten(1).logsumexp(dim=1)
    fixed_index, fixed_model = (
        part.reshape(shape) for part in _split(joint, flat, found, own, relax)
    )
    if objective == "stl":
        changes = (fixed_index + fixed_model).mean(dim=2)
        return _mean_of_charts(log_charts, _value(log_w.mean(dim=2), changes))
    share = weighted.detach().flatten(1).softmax(dim=1).reshape(shape)
    changes = share * (fixed_index + log_charts[:, :, None]) + share.square() * fixed_model
    return _value(weighted.flatten(1).logsumexp(dim=1), changes.flatten(1).sum(dim=1))


def _split(
    joint: Joint, x: Tensor, found: Inference, context: Tensor | None, relax: Relax | None
) -> tuple[Tensor, Tensor]:
    """log p(x, u) at indices that do not move, and log w by parameters that do not."""
    fixed_index = joint(x, found.indices.detach(), context, relax).log_p
    still = {name: parameter.detach() for name, parameter in joint.named_parameters()}
    moved: Inference = functional_call(joint, still, (x, found.indices, context, relax))
    return fixed_index, moved.log_p - moved.log_q


def _mean_of_charts(log_charts: Tensor, log_w: Tensor) -> Tensor:
    """The bound of charts that are chosen by their weights, from that of each, (N,)."""
    return log_charts.logsumexp(dim=1) + (log_charts.softmax(dim=1) * log_w).sum(dim=1)


def _value(value: Tensor, gradient: Tensor) -> Tensor:
    """The value of one with the gradient of the other."""
    return value.detach() + gradient - gradient.detach()


def log_weights(
    joint: Joint, x: Tensor, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """z_0 (N, K, D) of draws by noise (N, K, n), and log w, (N, K); context is (N, C)."""
    rows, draws, _ = noise.shape
    found = joint.infer(x, noise.flatten(0, 1), context)
    latent = found.latent.reshape(rows, draws, x.shape[1])
    return latent, (found.log_p - found.log_q).reshape(rows, draws)
