import shutil

import pytest


@pytest.fixture(scope="session")
def exiftool() -> str:
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("needs exiftool: apt-get install libimage-exiftool-perl")
    return program
