"""Negative binomial: likelihood, deviance and predictive moments of counts.

Parametrised by the mean ``mu`` and the inverse dispersion ``theta``: variance = mu + mu² / theta.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["nb_log_likelihood", "zinb_log_likelihood"]


def nb_log_likelihood(counts: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Log probability of counts, elementwise.

    Parameters
    ----------
    counts
        Non-negative counts.
    mu
        Mean, positive, broadcastable to ``counts``.
    theta
        Inverse dispersion, positive, broadcastable to ``counts``.

    References
    ----------
    Lopez et al., Nat Methods 15:1053 (2018), doi:10.1038/s41592-018-0229-2.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(())
    >>> round(nb_log_likelihood(torch.tensor(0.0), one, one).exp().item(), 4)
    0.5
    """
    log_total = torch.log(theta + mu)
    return (
        torch.lgamma(counts + theta)
        - torch.lgamma(theta)
        - torch.lgamma(counts + 1)
        + theta * (torch.log(theta) - log_total)
        + counts * (torch.log(mu) - log_total)
    )


def zinb_log_likelihood(
    counts: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor, zero_logit: torch.Tensor
) -> torch.Tensor:
    """Log probability of counts under a negative binomial with added zeros, elementwise.

    Parameters
    ----------
    counts, mu, theta
        As in :func:`nb_log_likelihood`.
    zero_logit
        Log odds of a zero that does not come from the negative binomial.

    References
    ----------
    Lopez et al., Nat Methods 15:1053 (2018), doi:10.1038/s41592-018-0229-2.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(())
    >>> round(zinb_log_likelihood(torch.tensor(0.0), one, one, torch.tensor(0.0)).exp().item(), 4)
    0.75
    """
    nb = nb_log_likelihood(counts, mu, theta)
    counted = F.logsigmoid(-zero_logit) + nb
    return torch.where(counts > 0, counted, torch.logaddexp(F.logsigmoid(zero_logit), counted))
