"""Tokens of cells, as the model's parts hand them to each other: a token that is not there is NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_matrix

__all__ = ["join_tokens", "known_depth", "pad_rows", "split_absent", "unknown_as_nan"]


def join_tokens(
    image_tokens: torch.Tensor | None,
    expression_tokens: torch.Tensor | None,
    has_expression: torch.Tensor | None = None,
    *,
    members: int = 1,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens of both modalities side by side, member by member, and which of them are padding.

    Examples
    --------
    >>> image, expression = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[2.0], [4.0]]])
    >>> join_tokens(image, expression, members=2)[0].ravel().tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    if image_tokens is None or expression_tokens is None:
        only = expression_tokens if image_tokens is None else image_tokens
        if only is None:
            raise ValueError("a prediction needs image tokens, expression tokens, or both; got neither")
        return split_absent(only)
    if has_expression is not None:
        expression_tokens = expression_tokens.masked_fill(~has_expression[:, None, None], float("nan"))
    sides = [tokens.unflatten(1, (members, -1)) for tokens in (image_tokens, expression_tokens)]
    return split_absent(torch.cat(sides, dim=2).flatten(1, 2))


def split_absent(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens (n, t, dim) with zeros for those that are NaN, and which these are, bool (n, t); ``None`` if none is.

    Examples
    --------
    >>> filled, padding = split_absent(torch.tensor([[[1.0], [float("nan")]]]))
    >>> filled.tolist(), padding.tolist()
    ([[[1.0], [0.0]]], [[False, True]])
    """
    absent = tokens[..., 0].isnan()
    if not absent.any():
        return tokens, None
    return tokens.masked_fill(absent[..., None], 0.0), absent


def unknown_as_nan(embedding: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Embedding (n, d), NaN where none of its tokens (n, t, dim) is there."""
    return embedding.masked_fill(tokens[..., 0].isnan().all(dim=1)[:, None], float("nan"))


def known_depth(counts: csr_matrix, columns: np.ndarray) -> np.ndarray:
    """Counts of each cell over the genes that the model knows, float64 (n,)."""
    import numpy as np

    return np.asarray(counts @ (columns >= 0).astype(float)).ravel()


def pad_rows(counts: csr_matrix, columns: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Non-zero known counts of each row, left-aligned: genes int64 and values float32, (n, k), padded with −1 and 0.

    Columns of one gene, as symbols that stand twice have them, are summed.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> genes, values = pad_rows(csr_matrix([[1, 2, 4]]), np.array([7, -1, 7]))
    >>> genes.tolist(), values.tolist()
    ([[7]], [[5.0]])
    """
    import numpy as np
    from scipy.sparse import csr_matrix

    known = counts[:, np.flatnonzero(columns >= 0)].tocsr()
    vocabulary = columns[columns >= 0]
    once, position = np.unique(vocabulary, return_inverse=True)
    if len(once) < len(vocabulary):
        # sums of small integers may be none
        known = csr_matrix(
            (known.data.astype(np.float64), position[known.indices], known.indptr), shape=(known.shape[0], len(once))
        )
        known.sum_duplicates()
        vocabulary = once
    known.eliminate_zeros()
    lengths = np.diff(known.indptr)
    at = np.arange(known.nnz) - np.repeat(known.indptr[:-1], lengths)
    rows = np.repeat(np.arange(known.shape[0]), lengths)
    genes = np.full((known.shape[0], int(lengths.max(initial=1))), -1, dtype=np.int64)
    values = np.zeros(genes.shape, dtype=np.float32)
    genes[rows, at], values[rows, at] = vocabulary[known.indices], known.data
    return torch.from_numpy(genes), torch.from_numpy(values)
