"""Nothing that a method does reaches its rivals or the caller, and copies of held-out units are found."""

from __future__ import annotations

import unicodedata

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from shapely import Point
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, PointsModel, ShapesModel
from spatialdata.transformations import Scale, get_transformation, set_transformation

from pastpy._donors import donor_key, donor_names
from pastpy.bench import FeatureMethod, linear_probe, nested_intervals, ridge, run_loso
from pastpy.bench._baselines import gene_mean
from pastpy.bench._folds import blind, canonical_donors, make_folds, own_copy
from pastpy.bench._shared_units import refuse_shared_units
from pastpy.metrics import expression

SEEN = FeatureMethod(lambda sdata: sdata["spots"].obsm["spatial"], ridge(alpha=1.0, n_components=None))


def whole(make_section, seed=0, scale_factors=None) -> SpatialData:
    """A section with an element of every kind."""
    sdata = make_section(seed)
    pixels = np.random.default_rng(seed).integers(1, 255, (3, 64, 64), dtype=np.uint8)
    sdata.images["he"] = Image2DModel.parse(pixels, dims="cyx", scale_factors=scale_factors)
    circles = {"geometry": [Point(0, 0), Point(1, 1)], "radius": [1.0, 1.0]}
    import geopandas

    sdata.shapes["circles"] = ShapesModel.parse(geopandas.GeoDataFrame(circles))
    sdata.points["transcripts"] = PointsModel.parse(pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0]}))
    sdata.attrs["past"] = {"mpp": {"he": 0.5}}
    return sdata


def finest(sdata):
    image = sdata.images["he"]
    return image if hasattr(image, "data") else image["scale0"]["image"]


@pytest.mark.parametrize("scale_factors", [None, [2]])
@pytest.mark.parametrize("copied", [own_copy, blind])
def test_whatever_is_done_to_a_copy_stays_there(make_section, scale_factors, copied):
    sdata = whole(make_section, scale_factors=scale_factors)
    before = np.array(finest(sdata).data)
    own = copied(sdata)
    np.testing.assert_array_equal(np.asarray(finest(own).data), before)
    for element in (own.images["he"], own.shapes["circles"]):
        set_transformation(element, Scale([9.0, 9.0], ("x", "y")), "global")
    finest(own).attrs["note"] = 1
    own.shapes["circles"]["radius"] = 7.0
    own.attrs["past"]["mpp"]["he"] = 99.0
    if copied is own_copy:
        set_transformation(own.points["transcripts"], Scale([9.0, 9.0], ("x", "y")), "global")
        assert "Identity" in str(get_transformation(sdata.points["transcripts"]))
    # the block itself, which is the caller's memory
    with pytest.raises(ValueError, match="read-only"):
        finest(own).data.to_delayed().ravel()[0].compute()[:] = 0
    finest(own).data = finest(own).data * 0
    np.testing.assert_array_equal(np.asarray(finest(sdata).data), before)
    assert all("Identity" in str(get_transformation(e)) for e in (sdata.images["he"], sdata.shapes["circles"]))
    assert "note" not in finest(sdata).attrs
    assert sdata.shapes["circles"]["radius"].tolist() == [1.0, 1.0] and sdata.attrs["past"]["mpp"]["he"] == 0.5


def test_a_rival_sees_the_same_image_after_a_vandal(make_section):
    sections = {f"s{i}": whole(make_section, i) for i in range(3)}
    seen = []

    def vandal(fold):
        for sdata in (*fold.train.values(), *fold.test.values()):
            set_transformation(sdata.images["he"], Scale([9.0, 9.0], ("x", "y")), "global")
            sdata.images["he"].data = sdata.images["he"].data * 0
        return SEEN(fold)

    def rival(fold):
        for sdata in (*fold.train.values(), *fold.test.values()):
            seen.append((float(sdata.images["he"].mean()), str(get_transformation(sdata.images["he"]))))
        return SEEN(fold)

    run_loso(sections, {"vandal": vandal, "rival": rival}, donors={s: s for s in sections}, n_genes=5)
    assert len(seen) == 9 and all(mean > 100 and "Identity" in where for mean, where in seen)


# -- donors ----------------------------------------------------------------------------------------------------------

E = "\u00c9mile"


@pytest.mark.parametrize(
    "one",
    [("1.0", 1), (E, unicodedata.normalize("NFD", E)), ("P1", "P1\u200b"), ("\ufeffP1", "P1"), ("P 1", "P \u00a01"),
     ("P1", "\uff30\uff11"), ("2.50", "2.5")],
)  # fmt: skip
def test_spellings_that_look_alike_are_one_donor(one):
    with pytest.raises(ValueError, match="stands on both sides"):
        make_folds("ab", dict(zip("ab", one, strict=True)), hold_out="section", within_patient=False)
    names = donor_names([*one, "other"])
    assert names[0] == names[1] != names[2]
    # under the spelling that comes first
    assert set(canonical_donors(dict(zip("ab", one, strict=True))).values()) == {str(one[0]).strip()}


@pytest.mark.parametrize("two", [("1", "01"), ("1.0", "10"), ("P1", "P-1"), ("1.2", "1.20.1"), ("P", "P1")])
def test_donors_that_differ_are_two(two):
    assert donor_key(two[0]) != donor_key(two[1])
    assert len(make_folds("ab", dict(zip("ab", two, strict=True)), hold_out="donor", within_patient=False)) == 2


NOBODY = ["unknown", "NA", "n/a", "Null", "None", "?", "\u200b", None, np.nan, pd.NA]


