"""Pictures as text: every form that the WHATWG's standards take, and nothing else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captax.data.inline import data_url_name, from_base64, from_data_url, is_data_url

CONTENT = bytes(range(256)) + b"\xff\xfe\xfd\xfb"
PLAIN = base64.b64encode(CONTENT).decode()


@given(st.binary(max_size=40))
def test_every_way_to_write_base64_is_read(content: bytes) -> None:
    plain = base64.b64encode(content).decode()
    safe = base64.urlsafe_b64encode(content).decode()
    for text in (plain, plain.rstrip("="), safe, safe.rstrip("="), " \n".join(plain) + "\r\n"):
        assert from_base64(text) == from_base64(text.encode()) == content


@pytest.mark.parametrize("text", ["?", "a", "abcde", "a===", "ab=c", "é", "ab.c", "=abc"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_base64(text)


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/jpeg;base64,{PLAIN}",
        f"DATA:IMAGE/JPEG;BASE64,{PLAIN.rstrip('=')}",
        f"data:;base64 ,{base64.encodebytes(CONTENT).decode()}",
        "data:x;base64," + PLAIN.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
        "data:image/png;charset=utf-8;base64," + base64.urlsafe_b64encode(CONTENT).decode(),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in CONTENT),
        f"data:;base64,{PLAIN}#a fragment",
    ],
    ids=range(7),
)
def test_a_data_url_is_read(url: str) -> None:
    assert is_data_url(url) and from_data_url(url) == CONTENT
    assert len(data_url_name(url)) < 50


@pytest.mark.parametrize(
    "url", ["data:", "data:image/png;base64", "data:;base64,?", "data:;base64,a"]
)
def test_a_damaged_data_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        from_data_url(url)
