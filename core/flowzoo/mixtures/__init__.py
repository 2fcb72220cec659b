"""Density models that several plugins build on."""

from flowzoo.mixtures.flow_over_prior import FlowOverPrior as FlowOverPrior
from flowzoo.mixtures.flow_over_prior import Frame as Frame
from flowzoo.mixtures.flow_over_prior import build_frame as build_frame
from flowzoo.mixtures.flow_over_prior import into_frame as into_frame
