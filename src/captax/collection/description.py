"""A picture's description in an `.xmp` file beside it, as photo archives and programs read it.

`captax.collection.exiftool` writes it into the picture's own file instead. Both have `read` and
`write`. Sidecars follow Adobe's XMP specification, part 1 (ISO 16684-1): the description is
`dc:description`, with one text for each language; all programs read the text of `x-default`.
"""

import dataclasses
import os
import re
from pathlib import Path
from xml.sax.saxutils import escape

from lxml import etree

from captax.errors import CaptaxError
from captax.files import CONFIG_LIMIT, copy_mode, read_bytes, replacing

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_PREFIXES = {"rdf": _RDF[1:-1], "dc": _DC[1:-1]}

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:description>
    <rdf:Alt>
     <rdf:li xml:lang="x-default">{}</rdf:li>
    </rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class DescriptionError(CaptaxError):
    """A description cannot be read or written."""


@dataclasses.dataclass(frozen=True)
class Sidecars:
    """Descriptions in `.xmp` files beside the pictures; everything else in these files stays.

    `adobe` names them as Adobe's programs do (see `sidecar_path`).
    """

    adobe: bool = False

    def read(self, picture: Path) -> str:
        """The description in the picture's sidecar, "" if there is none.

        Raises `DescriptionError` for a sidecar that is damaged or unreadable.
        """
        path = sidecar_path(picture, adobe=self.adobe)
        existing = _bytes(path)
        try:
            return described(existing)
        except DescriptionError as error:
            raise DescriptionError(f"{path}: {error}") from None

    def write(self, picture: Path, description: str, *, inside: Path | None = None) -> None:
        """Set the description in the picture's sidecar; the file is made if there is none.

        An existing file keeps its mode. A link that leads out of the folder `inside`, if it is
        given, is refused. Raises `DescriptionError` for a sidecar that is damaged and
        for text that XML does not allow, and `OutputError` if the disk refuses.
        """
        path = sidecar_path(picture, adobe=self.adobe)
        existing = _bytes(path)
        try:
            document = xmp_sidecar(existing, description)
        except DescriptionError as error:
            raise DescriptionError(f"{path}: {error}") from None
        with replacing(path, inside=inside) as file:
            file.write(document)
            if existing is not None:
                copy_mode(path, file)


def sidecar_path(picture: str | os.PathLike[str], *, adobe: bool = False) -> Path:
    """Where the sidecar of `picture` is: `photo.jpg.xmp`, or with `adobe` `photo.xmp`.

    The long form is the default, as in darktable and digiKam. In the short form of Lightroom and
    Photoshop, `photo.jpg` and `photo.png` share a file, and each overwrites the other's
    description.
    """
    path = Path(picture)
    return path.with_suffix(".xmp") if adobe else path.with_name(f"{path.name}.xmp")


def xmp_sidecar(existing: bytes | None, description: str) -> bytes:
    """An XMP document like `existing`, or a new one, whose description is `description`.

    Only `dc:description` in its default language changes: other languages, other properties,
    comments, processing instructions, prefixes and the encoding stay. Raises `DescriptionError` for
    a document that is not XMP or has a doctype, and for text that `checked` refuses.
    """
    checked(description)
    if existing is None:
        return _PACKET.format(escape(description, {"\r": "&#13;"})).encode()
    tree = _parsed(existing)
    nodes = _nodes(tree)
    present = [found for node in nodes for found in node.findall(f"{_DC}description")]
    for node in nodes:
        node.attrib.pop(f"{_DC}description", None)
    for further in present[1:]:
        further.getparent().remove(further)
    _set(present[0] if present else _added(tree, nodes), description)
    info = tree.docinfo
    declared = existing.removeprefix(b"\xef\xbb\xbf").startswith(b"<?xml ")
    return etree.tostring(
        tree,
        encoding=info.encoding or "UTF-8",
        xml_declaration=declared,
        standalone=info.standalone if declared else None,
    )


