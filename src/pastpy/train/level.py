"""Set the level of every gene once a model is trained: what its cells add up to is what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pastpy.models.past import PAST
    from pastpy.train.data import Section

__all__ = ["set_levels"]

#: Shares are normalised, so a gene's level moves the others' a little; it settles within a few rounds.
_ROUNDS = 4


def set_levels(model: PAST, train: list[Section]) -> None:
    """Shift the decoders' baselines until every gene's predicted total over the training spots is the counted one.

    The loss on log profiles looks for a mean of logarithms, and the likelihood lets a background explain part of the
    counts; both leave the level of single genes' shares too low or too high, which correlations do not see, but counts
    and intervals do. Predictions of one gene keep their order but for what the other genes' shifts do to its share.

    Parameters
    ----------
    model
        The trained model; its decoders' and its linear readout's biases are changed.
    train
        Training sections; the original view is used.
    """
    import torch

    from pastpy.train.card import predicted_share
    from pastpy.train.loop import aligned_counts

    counts = [aligned_counts(s.counts, s.genes, model.gene_names) for s in train]
    for _ in range(_ROUNDS):
        counted, expected = np.zeros((2, len(model.gene_names)))
        for section, measured in zip(train, counts, strict=True):
            share = predicted_share(model, section)
            seen = np.isfinite(share).all(axis=1)
            counted += measured[seen].sum(axis=0)
            expected += measured[seen].sum(axis=1) @ share[seen]
        # half a count keeps genes that were never counted finite
        shift = np.log((counted + 0.5) / (expected + 0.5))
        with torch.no_grad():
            for member in model.members:
                member.decoder.bias.add_(torch.from_numpy(shift).to(member.decoder.bias))
            if model.linear is not None:
                model.linear.bias.add_(torch.from_numpy(shift).to(model.linear.bias))
