"""Structured attention graphs: an image's minimal sufficient explanations and how they relate."""

from jaxplain.sag.analysis import DiverseSubset as DiverseSubset
from jaxplain.sag.analysis import Statistics as Statistics
from jaxplain.sag.analysis import Summary as Summary
from jaxplain.sag.analysis import Support as Support
from jaxplain.sag.analysis import diverse_subset as diverse_subset
from jaxplain.sag.analysis import statistics as statistics
from jaxplain.sag.analysis import summarize as summarize
from jaxplain.sag.analysis import support as support
from jaxplain.sag.analysis import which_scores_higher as which_scores_higher
from jaxplain.sag.graph import AttentionGraph as AttentionGraph
from jaxplain.sag.graph import Edge as Edge
from jaxplain.sag.graph import Node as Node
from jaxplain.sag.graph import graph as graph
from jaxplain.sag.search import SearchHistory as SearchHistory
from jaxplain.sag.search import SearchResult as SearchResult
from jaxplain.sag.search import proposal_map as proposal_map
from jaxplain.sag.search import search as search
