"""The shipped sample and simulated data."""

from pastpy.datasets._breast_st import breast_st
from pastpy.datasets._cohort import simulate_cohort

__all__ = ["breast_st", "simulate_cohort"]
