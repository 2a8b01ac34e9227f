"""Optimizers and learning-rate schedules by their names in a recipe."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from training.optim.muon import KernelMuon, convolution_kernels
from training.recipes.recipe import Recipe

# In the names of multidimensional parameters that are not weights: torchvision's class_token, pos_embedding,
# relative_position_bias_table, layer_scale and logit_scale, and timm's pos_embed.
NO_DECAY_NAMES = frozenset({"bias", "token", "embed", "embedding", "scale"})


def make_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer; biases, normalisation parameters, embeddings and `NO_DECAY_NAMES` are not decayed.

    Raises:
        ValueError: muon for a network without convolutions.
    """
    rate, decay = recipe.learning_rate, recipe.weight_decay
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": decay}, {"params": [], "weight_decay": 0.0}]
    kernels = convolution_kernels(network) if recipe.optimizer == "muon" else []
    apart = {id(kernel) for kernel in kernels}
    embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    for name, parameter in network.named_parameters():
        if id(parameter) in apart:
            continue
        words = NO_DECAY_NAMES.intersection(name.rpartition(".")[2].split("_"))
        weight = parameter.ndim > 1 and not words and id(parameter) not in embeddings
        groups[0 if weight else 1]["params"].append(parameter)
    if recipe.optimizer == "sgd":
        momentum = recipe.momentum
        sgd = SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)
        for parameter in network.parameters() if momentum else ():
            # Otherwise layers unfrozen later have no state when others do, which the fused step refuses.
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    adamw = AdamW(groups, lr=rate, fused=True)
    if recipe.optimizer == "muon":
        return KernelMuon(kernels, adamw, lr=rate, weight_decay=decay)
    return adamw


def make_schedule(optimizer: Optimizer, recipe: Recipe, *, steps: int) -> LRScheduler:
    """The recipe's learning-rate schedule over `steps` steps.

    One cycle is Smith and Topin, Super-Convergence (2017), with cosines; the first beta of adamw moves inversely to the
    rate from 0.95 to 0.85 and back, momentum and muon's betas stay constant. Cosine is Loshchilov and Hutter, SGDR
    (2016), eq. 5, without restarts.
    """
    rising, steps = recipe.warmup_epochs / max(1, recipe.epochs), max(1, steps)  # no epochs: never stepped
    if recipe.schedule == "onecycle":
        share = rising or 0.3
        if math.isclose(share * steps, 1):  # torch divides by the length of the rise, here 0
            share = 1.5 / steps
        return OneCycleLR(
            optimizer,
            max_lr=recipe.learning_rate,
            total_steps=steps,
            pct_start=share,
            cycle_momentum=recipe.optimizer == "adamw",
        )
    warm = round(rising * steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2

    return LambdaLR(optimizer, factor)
