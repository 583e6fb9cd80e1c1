"""What cells need beside their modules, done once by importing this before they are forked."""

import torch

from experiments.backbones import kernels

kernels.load(torch.float32)
