"""One file a family: its reference, what both are asked, and where ours has what theirs gives."""

import importlib
import pkgutil

from golden.case import Case

CASES: dict[str, Case] = {
    case.name: case
    for module in pkgutil.iter_modules(__path__, f"{__name__}.")
    for case in importlib.import_module(module.name).CASES
}
