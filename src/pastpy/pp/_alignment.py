"""Whether cells or spots sit on the image they are paired with."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import numpy as np

from pastpy import _elements, _keys
from pastpy._warn import warn_user
from pastpy.pp._alignment_evidence import Evidence, gather_evidence
from pastpy.pp._alignment_verdict import is_unmatched, judge
from pastpy.pp._parameters import check_whole, is_finite

if TYPE_CHECKING:
    from pandas import DataFrame
    from spatialdata import SpatialData

    from pastpy._elements import UnitGeometry
    from pastpy.engine import Workers

__all__ = ["check_alignment", "guard"]

OnMisaligned = Literal["warn", "raise", "ignore"]

#: Windows that a guard reads: enough for a shift to stand out, few enough for a second or two.
_GUARD_WINDOWS = 6
#: A residual shift of cells that is usual, µm.
_TOLERANCE_UM = 5.0


def check_alignment(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    dapi_key: str | None = None,
    mpp: float | None = None,
    coordinate_system: str = _keys.COORDINATE_SYSTEM,
    tolerance_um: float = _TOLERANCE_UM,
    n_windows: int = 16,
    seed: int = 0,
) -> DataFrame:
    """Check that cells or spots lie where the image shows them, the right way round and to scale.

    For cells, the density of their centroids is correlated with haematoxylin (optical density by colour deconvolution)
    in random windows of 256 µm on the tissue, over shifts up to 48 µm, for the eight orientations of the slide and
    scales of 1, ½ and 2. A shift counts only where it stands out beyond doubt and the windows agree on it. For spots,
    too coarse for that, it is asked whether they lie on tissue and would lie there in another orientation too, whether
    their total counts follow haematoxylin, and at which shift the stain around them predicts their expression best. The
    µm/px itself is checked by the width of the image's nuclei, and for spots that pastpy read by what is known of their
    array: how wide they are, and how far apart.

    Parameters
    ----------
    sdata
        Object with an H&E image, and a table that annotates shapes.
    image_key, shapes_key, table_key
        Names of the elements; defaults as everywhere, except that the image at ``dapi_key`` is no candidate.
    dapi_key
        Name of a DAPI image (one channel, or one called ``"DAPI"``) that the shapes come from: it is then what is
        correlated with haematoxylin, rather than the cells' centroids.
    mpp
        µm per level-0 pixel of the H&E; default: what the reader stored.
    coordinate_system
        Where image and shapes meet.
    tolerance_um
        A larger residual shift of cells is suspicious, µm; one of spots, where it is larger beyond doubt.
    n_windows
        Windows that are compared.
    seed
        Where the windows lie.

    Returns
    -------
    DataFrame with one row, indexed by the shapes' name:

    - ``image``, ``table``, ``unit`` (``"cell"`` or ``"spot"``: wider than 25 µm), ``n`` (units with a place);
    - ``on_image``, ``on_tissue``: shares of the units;
    - ``orientation``, ``scale``: what must be done to the units' positions to fit best, ``"identity"`` and 1 if
      nothing; ``None`` and NaN where nothing stands out;
    - ``shift_x_um``, ``shift_y_um``: how far right and down of its nucleus a cell then lies, or a spot of the place
      where the image predicts expression best; NaN where unknown. ``shift_error_um``: of spots, its standard error by
      bootstrap, along the worse axis;
    - ``score``: correlation at that shift (of spots: of counts with haematoxylin, as they lie); ``z``: how far it
      stands out; ``resolution_um``: smaller shifts would not be seen;
    - ``nuclear_width_um``: width of the image's nuclei, by the scale of haematoxylin's blobs; NaN above 2 µm/px;
    - ``verdict``: ``"ok"``, ``"suspicious"`` or ``"unknown"``; ``reason``: why, in words.

    Raises
    ------
    KeyError
        If an element cannot be told.
    ValueError
        If µm/px is unknown, the image is not RGB, an element is not in the coordinate system, or ``tolerance_um``,
        ``n_windows`` or ``seed`` is out of range.

    Notes
    -----
    What it cannot see: shifts of spots below ``resolution_um``, errors of µm/px by less than some 1.5 times, twofold
    ones in tissue whose nuclei are unusually small or large, and cells of another section than the image's
    (``"unknown"``).

    References
    ----------
    Lewis, Fast Normalized Cross-Correlation, Vision Interface (1995).
    Lindeberg, Int J Comput Vis 30:79–116 (1998): scale of blobs.
    Ruifrok & Johnston, Anal Quant Cytol Histol 23:291–299 (2001): colour deconvolution.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.pp.segment_nuclei(sdata)
    >>> past.pp.check_alignment(sdata).loc["nuclei", ["orientation", "verdict"]].tolist()
    ['identity', 'ok']
    """
    import pandas as pd

    sdata = _elements.require_spatialdata(sdata)
    table_key = _elements.resolve_table(sdata, table_key)
    image_key, dapi_key = _resolve_images(sdata, image_key, dapi_key)
    shapes_key = _elements.resolve_shapes(sdata, shapes_key, table_key=table_key)
    mpp = _elements.resolve_mpp(sdata, image_key, mpp)
    check_whole("n_windows", n_windows, least=2)
    check_whole("seed", seed, least=0)
    if not (is_finite(tolerance_um) and tolerance_um > 0):
        raise ValueError(f"tolerance_um must be a positive finite number of µm, got {tolerance_um!r}")
    units = _elements.unit_geometry(
        sdata, table_key, shapes_key, image_key, mpp=mpp, coordinate_system=coordinate_system
    )
    evidence = gather_evidence(
        sdata, image_key, table_key, units, dapi_key=dapi_key, coordinate_system=coordinate_system,
        n_windows=n_windows, seed=seed,
    )  # fmt: skip
    verdict = judge(evidence, tolerance_um=tolerance_um, seed=seed)
    row = {"image": image_key, "table": table_key, **_facts(evidence), **asdict(verdict)}
    return pd.DataFrame([row], index=pd.Index([shapes_key], name="shapes"))


def _resolve_images(sdata: SpatialData, image_key: str | None, dapi_key: str | None) -> tuple[str, str | None]:
    """Names of the H&E and of the DAPI image: of two images, the H&E is the one that is not DAPI."""
    from spatialdata import SpatialData

    if dapi_key is None:
        return _elements.resolve_image(sdata, image_key), None
    dapi_key = _elements.resolve_image(sdata, dapi_key)
    if image_key is not None or len(sdata.images) == 1:
        return _elements.resolve_image(sdata, image_key), dapi_key
    others = {name: image for name, image in sdata.images.items() if name != dapi_key}
    return _elements.resolve_image(SpatialData(images=others, attrs=sdata.attrs)), dapi_key


def _facts(evidence: Evidence) -> dict[str, object]:
    return {
        "unit": evidence.unit,
        "n": len(evidence.points),
        "on_image": evidence.on_image,
        "on_tissue": evidence.on_tissue(evidence.points),
    }


def guard(
    sdata: SpatialData,
    *,
    image_key: str,
    shapes_key: str,
    table_key: str,
    units: UnitGeometry,
    coordinate_system: str,
    on_misaligned: OnMisaligned,
    workers: Workers | None = None,
) -> None:
    """Warn about a suspicious pair of image and table, or refuse it.

    Does nothing where pastpy segmented the shapes from this image and nobody moved them. Where cells match the image's
    nuclei in no orientation, nothing is refused, since they may be too few to tell or the image too coarse, but warned
    of. Spots, and cells that are too few for the check, are passed over where it cannot tell.

    Parameters
    ----------
    sdata
        Object with the elements.
    image_key, shapes_key, table_key, coordinate_system
        As for :func:`check_alignment`, all resolved.
    units
        The table's rows on the image.
    on_misaligned
        ``"warn"``, ``"raise"`` or ``"ignore"``.
    workers
        Of a Dask cluster, which then read the overview of a large image.

    Raises
    ------
    ValueError
        If the pair is suspicious and ``on_misaligned="raise"``, or that argument is none of the three.
    """
    if on_misaligned not in ("warn", "raise", "ignore"):
        raise ValueError(f"on_misaligned={on_misaligned!r} is unknown; use 'warn', 'raise' or 'ignore'")
    if on_misaligned == "ignore" or _own(sdata, image_key, shapes_key, table_key, coordinate_system):
        return
    evidence = gather_evidence(
        sdata, image_key, table_key, units, dapi_key=None, coordinate_system=coordinate_system,
        n_windows=_GUARD_WINDOWS, seed=0, workers=workers,
    )  # fmt: skip
    verdict = judge(evidence, tolerance_um=_TOLERANCE_UM)
    if is_unmatched(verdict, evidence):
        warn_user(
            f"whether shapes {shapes_key!r} lie on image {image_key!r} cannot be told: {verdict.reason}. Look at both "
            "before you trust the results; on_misaligned='ignore' goes on without a word"
        )
    if verdict.verdict != "suspicious":
        return
    message = (
        f"shapes {shapes_key!r} and image {image_key!r} do not seem to fit: {verdict.reason}. See "
        "pastpy.pp.check_alignment(sdata); on_misaligned='ignore' goes on without a word"
    )
    if on_misaligned == "raise":
        raise ValueError(message)
    warn_user(message)


def _own(sdata: SpatialData, image_key: str, shapes_key: str, table_key: str, coordinate_system: str) -> bool:
    """Whether pastpy segmented the shapes from this image, and they still lie there."""
    made = sdata.tables[table_key].uns.get(_keys.PAST, {}).get("segment_nuclei", {})
    if made.get("image_key") != image_key:
        return False
    affine = _elements.level0_affine(
        sdata, sdata.shapes[shapes_key], image_key, name=shapes_key, coordinate_system=coordinate_system
    )
    return bool(np.allclose(affine, np.eye(3), atol=1e-3))
