"""Explanation networks: a class's logit through a few faithful, orthogonal x-features (under way)."""

from jaxplain.xnn.diagnose import Diagnosis as Diagnosis
from jaxplain.xnn.diagnose import diagnose as diagnose
from jaxplain.xnn.diagnose import recall_and_precision as recall_and_precision
from jaxplain.xnn.diagnose import replace_logit as replace_logit
from jaxplain.xnn.diagnose import significant as significant
from jaxplain.xnn.fit import DEFAULT_WEIGHTS as DEFAULT_WEIGHTS
from jaxplain.xnn.fit import FitResult as FitResult
from jaxplain.xnn.fit import Status as Status
from jaxplain.xnn.fit import fit as fit
from jaxplain.xnn.losses import dominance_loss as dominance_loss
from jaxplain.xnn.losses import faithfulness_loss as faithfulness_loss
from jaxplain.xnn.losses import pull_away_loss as pull_away_loss
from jaxplain.xnn.losses import sparse_reconstruction_loss as sparse_reconstruction_loss
from jaxplain.xnn.probe import Probe as Probe
from jaxplain.xnn.probe import linear_probe as linear_probe
from jaxplain.xnn.srae import SRAE as SRAE
from jaxplain.xnn.srae import SRAEConfig as SRAEConfig
