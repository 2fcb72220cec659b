"""The curves of the VQ-Flows sets and their derivatives, as functions of theta."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor, cos, sin

from flowzoo_bench.tasks.curves import Curve


def _stack(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return torch.stack([x, y, z], dim=-1)


def _helix(t: Tensor) -> Tensor:
    return _stack(t, cos(t), sin(t))


def _helix_velocity(t: Tensor) -> Tensor:
    return _stack(1 + 0 * t, -sin(t), cos(t))


def _lissajous(t: Tensor) -> Tensor:
    return _stack(cos(t), 0 * t, sin(2 * t))


def _lissajous_velocity(t: Tensor) -> Tensor:
    return _stack(-sin(t), 0 * t, 2 * cos(2 * t))


def _flat_circle(t: Tensor) -> Tensor:
    return _stack(sin(t), cos(t), 0 * t)


def _flat_circle_velocity(t: Tensor) -> Tensor:
    return _stack(cos(t), -sin(t), 0 * t)


def _upright_circle_at_1(t: Tensor) -> Tensor:
    return _stack(1 + sin(t), 0 * t, cos(t))


def _upright_circle_at_2(t: Tensor) -> Tensor:
    return _stack(2 + sin(t), 0 * t, cos(t))


def _upright_circle_velocity(t: Tensor) -> Tensor:
    return _stack(cos(t), 0 * t, -sin(t))


def _knotted(t: Tensor) -> Tensor:
    return _stack(sin(t) + 2 * sin(2 * t), cos(t) - 2 * cos(2 * t), sin(3 * t))


def _knotted_velocity(t: Tensor) -> Tensor:
    return _stack(cos(t) + 4 * cos(2 * t), -sin(t) + 4 * sin(2 * t), 3 * cos(3 * t))


def _non_knotted(t: Tensor) -> Tensor:
    radius = 1 + cos(3 * t) / 2
    return _stack(radius * cos(2 * t), radius * sin(2 * t), sin(t) / 2)


def _non_knotted_velocity(t: Tensor) -> Tensor:
    radius, change = 1 + cos(3 * t) / 2, -3 * sin(3 * t) / 2
    c, s = cos(2 * t), sin(2 * t)
    return _stack(change * c - 2 * radius * s, change * s + 2 * radius * c, cos(t) / 2)


def _bent_lissajous(t: Tensor) -> Tensor:
    return _stack(sin(2 * t), cos(t), cos(2 * t))


def _bent_lissajous_velocity(t: Tensor) -> Tensor:
    return _stack(2 * cos(2 * t), -sin(t), -2 * sin(2 * t))


def _printed_bent_lissajous(t: Tensor) -> Tensor:
    return _stack(sin(2 * t), cos(2 * t), cos(2 * t))


def _printed_bent_lissajous_velocity(t: Tensor) -> Tensor:
    return _stack(2 * cos(2 * t), -2 * sin(2 * t), -2 * sin(2 * t))


def _segment(t: Tensor) -> Tensor:
    return _stack(-1 + sin(t), -1 + sin(t), -1 + sin(t))


def _segment_velocity(t: Tensor) -> Tensor:
    return _stack(cos(t), cos(t), cos(t))


def _small_ellipse(t: Tensor) -> Tensor:
    return _stack(-1 + sin(t), -1 + cos(t), -1 + cos(t))


def _small_ellipse_velocity(t: Tensor) -> Tensor:
    return _stack(cos(t), -sin(t), -sin(t))


def _large_ellipse(t: Tensor) -> Tensor:
    return _stack(2 + sin(t), 1 + 2 * cos(t), 1 + 2 * cos(t))


def _large_ellipse_velocity(t: Tensor) -> Tensor:
    return _stack(cos(t), -2 * sin(t), -2 * sin(t))


def _axis_0(t: Tensor) -> Tensor:
    return _stack(sin(t), 0 * t, 0 * t)


def _axis_0_velocity(t: Tensor) -> Tensor:
    return _stack(cos(t), 0 * t, 0 * t)


def _axis_1(t: Tensor) -> Tensor:
    return _stack(0 * t, sin(t), 0 * t)


def _axis_1_velocity(t: Tensor) -> Tensor:
    return _stack(0 * t, cos(t), 0 * t)


def _axis_2(t: Tensor) -> Tensor:
    return _stack(0 * t, 0 * t, sin(t))


def _axis_2_velocity(t: Tensor) -> Tensor:
    return _stack(0 * t, 0 * t, cos(t))


HELIX = Curve(_helix, _helix_velocity, 0.0, 8 * pi)
LISSAJOUS = Curve(_lissajous, _lissajous_velocity, -pi, pi)
FLAT_CIRCLE = Curve(_flat_circle, _flat_circle_velocity, -pi, pi)
UPRIGHT_CIRCLE_AT_1 = Curve(_upright_circle_at_1, _upright_circle_velocity, -pi, pi)
UPRIGHT_CIRCLE_AT_2 = Curve(_upright_circle_at_2, _upright_circle_velocity, -pi, pi)
KNOTTED = Curve(_knotted, _knotted_velocity, -pi, pi)
NON_KNOTTED = Curve(_non_knotted, _non_knotted_velocity, -pi, pi)
BENT_LISSAJOUS = Curve(_bent_lissajous, _bent_lissajous_velocity, -pi, pi)
PRINTED_BENT_LISSAJOUS = Curve(_printed_bent_lissajous, _printed_bent_lissajous_velocity, -pi, pi)
SEGMENT = Curve(_segment, _segment_velocity, -pi, pi)
SMALL_ELLIPSE = Curve(_small_ellipse, _small_ellipse_velocity, -pi, pi)
LARGE_ELLIPSE = Curve(_large_ellipse, _large_ellipse_velocity, -pi, pi)
AXES = (
    Curve(_axis_0, _axis_0_velocity, -pi, pi),
    Curve(_axis_1, _axis_1_velocity, -pi, pi),
    Curve(_axis_2, _axis_2_velocity, -pi, pi),
)
