"""Alt texts for images of a site that have none, proposed as a patch.

Edits are made by place, so every other byte of a document stays as it is.
"""

from captax.alt.patch import Patch, make_patch, unified_diff
from captax.alt.proposals import Proposal, Said, Survey, propose, survey
from captax.alt.rules import RULES, WAIVABLE
from captax.alt.site import Document, DocumentError
from captax.alt.wording import alt_text

__all__ = [
    "RULES",
    "WAIVABLE",
    "Document",
    "DocumentError",
    "Patch",
    "Proposal",
    "Said",
    "Survey",
    "alt_text",
    "make_patch",
    "propose",
    "survey",
    "unified_diff",
]
