"""Builds a plugin anew, loads a saved state and answers questions: ``python -m ... FOLDER``.

The other half of the check that a state computes the same in another process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Read ``job.json``, ``state`` and ``inputs`` from ``folder``; write ``answers`` there."""
    job = json.loads((folder / "job.json").read_text("utf-8"))
    sys.path[:] = job["path"]

    import torch
    from safetensors.torch import load_file, save_file

    import flowzoo
    from flowzoo.testing.probe import probe

    torch.manual_seed(1)  # another start than the saved state's
    model = flowzoo.build(job["kind"], job["name"], **job["options"]).double().eval()
    model.load_state_dict(load_file(folder / "state.safetensors"))
    inputs = {name: None for name in ("x", "z", "context", "chart")}
    answers = probe(model, {**inputs, **load_file(folder / "inputs.safetensors")})
    plain = {name: value.contiguous().clone() for name, value in answers.items()}
    save_file(plain, folder / "answers.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
