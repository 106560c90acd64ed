"""Coefficients of a merge, found by trying: what is searched, who proposes, who judges, what is kept."""

from suture.searching.evolve import translated
from suture.searching.genome import Gene, Genome, genome_of
from suture.searching.run import search

__all__ = ["Gene", "Genome", "genome_of", "search", "translated"]
