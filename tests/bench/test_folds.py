"""Folds are refused where a donor or a section stands on both sides, and hide what was measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spatialdata import SpatialData

from pastpy.bench import FeatureMethod, hest, nested_intervals, ridge, run_loso
from pastpy.bench._folds import blind, canonical_donors, make_folds
from pastpy.bench._shared_units import refuse_shared_units

SEEN = FeatureMethod(lambda sdata: sdata["spots"].obsm["spatial"], ridge(alpha=1.0, n_components=None))


@given(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=9), st.sampled_from(["section", "donor"]))
def test_no_donor_on_both_sides_ever(donors, hold_out):
    donor_of = {f"s{i}": d for i, d in enumerate(donors)}
    try:
        folds = make_folds(donor_of, donor_of, hold_out=hold_out, within_patient=False)
    except ValueError as error:
        several = len(set(donors)) < len(donors) if hold_out == "section" else len(set(donors)) < 2
        assert several and ("both sides" in str(error) or "it needs both" in str(error))
        return
    held = [s for _, test in folds.values() for s in test]
    assert sorted(held) == sorted(donor_of)
    for train, test in folds.values():
        assert not {donor_of[s] for s in train} & {donor_of[s] for s in test}


@pytest.mark.parametrize(
    ("donors", "options", "message"),
    [
        (None, {}, "the donor of 6 sections is unknown"),
        ({"s0": "P0"}, {}, "the donor of 5 sections is unknown"),
        ("all", {}, "donor 'P0' stands on both sides"),
        ("all", {"folds": [(["s0", "s2"], ["s1"])]}, "donor 'P0' stands on both sides"),
        ("all", {"folds": [(["s2", "s0"], ["s0"])]}, "on both sides"),
        ("all", {"folds": [(["s2"], ["s9"])]}, "sections that are not there: \\['s9'\\]"),
        ("all", {"folds": [([], ["s1"])]}, "it needs both"),
    ],
)
def test_every_protocol_fails_closed(cohort, donors, options, message):
    sections, donor_of = cohort
    given_donors = donor_of if donors == "all" else donors
    for protocol in (
        lambda: run_loso(sections, {"m": SEEN}, donors=given_donors, **options),
        lambda: (
            hest(sections, {"m": SEEN.extract}, donors=given_donors, **({"folds": [(["s0"], ["s1"])]} | options))
            if donors == "all"
            else hest(sections, {"m": SEEN.extract}, donors=given_donors)
        ),
        lambda: nested_intervals(sections, SEEN, donors=given_donors, **({"hold_out": "section"} | options)),
    ):
        with pytest.raises(ValueError, match=message):
            protocol()


@pytest.mark.parametrize("nobody", [None, float("nan"), pd.NA, pd.NaT, "", "  ", "nan"], ids=repr)
def test_a_missing_donor_is_unknown_everywhere(cohort, nobody):
    sections, donor_of = cohort
    donors = {**donor_of, "s3": nobody}
    for protocol in (
        lambda: make_folds(sections, donors, hold_out="donor", within_patient=False),
        lambda: run_loso(sections, {"m": SEEN}, donors=donors, hold_out="donor"),
        lambda: nested_intervals(sections, SEEN, donors=pd.Series(donors, dtype=object)),
    ):
        with pytest.raises(ValueError, match=r"the donor of 1 sections is unknown, e.g. \['s3'\]"):
            protocol()


@pytest.mark.parametrize("one", [("P1", "P1 "), (1, 1.0), (np.int64(1), "1"), (np.float32(2), " 2")])
def test_two_spellings_of_a_donor_stand_on_no_two_sides(one):
    with pytest.raises(ValueError, match="stands on both sides"):
        make_folds("ab", dict(zip("ab", one, strict=True)), hold_out="section", within_patient=False)


def test_names_of_donors():
    assert canonical_donors({"a": "P1 ", "b": 2.0, "c": 2.5, "d": "01"}) == {"a": "P1", "b": "2", "c": "2.5", "d": "01"}
    # a table of donors: repeated rows do no harm, contradictory ones are refused, of the sections in question alone
    rows = pd.Series(["P1", "P1 ", "P2", "P3"], index=["a", "a", "b", "b"])
    assert canonical_donors(rows[:3], ["b", "a"]) == {"b": "P2", "a": "P1"}
    with pytest.raises(ValueError, match=r"section 'b' is listed with the donors \['P2', 'P3'\]"):
        canonical_donors(rows)
    assert canonical_donors(rows, ["a"]) == {"a": "P1"}
    with pytest.raises(ValueError, match="donors 'P1' and 'p1' differ by upper and lower case alone"):
        canonical_donors({"a": "P1", "b": "p1"})


def test_a_section_under_another_name_is_found(cohort, make_section):
    sections, donor_of = cohort
    copy = sections["s0"]["spots"][::-1, ::-1].copy()
    copy.obs_names = [f"other{i}" for i in range(copy.n_obs)]
    twice = {**sections, "again": SpatialData(tables={"spots": copy})}
    with pytest.raises(ValueError, match="'s0' and 'again' share 60 units"):
        run_loso(twice, {"m": SEEN}, donors={**donor_of, "again": "P9"}, hold_out="donor")
    # a tenth of a section is enough to be found; sections of one kind of tissue are not
    part = copy[:6].copy()
    with pytest.raises(ValueError, match="share 6 units"):
        refuse_shared_units({"s0": sections["s0"]["spots"], "part": part})
    refuse_shared_units({name: s["spots"] for name, s in sections.items()})


def test_nothing_measured_is_left(breast):
    breast["spots"].layers["log"] = breast["spots"].X
    breast["spots"].obsm["pca"] = np.ones((breast["spots"].n_obs, 2))
    breast["spots"].obs["total"] = 1.0
    hidden = blind(breast)
    table = hidden["spots"]
    assert table.n_vars == 0 and set(table.layers) <= {None} and list(table.obsm) == ["spatial"]
    assert "total" not in table.obs and table.obs_names.equals(breast["spots"].obs_names)
    assert list(hidden.images) == ["he"] and not list(hidden.points)
    assert set(table.uns["past"]) == {"read_st"}
    # and the user's object is as it was
    assert breast["spots"].n_vars > 0 and "pca" in breast["spots"].obsm


def test_only_what_is_named_is_left(breast):
    """Every place of an object that can carry numbers, filled with them."""
    from spatialdata.models import Image2DModel, Labels2DModel

    expected = breast.shapes["spot_circles"][["geometry", "radius"]].copy()
    breast.shapes["spot_circles"]["ERBB2"] = 1.0
    breast.shapes["spot_circles"].attrs["ERBB2"] = 1.0
    breast.attrs["ERBB2"] = breast.attrs["past"]["ERBB2"] = 1.0
    breast.attrs["past"]["added"] = ["stain"]
    breast["spots"].uns["spatialdata_attrs"]["ERBB2"] = breast["spots"].uns["past"]["read_st"]["ERBB2"] = 1.0
    breast["spots"].obsm["spatial"] = np.column_stack([breast["spots"].obsm["spatial"], np.ones(49)])
    genes = breast["spots"].var_names[:3].tolist()
    for name, channels in {"stain": 3, "many": 5, "genes": genes}.items():
        n = channels if isinstance(channels, int) else len(channels)
        pixels = np.ones((n, 4, 4), dtype=np.uint8)
        breast.images[name] = Image2DModel.parse(pixels, dims="cyx", c_coords=genes if name == "genes" else None)
    breast.labels["clusters"] = Labels2DModel.parse(np.ones((4, 4), dtype=int), dims="yx")

    hidden = blind(breast)
    assert list(hidden.images) == ["he"] and not list(hidden.labels)
    pd.testing.assert_frame_equal(hidden.shapes["spot_circles"], expected)
    assert set(hidden.shapes["spot_circles"].attrs) == {"transform"}
    assert set(hidden.attrs) == {"past"} and set(hidden.attrs["past"]) <= {"mpp", "objective_power", "added"}
    assert hidden.attrs["past"]["mpp"] == breast.attrs["past"]["mpp"]
    assert hidden["spots"].obsm["spatial"].shape == (49, 2)
    assert "ERBB2" not in hidden["spots"].uns["spatialdata_attrs"]
    assert set(hidden["spots"].uns["past"]["read_st"]) == {"mpp", "spot_diameter_um"}
    # another image is the H&E if one says so
    assert list(blind(breast, image_key="stain").images) == ["stain"]
    with pytest.raises(KeyError, match="no image named 'slide'"):
        blind(breast, image_key="slide")


def test_methods_see_no_expression_of_held_out_sections(cohort):
    sections, donor_of = cohort
    seen = []

    def spy(fold):
        assert not set(fold.test) & set(fold.train)
        seen.extend(table.n_vars for table in fold.tables("test").values())
        return SEEN(fold)

    run_loso(sections, {"spy": spy}, donors=donor_of, hold_out="donor", n_genes=5)
    assert seen == [0] * 6
