"""Every slot name and unit that pastpy reads or writes, once.

Nothing else in the package spells a slot name: a rename happens here or nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Root of everything pastpy stores in ``sdata.attrs`` and ``table.uns``.
PAST = "past"

#: ``sdata.attrs["past"]["mpp"][image_key]``: µm per level-0 pixel of an image.
MPP = "mpp"
#: ``sdata.attrs["past"]["objective_power"][image_key]``: magnification of the objective, e.g. 20.
OBJECTIVE_POWER = "objective_power"
#: ``sdata.attrs["past"]["added"]``: names of elements that pastpy wrote.
ADDED = "added"
#: ``sdata.attrs["past"]["source"]``: path of the slide from which the command line made a result.
SOURCE = "source"

#: Default name of the H&E image that the readers write.
IMAGE = "he"
#: Default name of the shapes and table that ``pp.segment_nuclei`` writes.
NUCLEI = "nuclei"
CELLS = "cells"
#: Default name of the table of spots that ``io.read_st`` writes, and of the circles it annotates. SpatialData refuses
#: two elements of one name, whatever their kind, so the two differ (as ``cells`` and ``nuclei`` do).
SPOTS = "spots"
SPOT_SHAPES = "spot_circles"
#: Default name of the image that ``tl.virtual_stain`` writes.
VIRTUAL_STAIN = "virtual_stain"

#: Names that ``datasets.simulate_tissue`` writes: outlines and table of the true cells, bins and their squares.
NUCLEI_TRUE = "nuclei_true"
CELLS_TRUE = "cells_true"
BINS = "bins"
BIN_SHAPES = "bin_squares"
#: Its truth in the table of cells. ``layers``: expected counts of a cell; their mean given what the image shows; the
#: mean of log1p-normalised counts given the same. ``obsm``: visible states, neighbourhood, hidden factors.
TRUE_RATE = "true_rate"
BAYES = "bayes"
BAYES_LOG1P = "bayes_log1p"
TRUE_VISIBLE = "true_visible"
TRUE_NEIGHBOURHOOD = "true_neighbourhood"
TRUE_HIDDEN = "true_hidden"
#: ``obs`` and ``var`` of simulated tissue: donor, type, look, niche; share of a gene's variance that the image carries,
#: and Pearson r of :data:`BAYES_LOG1P` with the counts.
DONOR = "donor"
CELL_TYPE = "cell_type"
LOOK = "look"
NICHE = "niche"
IMAGE_SHARE = "image_share"
BAYES_R = "bayes_r"

#: ``table.obsm["spatial"]``: µm from the image's top-left corner, columns x, y.
SPATIAL = "spatial"
#: Columns of the nuclei and cell tables.
INSTANCE_ID = "cell_id"
REGION = "region"
AREA_UM2 = "area_um2"

#: ``var``: the name that a gene had before ``pp.harmonize_genes``, and how it was matched.
GENE_BEFORE = "past_gene_before"
GENE_MATCH = "past_gene_match"

#: The coordinate system in which elements meet.
COORDINATE_SYSTEM = "global"

#: Depth to which predicted expression is scaled before log1p.
TARGET_SUM = 1e4

#: The sentence that every virtual stain and H-score carries.
RESEARCH_USE = "research use only"
#: Prefix of simulated outcome columns; every output made from them repeats it.
SIMULATED = "SIMULATED"


@dataclass(frozen=True)
class Slots:
    """Names of the result slots for one ``key_added``.

    Parameters
    ----------
    key_added
        Stem of the names; ``"past"`` gives those of the public interface.

    Examples
    --------
    >>> Slots("past").embedding
    'X_past'
    >>> Slots("foo").expression
    'foo_expression'
    """

    key_added: str = PAST

    @property
    def embedding(self) -> str:
        """``obsm``: joint embedding, float32 (n_cells, d), L2-normalised."""
        return f"X_{self.key_added}"

    @property
    def embedding_image(self) -> str:
        """``obsm``: image embedding, float32 (n_cells, d), L2-normalised."""
        return f"X_{self.key_added}_image"

    @property
    def embedding_expression(self) -> str:
        """``obsm``: expression embedding, float32 (n_cells, d), L2-normalised."""
        return f"X_{self.key_added}_expression"

    @property
    def valid(self) -> str:
        """``obs``: False where no embedding could be made."""
        return f"{self.key_added}_valid"

    @property
    def expression(self) -> str:
        """``obsm``: predicted expression, log1p of counts per ``target_sum``."""
        return f"{self.key_added}_expression"

    @property
    def expression_std(self) -> str:
        """``obsm``: predictive standard deviation of :attr:`expression`."""
        return f"{self.key_added}_expression_std"

    @property
    def expression_lower(self) -> str:
        """``obsm``: lower end of the predictive interval."""
        return f"{self.key_added}_expression_lower"

    @property
    def expression_upper(self) -> str:
        """``obsm``: upper end of the predictive interval."""
        return f"{self.key_added}_expression_upper"

    @property
    def abstained(self) -> str:
        """``obs``: share of the calibrated genes from which to abstain, 0–1."""
        return f"{self.key_added}_abstained"

    @property
    def of_rows(self) -> dict[str, tuple[str, ...]]:
        """All of the above, by where they are."""
        return {
            "obsm": (
                self.embedding, self.embedding_image, self.embedding_expression,
                self.expression, self.expression_std, self.expression_lower, self.expression_upper,
            ),
            "obs": (self.valid, self.abstained),
        }  # fmt: skip

    def stain_class(self, marker: str) -> str:
        """``obs``: 0, 1, 2 or 3 for a marker."""
        return f"{self.key_added}_stain_class_{marker}"

    def stain_intensity(self, marker: str) -> str:
        """``obs``: optical density of the virtual chromogen for a marker."""
        return f"{self.key_added}_stain_intensity_{marker}"


def key_of_expression(expression_key: str) -> str:
    """The ``key_added`` that gives predicted expression this name.

    Examples
    --------
    >>> key_of_expression(Slots("foo").expression)
    'foo'
    """
    return expression_key.removesuffix(Slots("").expression)
