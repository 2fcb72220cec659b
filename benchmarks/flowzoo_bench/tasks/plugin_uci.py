"""Specs of the UCI tables of the MAF paper; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

_BIBTEX = """@inproceedings{papamakarios2017maf,
  title = {Masked Autoregressive Flow for Density Estimation},
  author = {Papamakarios, George and Pavlakou, Theo and Murray, Iain},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2017}
}"""


def _table(name: str, summary: str, features: int) -> PluginSpec:
    """A real table with the paper's own preprocessing and split."""
    return PluginSpec(
        "task",
        name,
        summary,
        f"flowzoo_bench.tasks.uci.{name}:{name.capitalize()}",
        capabilities={
            "features": features,
            "oracle": False,
            "support": False,
            "real": True,
            "fixed_splits": True,
        },
        paper="Masked Autoregressive Flow for Density Estimation (Papamakarios et al., NIPS 2017)",
        bibtex=_BIBTEX,
        check_options=f"flowzoo_bench.tasks.uci.examples:{name}",
    )


POWER = _table("power", "2,049,280 minutes of a household's electricity, as MAF has them", 6)
GAS = _table("gas", "1,052,065 readings of gas sensors, as MAF has them", 8)
HEPMASS = _table("hepmass", "525,123 collisions with a new particle, as MAF has them", 21)
MINIBOONE = _table("miniboone", "36,488 neutrino events, as MAF has them", 43)
