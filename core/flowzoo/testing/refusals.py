"""That bad input is refused, with a message that helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowzoo.testing.outcome import CheckFailed


def refuses(argument: str, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Raise CheckFailed unless the call raises ValueError or TypeError that names ``argument``."""
    try:
        call(*args, **options)
    except (ValueError, TypeError) as refusal:
        if argument not in str(refusal):
            raise CheckFailed(
                f"expected a message that names {argument!r}, got {str(refusal)!r}"
            ) from refusal
    except Exception as error:
        raise CheckFailed(
            f"bad {argument}: expected ValueError, got {type(error).__name__}: {error}"
        ) from error
    else:
        raise CheckFailed(f"bad {argument}: expected ValueError, nothing was raised")
