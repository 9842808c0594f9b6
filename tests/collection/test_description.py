import stat
import subprocess
import xml.dom.minidom
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import canonicalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captax.collection.description import (
    DescriptionError,
    Sidecars,
    checked,
    described,
    sidecar_path,
    xmp_sidecar,
)

# As darktable, Lightroom and digiKam write them, put together: attributes and elements, values with
# line breaks, CDATA, comments, several languages, a prefix of its own for Dublin Core.
RICH = """<?xml version="1.0" encoding="UTF-8"?>
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<!-- edited by hand -->
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
    xmlns:darktable="http://darktable.sf.net/"
   xmp:Rating="4" photoshop:Instructions="first&#xA;second&#9;&quot;x&quot;">
   <darktable:history><rdf:Seq>
    <rdf:li darktable:num="0" darktable:params="gz12eJxjYA=="/>
   </rdf:Seq></darktable:history>
   <?keep this?>
  </rdf:Description>
  <rdf:Description rdf:about="" xmlns:d="http://purl.org/dc/elements/1.1/">
   <d:subject><rdf:Bag><rdf:li>dog</rdf:li><rdf:li><![CDATA[a<b]]></rdf:li></rdf:Bag></d:subject>
   <d:description>
    <rdf:Alt>
     <rdf:li xml:lang="x-default">a dog</rdf:li>
     <rdf:li xml:lang="de">ein Hund</rdf:li>
    </rdf:Alt>
   </d:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def rdf(inside: str) -> bytes:
    return (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/">{inside}</rdf:RDF>'
    ).encode()


def nodes(document: bytes | str) -> list[tuple]:
    """All that a parser of another make sees in a document, white space between elements aside."""
    found = []

    def look(node: xml.dom.minidom.Node) -> None:
        attributes = sorted(node.attributes.items()) if node.attributes else []
        if not (node.nodeType == node.TEXT_NODE and not node.data.strip()):
            found.append((node.nodeType, node.nodeName, node.nodeValue, attributes))
        for child in node.childNodes:
            look(child)

    look(xml.dom.minidom.parseString(document))
    return found


def test_a_new_sidecar_is_the_packet_that_exiftool_reads(tmp_path: Path, exiftool: str):
    path = tmp_path / "photo.jpg.xmp"
    path.write_bytes(xmp_sidecar(None, 'Ein "Kätzchen" & <zwei>\nHunde 猫'))
    printed = subprocess.run(
        [exiftool, "-b", "-XMP-dc:Description", path], capture_output=True, check=True
    )
    assert printed.stdout.decode() == 'Ein "Kätzchen" & <zwei>\nHunde 猫'
    valid = subprocess.run(
        [exiftool, "-validate", "-warning", path], capture_output=True, text=True, check=True
    )
    assert "OK" in valid.stdout and "Warning  " not in valid.stdout


def test_only_the_default_description_of_an_existing_sidecar_changes():
    changed = xmp_sidecar(RICH.encode(), "two dogs & <cats>")
    assert nodes(changed) == nodes(RICH.replace("a dog", "two dogs &amp; &lt;cats&gt;"))
    assert b"<![CDATA[a<b]]>" in changed
    assert b"first&#10;second&#9;" in changed  # a parser makes spaces of bare ones
    assert described(changed) == "two dogs & <cats>"


def test_exiftool_sees_nothing_else_change(tmp_path: Path, exiftool: str):
    def seen(document: bytes) -> str:
        path = tmp_path / "photo.xmp"
        path.write_bytes(document)
        command = [exiftool, "-a", "-G1", "-XMP:all", "--XMP-dc:Description", path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "ein Hund" in seen(RICH.encode())
    assert seen(xmp_sidecar(RICH.encode(), "two dogs")) == seen(RICH.encode())


def test_a_description_is_added_where_there_was_none():
    start, end = RICH.index("   <d:description>"), RICH.index("  </rdf:Description>\n </rdf:RDF>")
    without = RICH[:start] + RICH[end:]
    assert described(without.encode()) == ""
    changed = xmp_sidecar(without.encode(), "two dogs")
    assert described(changed) == "two dogs"
    before = nodes(without)
    rest = nodes(changed)
    added = [node for node in rest if node not in before]
    assert [name for _, name, _, _ in added] == ["d:description", "rdf:Alt", "rdf:li", "#text"]
    for node in before:
        rest.remove(node)
    assert len(rest) == len(added)


@pytest.mark.parametrize(
    ("inside", "before"),
    [
        ("", ""),
        ('<rdf:Description rdf:about=""/>', ""),
        ('<rdf:Description rdf:about="" dc:description="short"/>', "short"),
        ("<rdf:Description><dc:description>plain</dc:description></rdf:Description>", "plain"),
        ("<rdf:Description><dc:description/></rdf:Description>", ""),
        (
            '<rdf:Description><dc:description><rdf:Alt><rdf:li xml:lang="fr">un chien</rdf:li>'
            "</rdf:Alt></dc:description></rdf:Description>",
            "un chien",
        ),
        (
            '<rdf:Description><dc:description rdf:parseType="Resource"><rdf:value>odd</rdf:value>'
            "</dc:description></rdf:Description>",
            "odd",
        ),
        (
            "<rdf:Description><dc:description>one</dc:description></rdf:Description>"
            "<rdf:Description><dc:description>two</dc:description></rdf:Description>",
            "one",
        ),
    ],
)
def test_every_form_of_a_description_is_read_and_replaced(
    inside: str, before: str, tmp_path: Path, exiftool: str
):
    assert described(rdf(inside)) == before
    changed = xmp_sidecar(rdf(inside), "a cat")
    assert described(changed) == "a cat"
    path = tmp_path / "photo.xmp"
    path.write_bytes(changed)
    command = [exiftool, "-a", "-s3", "-XMP-dc:Description", path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (printed.stdout, printed.stderr) == ("a cat\n", "")
    assert ("un chien" in changed.decode()) == ("un chien" in inside)


@settings(max_examples=40)
@given(st.text())
def test_what_is_written_is_read_and_writing_it_again_changes_nothing(text: str):
    try:
        checked(text)
    except DescriptionError:
        with pytest.raises(DescriptionError):
            xmp_sidecar(None, text)
        return
    for existing in (None, RICH.encode()):
        once = xmp_sidecar(existing, text)
        assert described(once) == text.strip()
        assert canonicalize(xmp_sidecar(once, text)) == canonicalize(once)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1"])
def test_a_sidecar_keeps_its_encoding(encoding: str):
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    document = RICH.replace("UTF-8", declared).replace("\ufeff", "").replace("dog", "dög")
    changed = xmp_sidecar(document.encode(encoding), "猫")
    assert described(changed) == "猫"
    assert "dög" in changed.decode(encoding)


LAUGHS = "".join(f'<!ENTITY {b} "{f"&{a};" * 20}">' for a, b in pairwise("abcdefghij"))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        RICH.encode()[:700],
        RICH.encode().replace(b"</d:subject>", b"</d:subjects>"),
        b"\x00\xff" * 100,
        b"<html/>",
        b'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">' + rdf(""),
        b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]>'
        + rdf("<rdf:Description><dc:description>&f;</dc:description></rdf:Description>"),
        f'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaaaaaaaaaaaaaaaaa">{LAUGHS}]>'.encode()
        + rdf('<rdf:Description dc:description="&j;"/>'),
        ("<!DOCTYPE x>" + rdf("").decode()).encode("utf-16"),
    ],
)
def test_a_damaged_or_dangerous_sidecar_is_one_clear_error(document: bytes, tmp_path: Path):
    path = tmp_path / "photo.jpg.xmp"
    path.write_bytes(document)
    for use in (Sidecars().read, lambda picture: Sidecars().write(picture, "a cat")):
        with pytest.raises(DescriptionError, match=r"photo\.jpg\.xmp: .*move it away") as error:
            use(tmp_path / "photo.jpg")
        assert "\n" not in str(error.value)
    assert path.read_bytes() == document


@pytest.mark.parametrize("text", ["", "  \n", "a\x00b", "a\x0bb", "\ud800", "\uffff"])
def test_text_that_no_place_can_hold_is_refused(text: str, tmp_path: Path):
    with pytest.raises(DescriptionError, match=r"photo\.jpg\.xmp: the description"):
        Sidecars().write(tmp_path / "photo.jpg", text)
    assert list(tmp_path.iterdir()) == []


def test_two_pictures_of_one_name_have_two_sidecars_unless_adobes_names_are_asked_for():
    assert sidecar_path("a/photo.jpg") == Path("a/photo.jpg.xmp")
    assert sidecar_path("a/photo.png") == Path("a/photo.png.xmp")
    assert sidecar_path("a/photo.v2.jpg", adobe=True) == Path("a/photo.v2.xmp")
    assert sidecar_path("a/photo.png", adobe=True) == Path("a/photo.xmp")


def test_a_sidecar_keeps_its_mode_and_links_stay_links(tmp_path: Path):
    (tmp_path / "store").mkdir()
    stored = tmp_path / "store" / "1.xmp"
    stored.write_text(RICH, encoding="utf-8")
    stored.chmod(0o640)
    (tmp_path / "photo.xmp").symlink_to(stored)
    sidecars = Sidecars(adobe=True)
    sidecars.write(tmp_path / "photo.jpg", "two dogs")
    assert (tmp_path / "photo.xmp").is_symlink()
    assert described(stored.read_bytes()) == sidecars.read(tmp_path / "photo.jpg") == "two dogs"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o640
    assert [path.name for path in stored.parent.iterdir()] == ["1.xmp"]


def test_where_there_is_no_sidecar_there_is_no_description(tmp_path: Path):
    assert Sidecars().read(tmp_path / "photo.jpg") == ""


def test_a_sidecar_that_is_a_folder_or_a_link_to_itself_is_said(tmp_path: Path):
    (tmp_path / "a.jpg.xmp").mkdir()
    (tmp_path / "b.jpg.xmp").symlink_to(tmp_path / "b.jpg.xmp")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(DescriptionError, match=rf"{name}\.xmp: cannot be read \("):
            Sidecars().write(tmp_path / name, "a cat")
