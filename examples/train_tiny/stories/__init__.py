"""The kinds of story: data for grammar.py, in {slots} of `grammar.draw_facts`.

A new kind of story is one more file with a `Skeleton`, and its name in SKELETONS. Facts that a
question asks about must appear in every telling: the tests check it.
"""

from __future__ import annotations

from .afraid import AFRAID
from .bake import BAKE
from .broken import BROKEN
from .contest import CONTEST
from .gift import GIFT
from .grow import GROW
from .lost import LOST
from .newcomer import NEWCOMER
from .rain import RAIN
from .rescue import RESCUE
from .share import SHARE
from .stuck import STUCK

SKELETONS = (
    LOST,
    STUCK,
    SHARE,
    RESCUE,
    BAKE,
    AFRAID,
    RAIN,
    GROW,
    NEWCOMER,
    GIFT,
    BROKEN,
    CONTEST,
)