@pytest.mark.parametrize("nobody", NOBODY, ids=repr)
def test_an_unknown_donor_is_refused_or_left_out(nobody):
    with pytest.raises(ValueError, match="donor of 1 sections is unknown"):
        canonical_donors({"a": "P1", "b": nobody})
    truth = pd.DataFrame(np.random.default_rng(0).random((6, 2)))
    with pytest.raises(ValueError, match="1 units have no group"):
        expression(truth, truth, groups=pd.Series([nobody, *"aaabb"]))
    x = np.random.default_rng(0).normal(size=(9, 2))
    found = linear_probe(x, list("uvuvuvuvu"), [nobody, *"aaaabbbb"])
    assert list(found.index) == ["a", "b", "pooled"] and found.loc["pooled", "n_left_out"] == 1


def test_groups_of_one_donor_are_one():
    x = np.random.default_rng(0).normal(size=(8, 2))
    assert list(linear_probe(x, list("uvuvuvuv"), ["a", "a ", "A", "a", *"bbbb"]).index) == ["a", "b", "pooled"]
    assert list(linear_probe(x, ["u", "v", np.nan, *"vuvuv"], [*"aaaabbbb"])["n"]) == [3, 4, 7]
    truth = pd.DataFrame(np.random.default_rng(0).random((6, 2)))
    spelled = expression(truth, truth, groups=pd.Series(["a", "a ", "a", "b", "b", "b"]))
    pd.testing.assert_frame_equal(spelled, expression(truth, truth, groups=pd.Series([*"aaabbb"])))


# -- copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_with_other_genes_is_found(cohort):
    sections, donors = cohort
    table = sections["s0"]["spots"]
    fewer, more = table[:, :29].copy(), table[:, 3:].copy()
    more = ad.concat([more, ad.AnnData(np.ones((more.n_obs, 1)), more.obs[[]], pd.DataFrame(index=["new"]))], axis=1)
    for copy in (fewer, more):
        again = {**sections, "copy": SpatialData(tables={"spots": copy})}
        with pytest.raises(ValueError, match="sections 's0' and 'copy' share 60 units"):
            run_loso(again, {"m": SEEN}, donors={**donors, "copy": "P9"}, hold_out="donor", n_genes=5)


def test_another_table_of_a_training_object_holds_no_held_out_units(cohort):
    sections, donors = cohort

    def with_all(of):
        joint = ad.concat({s: sections[s]["spots"] for s in of}, index_unique="/")
        joint.layers["counts"], joint.X = joint.X, np.zeros(joint.shape)
        return SpatialData(tables={"spots": sections["s0"]["spots"].copy(), "all": joint})

    options = {"donors": donors, "hold_out": "donor", "n_genes": 5, "table_key": "spots"}
    with pytest.raises(ValueError, match="table 'all' of section 's0' holds 60 units of section 's2'"):
        run_loso({**sections, "s0": with_all(["s0", "s2"])}, {"m": SEEN}, **options)
    with pytest.raises(ValueError, match="table 'all' of section 's0' holds 60 units of section 's2'"):
        nested_intervals({**sections, "s0": with_all(["s2"])}, SEEN, **options)
    # of a section that is always on the same side, it may
    run_loso({**sections, "s0": with_all(["s0", "s1"])}, {"m": gene_mean}, **options)


def test_counts_are_compared_in_the_layer_that_has_them(cohort):
    sections, _ = cohort
    tables = {s: sections[s]["spots"].copy() for s in ("s0", "s1")}
    for table in tables.values():
        table.layers["counts"] = table.X.copy()
        table.X = np.ones(table.shape)
    refuse_shared_units(tables, layer="counts")
    tables["s1"].layers["counts"] = tables["s0"].layers["counts"]
    tables["s1"].X = np.random.default_rng(0).random(tables["s1"].shape)
    with pytest.raises(ValueError, match="share 60 units"):
        refuse_shared_units(tables, layer="counts")


@pytest.mark.parametrize(("rate", "n_genes"), [(0.02, 500), (0.2, 200), (0.5, 60), (3.0, 25), (3.0, 5)])
def test_sections_of_one_distribution_are_no_copies(rate, n_genes):
    rng = np.random.default_rng(0)
    genes = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    tables = {s: ad.AnnData(rng.poisson(rate, (500, n_genes)).astype(float), var=genes) for s in "abc"}
    refuse_shared_units(tables)


# -- what is returned ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda frames: None, TypeError, "method 'm' returned NoneType for fold 'P0'; return a dict"),
        (lambda frames: list(frames.values()), TypeError, "method 'm' returned list"),
        (lambda frames: {s: f.to_numpy() for s, f in frames.items()}, TypeError, "is ndarray; return a DataFrame"),
        (lambda frames: {s: ad.AnnData(f) for s, f in frames.items()}, TypeError, "is AnnData; return a DataFrame"),
        (lambda frames: {s: pd.concat([f, f]) for s, f in frames.items()}, ValueError, "has a unit twice, 'u0'"),
        (lambda frames: {s: pd.concat([f, f], axis=1) for s, f in frames.items()}, ValueError, "has a gene twice"),
    ],
)
def test_what_is_no_prediction_is_refused(cohort, spoil, error, message):
    sections, donors = cohort
    with pytest.raises(error, match=message):
        run_loso(sections, {"m": lambda fold: spoil(SEEN(fold))}, donors=donors, hold_out="donor", n_genes=5)


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_names_that_stand_twice_are_refused(cohort, axis):
    sections, donors = cohort
    table = sections["s0"]["spots"].copy()
    names = [*getattr(table, f"{axis}_names")[:-1], getattr(table, f"{axis}_names")[0]]
    setattr(table, f"{axis}_names", names)
    twice = {**sections, "s0": SpatialData(tables={"spots": table})}
    with pytest.raises(ValueError, match=f"section 's0': {axis}_names of its table are not unique"):
        run_loso(twice, {"m": SEEN}, donors=donors, hold_out="donor", n_genes=5)
