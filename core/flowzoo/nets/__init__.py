"""Networks that layers are conditioned by."""

from flowzoo.nets.activations import Activation as Activation
from flowzoo.nets.activations import build_activation as build_activation
from flowzoo.nets.conv import ConvNet as ConvNet
from flowzoo.nets.linear import Linear as Linear
from flowzoo.nets.made import MADE as MADE
from flowzoo.nets.made import MaskedLinear as MaskedLinear
from flowzoo.nets.mlp import MLP as MLP
