"""Gaussian mixture with full covariances."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.validation import check_positive, check_rows
from flowzoo_plugins.baselines.closed_form import ClosedForm, mean_variance, normal_log_prob, randn

_PATIENCE = 2  # candidates in a row that bring nothing before the search ends


class GaussianMixture(ClosedForm):
    r"""Full-covariance mixture by EM; the number of components is chosen on validation.

    .. math:: p(x) = \sum_{k=1}^K w_k N(x; \mu_k, \Sigma_k)

    scikit-learn fits the candidate numbers of components, ``restarts`` times each, in rising order
    until two in a row bring nothing; the fit with the best validation log-likelihood is kept. Its
    variances are inflated by ``regularisation``
    times the data's mean variance. Buffers hold the largest candidate number of components; those
    beyond the chosen one have weight 0, so shapes do not depend on data.

    ``sample`` at temperature t scales every covariance by t^2 and leaves means and weights.

    Source: Dempster, Laird, Rubin (1977).

    Args:
        features: D.
        num_components: K, or the candidates for it. Candidates beyond the number of training rows
            are left out.
        restarts: EM runs of each candidate, from different k-means starts.
        max_iterations: EM iterations of a run.
        regularisation: added to every variance, > 0, relative to the mean variance.

    Raises:
        ValueError: a count below 1, no candidates, ``regularisation`` not positive. Its stage
            raises for fewer rows than the smallest candidate and without validation rows to choose
            by.

    Example:
        >>> model = GaussianMixture(1, num_components=[1, 2])
        >>> x = torch.tensor([[-5.1], [-5.0], [-4.9], [4.9], [5.0], [5.1]])
        >>> model.stages()[0].prepare(x, x, torch.Generator().manual_seed(0))
        >>> model.components, model.assign(x[:3]).unique().numel()
        (2, 1)
    """

    log_weights: Tensor
    means: Tensor
    scale_trils: Tensor
    capabilities: ClassVar[frozenset[str]] = frozenset({"sample_and_log_prob", "assign"})

    def __init__(
        self,
        features: int,
        *,
        num_components: int | Sequence[int] = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128),
        restarts: int = 1,
        max_iterations: int = 200,
        regularisation: float = 1e-6,
    ) -> None:
        super().__init__(features)
        given = [num_components] if isinstance(num_components, int) else list(num_components)
        if not given:
            raise ValueError("num_components: expected at least one candidate, got none")
        self.candidates = tuple(sorted({check_positive("num_components", k) for k in given}))
        self.restarts = check_positive("restarts", restarts)
        self.max_iterations = check_positive("max_iterations", max_iterations)
        if not 0 < regularisation < float("inf"):
            raise ValueError(f"regularisation: expected a finite number > 0, got {regularisation}")
        self.regularisation = regularisation
        most = self.candidates[-1]
        log_weights = torch.full((most,), -torch.inf)
        log_weights[0] = 0.0
        self.register_buffer("log_weights", log_weights)
        self.register_buffer("means", torch.zeros(most, features))
        self.register_buffer("scale_trils", torch.eye(features).repeat(most, 1, 1))

    @property
    def components(self) -> int:
        """How many components have weight."""
        return int((self.log_weights > -torch.inf).sum())

    def assign(self, x: Tensor) -> Tensor:
        """The component each row of x (N, D) most probably comes from, (N,) int64.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        return self._joint(check_rows("x", x, self.features, self.means)).argmax(dim=1)

    def _joint(self, x: Tensor) -> Tensor:
        """log w_k N(x_n; mu_k, Sigma_k), (N, K)."""
        return self.log_weights + normal_log_prob(x, self.means, self.scale_trils)

    def _fit(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Fit

        possible = [k for k in self.candidates if k <= len(x_train)]
        if not possible:
            raise ValueError(
                f"x_train: expected at least num_components={self.candidates[0]} rows, "
                f"got {len(x_train)}"
            )
        if len(possible) * self.restarts > 1 and len(x_valid) == 0:
            raise ValueError("x_valid: expected rows to choose num_components by, got 0")
        x = x_train.to(device="cpu", dtype=torch.float64)
        valid = x_valid.to(device="cpu", dtype=torch.float64).numpy()
        centre, scale = x.mean(dim=0), mean_variance(x) ** 0.5
        seeds = torch.randint(
            2**31 - 1, (len(possible), self.restarts), generator=generator, device=generator.device
        )
        best, best_score, failure = None, -float("inf"), None
        worse = 0  # candidates since the best one
        rows = ((x - centre) / scale).numpy()
        if len(rows) == 1:
            rows = rows.repeat(2, axis=0)  # scikit-learn wants two; a copy does not change the fit
        valid = (valid - centre.numpy()) / scale
        with warnings.catch_warnings():
            # an unfinished fit, or one on repeated points, is judged by its validation score
            warnings.simplefilter("ignore", ConvergenceWarning)
            for components, row in zip(possible, seeds.tolist(), strict=True):
                if worse == _PATIENCE:
                    break
                worse += 1
                for seed in row:
                    fit = Fit(
                        components,
                        reg_covar=self.regularisation,
                        max_iter=self.max_iterations,
                        random_state=seed,
                    )
                    try:
                        fit.fit(rows)
                    except ValueError as error:  # a covariance that is not positive definite
                        failure = error
                        continue
                    score = fit.score(valid) if len(valid) else 0.0
                    if score > best_score:
                        best, best_score, worse = fit, score, 0
        if best is None:
            raise ValueError(
                f"x_train: no Gaussian mixture of {possible} components could be fitted; "
                f"try a larger regularisation than {self.regularisation:g} ({failure})"
            )
        used = best.n_components
        self.log_weights.fill_(-torch.inf)
        self.log_weights[:used] = torch.from_numpy(best.weights_).log().to(self.log_weights)
        self.means.zero_()
        self.means[:used] = (centre + scale * torch.from_numpy(best.means_)).to(self.means)
        cholesky = scale * torch.linalg.cholesky(torch.from_numpy(best.covariances_))
        self.scale_trils.copy_(torch.eye(self.features))
        self.scale_trils[:used] = cholesky.to(self.scale_trils)

    def _score(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._joint(x), dim=1)

    def _row_cost(self) -> int:
        return 2 * self.means.numel()

    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        if num == 0:
            return self.means.new_empty(0, self.features)
        device = self.means.device if generator is None else generator.device
        weights = self.log_weights.exp().to(device)
        index = torch.multinomial(weights, num, replacement=True, generator=generator)
        index = index.to(self.means.device)
        noise = randn(self.means, num, self.features, generator=generator)
        moved = self.scale_trils[index] @ noise[:, :, None]
        return self.means[index] + temperature * moved[:, :, 0]
