"""The shipped sample and simulated data."""

from pastpy.datasets._breast_st import breast_st
from pastpy.datasets._cohort import simulate_cohort
from pastpy.datasets._tissue import simulate_tissue
from pastpy.datasets._tissue_parameters import TissueParameters
from pastpy.datasets._tissue_split import split_donors

__all__ = ["TissueParameters", "breast_st", "simulate_cohort", "simulate_tissue", "split_donors"]
