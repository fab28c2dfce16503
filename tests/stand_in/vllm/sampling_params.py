from enum import Enum

from vllm import SamplingParams

__all__ = ["RequestOutputKind", "SamplingParams"]


class RequestOutputKind(Enum):
    FINAL_ONLY = 2
