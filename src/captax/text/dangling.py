"""Words that ask for another one, so that no text should end with them."""

import re

# Articles, prepositions, conjunctions and what else needs a word after it.
ENGLISH = frozenset(
    re.findall(
        r"\w+",
        """a an the and or but of in on at by to with for from near over under through into its it
        is are was were his her their that which who whose as than front very""",
    )
)
# The most frequent ones of English, German, French, Spanish, Italian and Portuguese.
DANGLING = ENGLISH.union(
    re.findall(
        r"\w+",
        """der die das den dem des ein eine einen einem einer und oder mit von auf im am zu
        le la les un une de du au aux et ou dans sur avec pour par en qui
        el los las del al y o con por para una unos unas que e il lo gli di da su
        os um uma do dos das no na nos nas com em""",
    )
)
