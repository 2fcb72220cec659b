"""Keeps trained networks on disk: the runs that want the same one share it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from flowzoo.training.checkpoint import load_checkpoint, save_checkpoint
from flowzoo_bench.cache import cache_folder

_log = logging.getLogger(__name__)
_HELD = 4
T = TypeVar("T")
State = Mapping[str, Tensor]


class WeightStore(Generic[T]):
    """A folder of the cache with trained things of one kind, the last few also in memory.

    Of several processes that want the same one, one trains and the others wait. Where nothing can
    be kept, or what is kept does not hash to what was, it is trained anew, with a warning.

    Args:
        what: the kind, for messages; the folder is its plural.
        weights: the weights of a thing, and plain data to keep beside them.
        restore: a thing from these two; any of ValueError, RuntimeError, KeyError, TypeError says
            that they do not fit.
    """

    def __init__(
        self,
        what: str,
        *,
        weights: Callable[[T], tuple[State, dict[str, Any]]],
        restore: Callable[[dict[str, Tensor], dict[str, Any]], T],
    ) -> None:
        self.what, self._weights, self._restore = what, weights, restore
        self._recent: OrderedDict[str, T] = OrderedDict()

    def get(self, name: str, train: Callable[[], T]) -> T:
        """The thing called ``name``, trained if nobody has trained it yet."""
        path = cache_folder() / f"{self.what}s" / f"{name}.safetensors"
        found = self._recent.pop(str(path), None)
        if found is None:
            with self._claimed(path):
                found = self._loaded(path)
                if found is None:
                    found = train()
                    self._keep(path, found)
        self._recent[str(path)] = found
        while len(self._recent) > _HELD:
            self._recent.popitem(last=False)
        return found

    @contextlib.contextmanager
    def _claimed(self, path: Path) -> Iterator[None]:
        """Hold the place, if it can be held; training twice is a waste, no harm."""
        with contextlib.ExitStack() as held:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(path.with_suffix(".lock").open("ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                _log.warning("%s: cannot lock %s: %s", self.what, path, error)
            yield

    def _loaded(self, path: Path) -> T | None:
        if not path.is_file():
            return None
        try:
            tensors, meta = load_checkpoint(path)
            if meta.get("sha256") != weight_digest(tensors):
                raise ValueError("the weights are not those that were kept")
            with torch.random.fork_rng(devices=[]):
                return self._restore(tensors, meta)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            _log.warning("%s: %s cannot be read and is trained again: %s", self.what, path, error)
            return None

    def _keep(self, path: Path, thing: T) -> None:
        state, about = self._weights(thing)
        try:
            save_checkpoint(path, state, {**about, "sha256": weight_digest(state)})
        except OSError as error:
            _log.warning("%s: cannot be kept at %s: %s", self.what, path, error)


def weight_digest(state: State) -> str:
    """The hash of all weights, by name."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
