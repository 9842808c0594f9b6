"""Answers with location tokens; tests/parity holds them to transformers."""

import pytest

from captax.text.regions import Region, boxes, labelled_boxes, located, polygons, quads


def test_a_location_is_the_middle_of_a_thousandth() -> None:
    assert labelled_boxes("</s><s>car<loc_0><loc_10><loc_500><loc_999></s><pad>") == [
        Region("car", box=(0.0005, 0.0105, 0.5005, 0.9995))
    ]
    assert located((0.0, 0.0105, 0.5, 1.0)) == "<loc_0><loc_10><loc_500><loc_999>"


@pytest.mark.parametrize(
    "region",
    [
        *labelled_boxes("car<loc_0><loc_10><loc_500><loc_999>"),
        *boxes("<loc_0><loc_10><loc_500><loc_999>"),
        *quads("STOP" + "<loc_7>" * 8),
        *polygons("<loc_0><loc_10><loc_500><loc_999><sep>" + "<loc_3>" * 6),
    ],
)
def test_regions_are_written_and_read(region: Region) -> None:
    said = region.write()
    assert Region.read(said) == region
    assert sum(map(bool, (region.box, region.quad, region.polygons))) == 1
    assert all(len(points) % 2 == 0 for points in region.outlines)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"label": 1},
        {"label": "a", "box": [0, 1, 2]},
        {"label": "a", "quad": ["x"] * 8},
        {"label": "a", "polygons": 3},
        {"label": "a", "other": 1},
    ],
)
def test_what_is_no_region_is_refused(said: dict) -> None:
    with pytest.raises((TypeError, ValueError)):
        Region.read(said)
