"""What the verbs return, as types: the shapes of every `--json` and of suture.json."""

from suture.results.compat import Compatibility
from suture.results.masks import Mask, MaskCheck
from suture.results.proposal import Edges, Proposal, Score
from suture.results.reading import Comparison, Inspection, Metric, Pair, Row, Spec, Tuned, Verification
from suture.results.recipes import RecipeComparison
from suture.results.surgery import DoneTensor, PlannedTensor, Surgery
from suture.results.tables import AllOf, Routing

__all__ = [
    "AllOf",
    "Comparison",
    "Compatibility",
    "DoneTensor",
    "Edges",
    "Inspection",
    "Mask",
    "MaskCheck",
    "Metric",
    "Pair",
    "PlannedTensor",
    "Proposal",
    "RecipeComparison",
    "Routing",
    "Row",
    "Score",
    "Spec",
    "Surgery",
    "Tuned",
    "Verification",
]
