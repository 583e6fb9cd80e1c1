"""An adapter beside a base that may be anything: base(x) + (W - W0) x.

This form serves every base that is more than its weight, by hooks or a forward pass of its own, and
those that are no linear layers; whatever a method has written for plain linear layers is left out.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.forms import Dense, Embedding, find_form, has_known_forward, is_hooked, is_plain
from variants.products import MERGED, at_least_float32, disable_autocast, is_autocasting
from variants.stand_in import StandIn

Update = TypeVar("Update", bound=Callable)


def mark_additive(update: Update) -> Update:
    """Mark an `update` that gives y and a term that depends on x alone."""
    update.is_additive = True  # type: ignore[attr-defined]
    return update


def guard_forward(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer's own forward pass, and `add_to_base` if the base is no plain linear."""

    @wraps(forward)
    def routed(self: "BaseWrapper", x: Tensor) -> Tensor:
        return forward(self, x) if self.is_plain_linear() else self.add_to_base(x)

    return routed


def guard_merge(merge: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A layer's own `merge`, behind what has to be asked of every base."""

    @wraps(merge)
    def checked(self: "BaseWrapper") -> nn.Module:
        check_mergeable(self.base)
        self.check_readable()
        return merge(self)

    return checked


class BaseWrapper(StandIn):
    """The side of an adapter layer that its surroundings see, for every kind of base."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.form = find_form(base) or Dense

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Call a method's own `forward` and `merge` only if the base is fit for them."""
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls):
            cls.forward = guard_forward(cls.forward)
        if "merge" in vars(cls):
            cls.merge = guard_merge(cls.merge)

    @property
    def W0(self) -> Tensor:
        """The base's weight [d_out, d_in]; `variants.forms` has it for other layers."""
        return self.form.read_matrix(self.base)

    @property
    def b0(self) -> nn.Parameter | None:
        """The base's bias [d_out], if it has one."""
        return getattr(self.base, "bias", None)

    @property
    def bias(self) -> Tensor | None:
        """The bias that belongs to `weight`, for the same callers and in the base's dtype."""
        bias, b0 = self.merged_bias(), self.b0
        if bias is None or bias is b0:
            return b0
        return bias.to(self.W0.dtype if b0 is None else b0.dtype)

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """The tensors that layers may share: transformers asks for them, to store each once."""
        return {key: key for key in self._parameters}

    @property
    def weight(self) -> Tensor:
        """W as the base's `weight`, made anew: for callers that read it and do not call the layer.

        They get its gradients, and no dropout.
        """
        # A quantised base may read its bits in a higher precision than it stands for.
        dtype = getattr(self.base, "stored_dtype", self.W0.dtype)
        return self.form.shape_weight(self.base, self.compute_full_weight().to(dtype))

    @property
    def in_features(self) -> int:
        """d_in of a linear layer."""
        return self.get_size(1)

    @property
    def out_features(self) -> int:
        """d_out of a linear layer."""
        return self.get_size(0)

    @property
    def fan_in(self) -> int:
        """How many of the d_in inputs are not zero at a time."""
        return 1 if self.form is Embedding else self.shape[1]

    def get_size(self, side: int) -> int:
        """Raises AttributeError if a plain layer of the base's kind would."""
        if not self.form.dense:
            raise AttributeError(f"A {self.form.noun} has no such attribute.")
        return self.shape[side]

    @property
    def shape(self) -> torch.Size:
        """That of W0, [d_out, d_in]; a quantised weight is not made for it."""
        return getattr(self.base, "shape", None) or self.W0.shape

    def merged_weight(self) -> Tensor:
        """The weight [d_out, d_in] of the linear layer this equals in eval, at least float32."""
        raise NotImplementedError

    def merged_bias(self) -> Tensor | None:
        """The bias [d_out] of the linear layer this equals in eval: the base's, unless it moves."""
        return self.b0

    def compute_full_weight(self) -> Tensor:
        """`merged_weight` as precise as it says, also under autocast.

        Raises ValueError if the base's weight is kept elsewhere between two calls.
        """
        self.check_readable()
        with disable_autocast(self.W0.device):
            return self.merged_weight()

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        """A [r, d_in], B [d_out, r] and s if the weight is W0 + s B A: for many tokens at once.

        Gradients reach what they were computed from.
        """
        return None

    def compute_change(self) -> Tensor:
        """W - W0 [d_out, d_in], at least float32."""
        factors = self.factors()
        if factors is None:
            return self.compute_full_weight() - at_least_float32(self.W0)
        A, B, scale = factors
        with disable_autocast(A.device):
            return scale * at_least_float32(B) @ at_least_float32(A)

    def reset_cache(self) -> None:
        """Forget what was computed from the base's weight.

        Only needed after a write to its `.data`, which leaves no trace.
        """

    def is_plain_linear(self) -> bool:
        """Return whether the base is x W0^T + b for x [..., d_in], and nothing else."""
        return self.form.dense and is_plain(self.base)

    def add_to_base(self, x: Tensor) -> Tensor:
        """base(x) + (W - W0) x; in one call of W if that is the same.

        Raises ValueError if a linear layer returns something else than [..., d_out].
        """
        form, base = self.form, self.base
        whole = form.merges and not form.dense and not self.dropping()
        if whole and is_plain(base) and is_precise(x, base):
            return form.call(base, x, self.compute_full_weight(), self.merged_bias())
        y = base(x)
        if form.dense:
            self.check_output(x, y)
            # As marked by the very `update` that is called, not by one that it overrides.
            if getattr(type(self).update, "is_additive", False):
                return self.update(x, y)
        return self.with_moved_bias(y + self.apply_change(x, y.dtype))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        """The output for input x, given y = base(x)."""
        raise NotImplementedError

    def merge(self) -> nn.Module:
        """The plain layer of equal function."""
        raise NotImplementedError

    def apply_change(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(W - W0) x, x behind the layer's dropout; in the dtype of W0 unless told another."""
        dtype = self.W0.dtype if dtype is None else dtype
        if self.form is Embedding:
            return self.look_up_change(x, dtype)
        x = self.drop_inputs(x).to(dtype)
        return self.form.call(self.base, x, self.compute_change().to(dtype), None)

    def with_moved_bias(self, y: Tensor) -> Tensor:
        """An output y with the change of the bias; y itself if the bias stays."""
        bias, b0 = self.merged_bias(), self.b0
        if bias is None or bias is b0:
            return y
        moved = bias if b0 is None else bias - b0
        behind = -1 - self.form.find_channel(self.base)  # dimensions after that of d_out
        return y + moved.to(y.dtype).view(-1, *[1] * behind)

    def look_up_change(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(W - W0) for the tokens x alone; dropout leaves out whole tokens, ones of their vectors.

        The whole of W is made where a method does not say its factors.
        """
        factors = self.factors()
        if factors is None:
            found = Embedding.call(self.base, x, self.compute_change(), None)
        else:
            A, B, scale = factors
            found = F.linear(Embedding.call(self.base, x, A, None), scale * B)
        found = found.to(dtype)
        kept = self.drop_inputs(torch.ones_like(found[..., :1])) if self.dropping() else None
        return found if kept is None else found * kept

    def dropping(self) -> bool:
        """Return whether this call drops inputs at random, so that no one weight describes it."""
        return any(
            isinstance(part, nn.Dropout) and part.training and part.p > 0
            for part in self.children()
        )

    def drop_inputs(self, x: Tensor) -> Tensor:
        """x behind the layer's dropout, if it has one."""
        for part in self.children():
            if isinstance(part, nn.Dropout):
                x = part(x)
        return x

    def check_output(self, x: Tensor, y: Any) -> None:
        """Raise ValueError for an output of a base that its weight could not have."""
        shape = (*x.shape[:-1], self.shape[0])
        if not isinstance(y, Tensor) or y.shape != shape:
            found = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{type(self.base).__name__} returns {found} where its weight gives {list(shape)}: "
                "there is nothing that an adapter could be added to; leave it out of the targets."
            )

    def check_readable(self) -> None:
        """Raise ValueError for a base that alone is on the meta device."""
        weight = self.base._parameters.get("weight")  # asked alone, as this is asked often
        held = self.base.buffers() if weight is None else (weight,)
        if not any(tensor.is_meta for tensor in held):
            return
        own = (getattr(*place) for place in self.list_own_tensors())
        if not all(tensor.is_meta for tensor in own):
            raise ValueError(
                f"The weight of this {type(self.base).__name__} is on the meta device, offloaded "
                "or not loaded yet, and the adapter computes with it; load it first."
            )


def is_precise(x: Tensor, base: nn.Module) -> bool:
    """Return whether W can be used in the dtype of x without rounding a small change away."""
    dtype: torch.dtype = base.weight.dtype  # type: ignore[assignment]
    return x.dtype == dtype in MERGED and not is_autocasting(x.device)


def check_mergeable(base: nn.Module) -> None:
    """Raise ValueError for a base that does more than its weight says: no weight equals it."""
    kind = type(base).__name__
    if not has_known_forward(base):
        raise ValueError(
            f"{kind} has a forward pass of its own, so no {kind} equals it and its adapter; if "
            f"that is x W^T + b, mark it: variants.forms.mark_linear_map({kind}.forward)."
        )
    if is_hooked(base):
        raise ValueError(
            f"The {kind} below the adapter has hooks, which act on its output alone and would act "
            "on the merged one; remove them first."
        )
