"""What is learnt: the parts of learned state, as the learner moves them."""

from collections.abc import Mapping

from online_models.bandits import BanditState
from online_models.base import BANDITS, CLICKS, RATES, Learns
from online_models.click_learning import ClickLearner
from online_models.rates import ArmRates


def learners() -> Mapping[str, Learns]:
    """New parts, as the learner begins without any version."""
    return {RATES: ArmRates(), BANDITS: BanditState(is_net=True), CLICKS: ClickLearner()}
