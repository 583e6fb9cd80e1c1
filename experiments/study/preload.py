"""Import what cells need beside their modules, and work out what they share: before they fork."""

import scipy.stats  # noqa: F401 (of intervals)
import torch

from experiments.backbones import kernels
from experiments.results.code import hash_shared_code

kernels.load(torch.float32)
hash_shared_code()
