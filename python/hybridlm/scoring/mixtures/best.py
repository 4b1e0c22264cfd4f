"""``best``: the default mixture and the geometric one, weighed by ``eg`` as if they were two experts.

The two err in different ways: one knows what it has counted, the other how experts sharpen each other. It
costs what both cost, and so as much as the geometric one.
"""

from hybridlm.scoring.mixtures.interface import Pair, register_pair
from hybridlm.scoring.mixtures.linear import FAMILIES

register_pair("best", Pair(linear="stacked", of_rows="geometric", over="eg", families=FAMILIES))
