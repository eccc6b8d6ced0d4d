from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import pastpy as past
from pastpy.tl import _stain_image
from pastpy.tl._virtual_stain import virtual_stain


@pytest.fixture
def sdata(toy_sdata):
    """Forty painted nuclei with ERBB2 rising from cell to cell, a card and its scores."""
    sdata = toy_sdata()
    table = sdata.tables["cells"]
    table.obsm["past_expression"] = pd.DataFrame({"ERBB2": np.linspace(0, 3, 40)}, index=table.obs_names)
    table.uns["past"] = {
        "impute_expression": {
            "reference": {"gene": ["ERBB2"], "q05": [0.5], "q95": [2.5]},
            "scores": {"gene": ["ERBB2"], "validation_r": [0.61], "statement": "same patient, validation section"},
        }
    }
    return sdata


def bars(figure) -> list[float]:
    return [patch.get_width() for ax in figure.axes for patch in ax.patches if patch.get_gid() == "scale_bar"]


def test_two_panels_of_the_same_part(sdata):
    virtual_stain(sdata, "HER2")
    figure = past.pl.virtual_stain(sdata, crop=(10, 20, 90, 100))
    he, stain = figure.axes
    assert (he.get_title(), stain.get_title()) == ("H&E", "virtual HER2 stain")
    assert he.get_xlim() == stain.get_xlim() == (10, 90)
    assert he.get_ylim() == stain.get_ylim() == (100, 20)
    assert bars(figure) == [20, 20]
    shown = np.asarray(stain.images[0].get_array()) * 255
    made = np.asarray(sdata.images["virtual_stain"]["scale0"]["image"].data)[:, 40:200, 20:180]
    np.testing.assert_allclose(shown.transpose(2, 0, 1), made, atol=0.01)


def test_the_caption_says_what_it_is_worth(sdata):
    virtual_stain(sdata, "HER2")
    text = past.pl.virtual_stain(sdata).get_supxlabel().replace("\n", " ")
    assert "Research use only" in text
    assert "ERBB2 mRNA of each cell, from none at 0.50 to full at 2.50" in text
    assert "r = 0.61 (same patient, validation section)" in text


def test_the_caption_without_a_score_or_settings(sdata):
    del sdata.tables["cells"].uns["past"]["impute_expression"]["scores"]
    virtual_stain(sdata, "HER2")
    text = past.pl.virtual_stain(sdata).get_supxlabel().replace("\n", " ")
    assert "not measured on another patient" in text
    assert "nan" not in text
    del sdata.tables["cells"].uns["past"]
    figure = past.pl.virtual_stain(sdata)
    assert "research use only" in figure.get_supxlabel()
    assert figure.axes[1].get_title() == "virtual stain"


def test_each_of_several_stains_names_its_marker(sdata):
    virtual_stain(sdata, {"one": "ERBB2", "two": "ERBB2"})
    figure = past.pl.virtual_stain(sdata, stain_key="virtual_stain_two")
    assert figure.axes[1].get_title() == "virtual two stain"
    with pytest.raises(KeyError, match=r"no virtual stain named 'virtual_stain'.*virtual_stain_one.*virtual_stain_two"):
        past.pl.virtual_stain(sdata)


def test_a_replaced_stain_has_the_new_name(sdata):
    virtual_stain(sdata, "HER2")
    virtual_stain(sdata, {"mine": "ERBB2"}, overwrite=True)
    assert past.pl.virtual_stain(sdata).axes[1].get_title() == "virtual mine stain"


def test_only_the_blocks_in_view_are_computed(sdata, monkeypatch):
    from spatialdata.models import Image2DModel

    pixels = np.asarray(sdata.images["he"].data)
    del sdata.images["he"]
    sdata.images["he"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), chunks=(3, 64, 64))
    painted = []
    paint = _stain_image.StainPainter.paint
    monkeypatch.setattr(
        _stain_image.StainPainter, "paint", lambda self, block, y, x: painted.append((y, x)) or paint(self, block, y, x)
    )
    virtual_stain(sdata, "HER2")
    past.pl.virtual_stain(sdata, crop=(33, 65, 60, 95))
    assert painted == [(128, 64)]


def test_own_axes(sdata):
    virtual_stain(sdata, "HER2")
    figure, axes = plt.subplots(2, 1)
    assert past.pl.virtual_stain(sdata, ax=axes) is figure
    assert "Research use only" in axes[1].get_xlabel()
    with pytest.raises(ValueError, match="two axes"):
        past.pl.virtual_stain(sdata, ax=axes[:1])


def test_picture(sdata, same_picture):
    virtual_stain(sdata, "HER2")
    same_picture(past.pl.virtual_stain(sdata), "virtual_stain")
