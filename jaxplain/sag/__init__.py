"""Structured attention graphs: minimal sufficient explanations of an image, and how they hang together."""

from jaxplain.sag.attention_graph import AttentionGraph as AttentionGraph
from jaxplain.sag.attention_graph import Edge as Edge
from jaxplain.sag.attention_graph import Node as Node
from jaxplain.sag.beam import search as search
from jaxplain.sag.diverse import DiverseSubset as DiverseSubset
from jaxplain.sag.diverse import diverse_subset as diverse_subset
from jaxplain.sag.grow import graph as graph
from jaxplain.sag.proposal import proposal_map as proposal_map
from jaxplain.sag.sets import Status as Status
from jaxplain.sag.sets import SufficientSets as SufficientSets
