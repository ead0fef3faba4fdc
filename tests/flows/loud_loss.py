"""A loss of a user's own that warns, and logs, as code of theirs would."""

from __future__ import annotations

import logging
import os
import warnings

from torch import Tensor

from ununennium.losses import CrossEntropyLoss

logger = logging.getLogger(__name__)


class LoudLoss(CrossEntropyLoss):
    """Cross-entropy, with remarks."""

    said = False

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if not self.said:
            self.said = True
            warnings.warn("class weights are\nguessed", stacklevel=1)
            logger.error("of rank %s alone", os.environ["RANK"])
        return super().forward(output, target)
