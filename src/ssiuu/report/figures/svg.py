"""From matplotlib's SVG to one that a strict page may hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Sequence

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
REFERENCE = re.compile(r"#([A-Za-z_][\w.-]*)")
NUMBER = re.compile(r"-?\d+\.\d{3,}")
# The system's own fonts are set by the page; matplotlib's list names fonts that few have.
DROPPED = {"font-family", "version"}


def inline_svg(source: str, key: str, label: str, titles: Sequence[str] = ()) -> str:
    """Return a matplotlib SVG as an element to be put into an HTML page.

    Style attributes become presentation attributes and the style element goes, because the page's
    policy would block both; ids get the panel's prefix or go; numbers keep two decimals.

    Args:
        source: What matplotlib wrote.
        key: Unique in the page.
        label: Name of the picture for a screen reader; empty: decoration, hidden from it.
        titles: Tooltips for the children of the group with the id "cells", in their order.
    """
    root = ET.fromstring(source)
    # Labels may hold what an id cannot; a checksum of the key is short and keeps them apart.
    prefix = f"s{zlib.crc32(key.encode()):x}-"
    for parent in list(root.iter()):
        _strip(parent)
    _tooltips(root.find(".//*[@id='cells']"), titles)
    used = {name for e in root.iter() for v in e.attrib.values() for name in _references(v)}
    for element in root.iter():
        _rewrite(element, prefix, used)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    # What the dropped style element said for all.
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    root.attrib |= {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _strip(parent: ET.Element) -> None:
    """Remove metadata and style elements, and the white space between elements."""
    for child in list(parent):
        if child.tag in {SVG + "metadata", SVG + "style"}:
            parent.remove(child)
        else:
            child.tail = None
    if not parent.tag.endswith("text"):
        parent.text = None


def _references(value: str) -> list[str]:
    return REFERENCE.findall(value) if value.startswith("#") or "url(" in value else []


def _rewrite(element: ET.Element, prefix: str, used: set[str]) -> None:
    # An HTML parser knows SVG without its name space, and the page then holds no address at all.
    element.tag = element.tag.removeprefix(SVG)
    attributes = {name.removeprefix(XLINK): value for name, value in element.attrib.items()}
    attributes |= _declarations(attributes.pop("style", ""))
    name = attributes.pop("id", "")
    if name in used:
        attributes["id"] = prefix + name
    element.attrib.clear()
    for attribute, value in attributes.items():
        if attribute not in DROPPED:
            element.set(attribute, _value(value, prefix))


def _tooltips(cells: ET.Element | None, titles: Sequence[str]) -> None:
    if cells is not None and titles:
        # Of a single dot, and of some that are alike, the shape stands before them, in defs.
        drawn = [cell for cell in cells if not cell.tag.endswith("defs")]
        for cell, text in zip(drawn, titles, strict=True):
            ET.SubElement(cell, "title").text = text


def _declarations(style: str) -> dict[str, str]:
    pairs = (part.partition(":") for part in style.split(";") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _value(value: str, prefix: str) -> str:
    if value.startswith("#") and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return value
    if _references(value):
        return REFERENCE.sub(lambda match: f"#{prefix}{match[1]}", value)
    rounded = NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(rounded.split())
