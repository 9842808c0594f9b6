"""One file a family: its reference, what both are asked, and where ours has what theirs gives."""

import importlib
import pkgutil

from golden.case import Case

ALL: list[Case] = [
    case
    for module in pkgutil.iter_modules(__path__, f"{__name__}.")
    for case in importlib.import_module(module.name).CASES
]
CASES: dict[str, Case] = {case.name: case for case in ALL if not case.large}
LARGE: dict[str, Case] = {case.name: case for case in ALL if case.large}
