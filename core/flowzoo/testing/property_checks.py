"""Checks over drawn shapes and values; they need hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from flowzoo.interfaces import Mixture
from flowzoo.testing.instances import flow_at_work, trained
from flowzoo.testing.numerics import F64, ROUND_TRIP, VOLUME, close, finite
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.subject import Subject, trying

_EXAMPLES = 60
_ROUNDING = 1e-9


def flow_properties(subject: Subject) -> None:
    """Whatever the rows: finite, of the right shape, and back where they came from."""
    given = _given()
    from flowzoo.testing.strategies import Batch, batches

    for case in subject.cases():
        with trying(case):
            flow = flow_at_work(subject, case)

            def holds(batch: Batch, flow: Any = flow) -> None:
                z, *rest = batch
                x, down = flow.decode(z, *rest)
                back, up = flow.encode(x, *rest)
                require(tuple(x.shape) == (len(z), flow.features), "decode: wrong shape")
                finite(x, "decode")
                close(back, z, 100 * ROUND_TRIP[F64], "encode(decode(z)) against z")
                # within rounding of a kink the way back may be on its other side
                step = _ROUNDING * (1.0 + z.abs())
                sides = [down, *(flow.decode(z + s * step, *rest).log_abs_det for s in (-1.0, 1.0))]
                nearest = torch.stack(sides).sub(up).abs().argmin(dim=0, keepdim=True)
                beside = torch.stack(sides).gather(0, nearest)[0]
                close(up, beside, 100 * VOLUME[F64], "log_abs_det")

            given(holds, batches(case, flow.latent_features))


def mixture_properties(subject: Subject) -> None:
    """Whatever the rows: one number a row, never NaN or +infinity."""
    given = _given()
    from flowzoo.testing.probe import scores
    from flowzoo.testing.strategies import Batch, batches
    from flowzoo.testing.subject import Case

    for features in subject.sizes():
        with trying(f"D={features}"):
            model: Mixture = trained(subject, features)

            def holds(batch: Batch, model: Mixture = model) -> None:
                with torch.no_grad():
                    for name in model.evaluations:
                        value = scores(model, batch.rows, name)
                        require(tuple(value.shape) == (len(batch.rows),), f"{name}: wrong shape")
                        require(bool((value < torch.inf).all()), f"{name}: NaN or +infinity")

            given(holds, batches(Case(features)))


def _given() -> Callable[[Callable[..., None], Any], None]:
    """What runs a property over drawn arguments."""
    try:
        import hypothesis
    except ImportError:
        raise NotApplicable("needs hypothesis: pip install 'flowzoo[test]'") from None

    def run(holds: Callable[..., None], strategy: Any) -> None:
        settings = hypothesis.settings(
            max_examples=_EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            print_blob=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        settings(hypothesis.given(strategy)(lambda batch: holds(batch)))()  # type: ignore[no-untyped-call]

    return run
