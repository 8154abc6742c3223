"""Structured attention graphs: minimal sufficient explanations of an image, and how they hang together."""

from jaxplain.sag.attention_graph import AttentionGraph as AttentionGraph
from jaxplain.sag.attention_graph import Edge as Edge
from jaxplain.sag.attention_graph import Node as Node
from jaxplain.sag.beam import search as search
from jaxplain.sag.counterfactual import Support as Support
from jaxplain.sag.counterfactual import support as support
from jaxplain.sag.counterfactual import which_scores_higher as which_scores_higher
from jaxplain.sag.diverse import DiverseSubset as DiverseSubset
from jaxplain.sag.diverse import diverse_subset as diverse_subset
from jaxplain.sag.grow import graph as graph
from jaxplain.sag.proposal import proposal_map as proposal_map
from jaxplain.sag.sets import Status as Status
from jaxplain.sag.sets import SufficientSets as SufficientSets
from jaxplain.sag.summary import Statistics as Statistics
from jaxplain.sag.summary import Summary as Summary
from jaxplain.sag.summary import statistics as statistics
from jaxplain.sag.summary import summarize as summarize
