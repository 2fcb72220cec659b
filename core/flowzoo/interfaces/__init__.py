"""The contracts, one a file."""

from flowzoo.interfaces.base_flow import BaseFlow as BaseFlow
from flowzoo.interfaces.base_flow import Direction as Direction
from flowzoo.interfaces.injection import Injection as Injection
from flowzoo.interfaces.injection import InjectionMode as InjectionMode
from flowzoo.interfaces.measure import EXACT as EXACT
from flowzoo.interfaces.measure import LEBESGUE as LEBESGUE
from flowzoo.interfaces.measure import LOWER_BOUND as LOWER_BOUND
from flowzoo.interfaces.measure import Evaluation as Evaluation
from flowzoo.interfaces.measure import Likelihood as Likelihood
from flowzoo.interfaces.measure import Measure as Measure
from flowzoo.interfaces.metric import Metric as Metric
from flowzoo.interfaces.metric import MetricValue as MetricValue
from flowzoo.interfaces.metric import Trained as Trained
from flowzoo.interfaces.mixture import Mixture as Mixture
from flowzoo.interfaces.partitioner import Partitioner as Partitioner
from flowzoo.interfaces.prior import Prior as Prior
from flowzoo.interfaces.stage import ParameterGroup as ParameterGroup
from flowzoo.interfaces.stage import Stage as Stage
from flowzoo.interfaces.step import Step as Step
from flowzoo.interfaces.task import Splits as Splits
from flowzoo.interfaces.task import Task as Task
