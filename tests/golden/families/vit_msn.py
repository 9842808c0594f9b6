"""ViT-MSN, bare."""

from typing import Any

from golden.case import Case
from golden.families.vit import SMALL, run_encoder, vit_inputs


def _vit_msn(full: bool) -> Any:
    from transformers import ViTMSNConfig, ViTMSNModel

    return ViTMSNModel(ViTMSNConfig(**({} if full else SMALL)))


CASES = [Case("vit-msn", _vit_msn, vit_inputs, run_encoder, loss="last_hidden_state")]
