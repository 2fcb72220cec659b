"""Training: one model, or many as one program."""

from flowzoo.training.fit import fit as fit
from flowzoo.training.options import TrainingOptions as TrainingOptions
from flowzoo.training.packing import is_packable as is_packable
from flowzoo.training.progress import progress_bar as progress_bar
from flowzoo.training.results import CurvePoint as CurvePoint
from flowzoo.training.results import FitResult as FitResult
from flowzoo.training.results import StageResult as StageResult
from flowzoo.training.results import TrainingData as TrainingData
from flowzoo.training.trainer import TrainingEvent as TrainingEvent
from flowzoo.training.trainer import train_pack as train_pack
from flowzoo.training.watching import TrainingWarning as TrainingWarning
