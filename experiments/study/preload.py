"""Import what cells need beside their modules: like all of them, before the cells are forked."""

import torch

from experiments.backbones import kernels

kernels.load(torch.float32)