def described(existing: bytes | None) -> str:
    """The description in an XMP document, in its default language or else its first; "" for none.

    Raises `DescriptionError` for a document that is not XMP or has a doctype.
    """
    if existing is None:
        return ""
    for node in nodes_of(existing):
        for found in node.findall(f"{_DC}description"):
            items = found.findall(f"*/{_RDF}li")
            text = next((item for item in items if _is_default(item)), items[0] if items else found)
            return text.xpath("string()").strip()
        if f"{_DC}description" in node.attrib:
            return node.attrib[f"{_DC}description"].strip()
    return ""


def checked(description: str) -> str:
    """`description`, if XML allows it and it is not empty; else raises `DescriptionError`."""
    if not description.strip():
        raise DescriptionError("the description is empty, so there is nothing to write")
    if found := _NOT_XML.search(description):
        code = f"U+{ord(found[0]):04X}"
        raise DescriptionError(
            f"the description holds {code}, which XML does not allow; leave it out"
        )
    return description


def _bytes(path: Path) -> bytes | None:
    try:
        return read_bytes(path, limit=CONFIG_LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DescriptionError(
            f"{path}: cannot be read ({error.strerror or error}); fix its permissions"
        ) from None


def _parsed(document: bytes) -> etree._ElementTree:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, strip_cdata=False
    )
    try:
        tree = etree.ElementTree(etree.fromstring(document, parser))
    except etree.XMLSyntaxError as error:
        raise DescriptionError(
            f"is not well-formed XML ({error.msg}); repair it, or move it away to get a new one"
        ) from None
    # XMP has no doctype, and a doctype can declare entities that fill the memory or fetch files.
    if tree.docinfo.internalDTD is not None:
        raise DescriptionError(
            "has a doctype, which XMP never has; move it away, or remove the doctype"
        )
    return tree


def nodes_of(document: bytes) -> list[etree._Element]:
    """The elements of an XMP document that hold the picture's properties.

    Raises `DescriptionError` for one that is not XMP or has a doctype.
    """
    return _nodes(_parsed(document))


def _nodes(tree: etree._ElementTree) -> list[etree._Element]:
    """The elements whose children and attributes are the picture's properties."""
    return _rdf(tree).findall(f"{_RDF}Description")


def _rdf(tree: etree._ElementTree) -> etree._Element:
    rdf = next(tree.getroot().iter(f"{_RDF}RDF"), None)
    if rdf is None:
        raise DescriptionError("is not XMP (it has no rdf:RDF); move it away to get a new one")
    return rdf


def _added(tree: etree._ElementTree, nodes: list[etree._Element]) -> etree._Element:
    """Add a `dc:description`, beside other Dublin Core elements if there are any."""
    if not nodes:
        nodes = [etree.SubElement(_rdf(tree), f"{_RDF}Description", {f"{_RDF}about": ""})]
    node = next((node for node in nodes if _DC[1:-1] in node.nsmap.values()), nodes[0])
    added = etree.Element(f"{_DC}description", nsmap=_PREFIXES)
    added.tail = node.text
    node.insert(0, added)
    return added


def _set(described: etree._Element, text: str) -> None:
    texts = described.find(f"{_RDF}Alt")
    if texts is None:
        tail = described.tail
        described.clear()
        described.tail = tail
        texts = etree.SubElement(described, f"{_RDF}Alt", nsmap=_PREFIXES)
    item = next((item for item in texts.findall(f"{_RDF}li") if _is_default(item)), None)
    if item is None:
        item = etree.Element(f"{_RDF}li", {_LANGUAGE: "x-default"}, nsmap=_PREFIXES)
        item.tail = texts.text
        texts.insert(0, item)
    for child in item:
        item.remove(child)
    item.text = text


def _is_default(item: etree._Element) -> bool:
    return item.get(_LANGUAGE, "").lower() == "x-default"
