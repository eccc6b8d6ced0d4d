"""Periodic textures for the drawing of simulated tissue: the same pixel has the same value in whichever window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["Textures", "make_textures"]

#: Side of a texture, px. A pattern repeats after this; fields of the architecture, which do not repeat, break it up.
PERIOD = 1024
_DIRECTIONS = 12


@dataclass(frozen=True)
class Textures:
    """Standardised float32 textures with period :data:`PERIOD`.

    Attributes
    ----------
    white, fine, coarse, clouds
        (period, period): noise of a pixel, of 0.5 µm (chromatin), 1.6 µm (granules) and 8 µm.
    fibres
        (directions, period, period): wavy strands along ``k · π / directions``.
    """

    white: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    clouds: np.ndarray
    fibres: np.ndarray

    def window(self, name: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """A window of an isotropic texture at rows ``y`` and columns ``x`` (any integers)."""
        return getattr(self, name)[np.ix_(y % PERIOD, x % PERIOD)]

    def strands(self, y: np.ndarray, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Strands at rows ``y`` and columns ``x`` along a direction (len(y), len(x)), radians."""
        turn = (direction / np.pi % 1) * _DIRECTIONS
        k = turn.astype(np.intp) % _DIRECTIONS
        w = (turn - np.floor(turn)).astype(np.float32)
        at = k * PERIOD**2 + (y % PERIOD)[:, None] * PERIOD + (x % PERIOD)
        following = at + np.where(k == _DIRECTIONS - 1, -(_DIRECTIONS - 1), 1) * PERIOD**2
        flat = self.fibres.ravel()
        # Two independent patterns are mixed, so the variance of a plain mean would dip between directions.
        return ((1 - w) * flat[at] + w * flat[following]) / np.sqrt((1 - w) ** 2 + w**2)


@cache
def make_textures(mpp: float) -> Textures:
    """Textures for pixels of ``mpp`` µm, always the same: 64 MB, and some two seconds the first time."""
    from scipy.fft import fftfreq, rfftfreq

    rng = np.random.default_rng(20)
    ky = fftfreq(PERIOD, mpp)[:, None].astype(np.float32)
    kx = rfftfreq(PERIOD, mpp)[None].astype(np.float32)
    k2 = (2 * np.pi) ** 2 * (ky**2 + kx**2)

    def band(length_um: float) -> np.ndarray:
        # Blobs of one size: what is much larger is taken off as well.
        return _noise(np.exp(-k2 * length_um**2 / 2) - 0.6 * np.exp(-k2 * (2.5 * length_um) ** 2 / 2), rng)

    # All directions wave alike, so that they can be mixed.
    wave = np.stack([_noise(np.exp(-k2 * 11.0**2 / 2), rng) * (3.5 / mpp) for _ in range(2)])
    fibres = [_strands(k * np.pi / _DIRECTIONS, kx, ky, wave, rng) for k in range(_DIRECTIONS)]
    return Textures(
        white=rng.standard_normal((PERIOD, PERIOD), dtype=np.float32),
        fine=band(0.45), coarse=band(1.6), clouds=_noise(np.exp(-k2 * 8.0**2 / 2), rng), fibres=np.stack(fibres),
    )  # fmt: skip


def _noise(spectrum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Standardised periodic noise with this amplitude spectrum."""
    from scipy.fft import irfft2, rfft2

    field = irfft2(rfft2(rng.standard_normal((PERIOD, PERIOD), dtype=np.float32)) * spectrum, s=(PERIOD, PERIOD))
    field -= field.mean()
    return (field / field.std()).astype(np.float32)


def _strands(angle: float, kx: np.ndarray, ky: np.ndarray, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    along, across = kx * np.cos(angle) + ky * np.sin(angle), ky * np.cos(angle) - kx * np.sin(angle)

    def bundle(length_um: float, width_um: float) -> np.ndarray:
        return np.exp(-2 * np.pi**2 * ((along * length_um) ** 2 + (across * width_um) ** 2))

    # Sums of spectra of unit power: thick bundles and fine fibres.
    thick, fine = bundle(22.0, 2.6), bundle(14.0, 0.8)
    straight = _noise(0.7 * thick / np.sqrt((thick**2).mean()) + 0.55 * fine / np.sqrt((fine**2).mean()), rng)
    wavy = map_coordinates(
        straight, np.mgrid[:PERIOD, :PERIOD].astype(np.float32) + wave, order=1, mode="grid-wrap", prefilter=False
    )
    return ((wavy - wavy.mean()) / wavy.std()).astype(np.float32)
