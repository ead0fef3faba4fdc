"""Scenes from STAC: catalogues written with pystac, and a search API served over HTTP."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.warp import transform_geom

from ununennium.config import DataConfig
from ununennium.data import build_index, open_catalog
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.scenes.sources import scenes_of
from ununennium.errors import ConfigError, DataError

pystac = pytest.importorskip("pystac", reason="needs the extra 'stac'")

BOX = [15.0, 45.1, 15.1, 45.2]


def config(stac, **settings):
    catalog = {"stac": str(stac), "assets": ["red", "nir"], **settings.pop("catalog", {})}
    values = {"classes": ["even", "odd"], "chip_size": 32, "catalog": catalog, **settings}
    return DataConfig.model_validate(values)


def item(name, day, assets, box=BOX, **properties):
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    made = pystac.Item(
        name, {"type": "Polygon", "coordinates": [ring]}, list(box),
        datetime(2026, 5, day, 10, tzinfo=UTC), properties,
    )  # fmt: skip
    for key, (href, extra) in assets.items():
        made.add_asset(key, pystac.Asset(href, extra_fields=extra))
    return made


class Written:
    """Two items of two single-band assets with raster labels, 2026-05-01 in the west and 2026-05-20 in the east."""

    def __init__(self, make):
        self.make = make
        self.pixels = {}
        self.items = []
        for place, (name, day) in enumerate({"west": 1, "east": 20}.items()):
            assets = {}
            for key in ("red", "nir"):
                self.pixels[name, key] = np.full((256, 256), 100 * place + len(key), np.uint16)
                self.pixels[name, key][place, :5] = 77
                assets[key] = make.raster(f"{name}_{key}.tif", self.pixels[name, key][None]), {}
            assets["classes"] = make.scene(f"{name}_s")["label"], {}
            box = [15 + place, 45, 15.5 + place, 45.5]
            self.items.append(item(name, day, assets, box))

    def save(self, *more):
        catalog = pystac.Catalog("all", "all")
        collection = pystac.Collection("optical", "o", pystac.Extent.from_dict(
            {"spatial": {"bbox": [BOX]}, "temporal": {"interval": [[None, None]]}}
        ))  # fmt: skip
        catalog.add_child(collection)
        collection.add_items([*self.items, *more])
        # The assets lie beside the items.
        catalog.normalize_hrefs(str(self.make.folder), strategy=pystac.layout.TemplateLayoutStrategy(item_template=""))
        collection.set_self_href(str(self.make.folder / "optical.json"))
        for one in [*self.items, *more]:
            one.set_self_href(str(self.make.folder / f"{one.id}.json"))
        catalog.save(pystac.CatalogType.SELF_CONTAINED)
        return self.make.folder / "catalog.json"


@pytest.fixture
def written(make):
    return Written(make)


def test_assets_become_bands_by_their_keys_and_the_label_asset_is_read(written):
    index = build_index(
        config(written.save(), catalog={"label_asset": "classes"}, bands=["nir", "red"], split={"buffer": 0})
    )
    assert [(scene.name, scene.dates) for scene in index.scenes] == [
        ("west", ("2026-05-01",)),
        ("east", ("2026-05-20",)),
    ]
    for scene in index.scenes:
        assert scene.band_names == ("red", "nir")
        expected = np.stack([written.pixels[scene.name, "nir"], written.pixels[scene.name, "red"]])
        np.testing.assert_array_equal(index.reader(scene).read(0, 0, 256, 256)[0], expected)


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ({"bbox": [14, 44, 15.2, 46]}, ["west"]),
        ({"bbox": [15.4, 45.4, 16.1, 46]}, ["west", "east"]),
        ({"datetime": "2026-05-02/.."}, ["east"]),
        ({"datetime": "../2026-05-20"}, ["west", "east"]),
        ({"datetime": "2026-05-01"}, ["west"]),
        ({"limit": 1}, ["west"]),
        ({"collections": ["optical"]}, ["west", "east"]),
    ],
)
def test_items_are_chosen_by_place_time_collection_and_number(written, search, names):
    catalog = open_catalog(config(written.save(), catalog={"label_asset": "classes", **search}))
    assert [scene.name for scene in catalog] == names


FIJI = shapely.MultiPolygon([shapely.box(179.5, -18, 180, -17), shapely.box(-180, -18, -179.5, -17)])


@pytest.mark.parametrize("given", ["bbox", "globe", "split", "drawn"])
@pytest.mark.parametrize(("box", "names"), [
    ([178, -19, 180, -16], {"fiji", "west"}), ([179.2, -19, -179.2, -16], {"fiji"}),
    ([-180, -19, -172, -13], {"fiji", "samoa"}), ([179.2, -19, 188, -13], {"fiji", "samoa"}),
    ([-181, -19, -179, -16], {"fiji", "west"}), ([10, -19, 20, -13], None),
])  # fmt: skip
def test_items_across_the_antimeridian_are_found_as_an_api_would(make, given, box, names):
    """correctness 79: an item's place is its geometry, split or drawn across 180, or its bbox (west > east)."""
    assets = {key: (make.raster(f"{key}.tif", np.ones((1, 256, 256), np.uint16)), {}) for key in ("red", "nir")}
    assets["classes"] = make.scene("classes")["label"], {}
    places = {"west": [178, -18, 179, -17], "samoa": [-173, -15, -172, -13]}
    items = [item(name, 1, assets, place) for name, place in places.items()]
    fiji = item("fiji", 1, assets, [179.5, -18, -179.5, -17])
    written = pystac.ItemCollection([*items, fiji]).to_dict()
    if given == "bbox":
        written["features"][2]["geometry"] = None
    elif given != "drawn":
        written["features"][2]["geometry"] = shapely.geometry.mapping(FIJI)
    if given == "globe":  # of a split footprint, as many writers do
        written["features"][2]["bbox"] = [-180, -18, 180, -17]
    path = make.folder / "items.json"
    path.write_text(json.dumps(written))
    settings = config(path, catalog={"label_asset": "classes", "bbox": box})
    if names is None:
        with pytest.raises(DataError, match="has no scene"):
            open_catalog(settings)
    else:
        assert {scene.name for scene in scenes_of(settings)} == names


def test_an_item_whose_place_cannot_be_read_is_named(make):
    assets = {key: (make.raster(f"{key}.tif", np.ones((1, 256, 256), np.uint16)), {}) for key in ("red", "nir")}
    path = make.folder / "items.json"
    broken = pystac.ItemCollection([item("odd", 1, assets)]).to_dict()
    broken["features"][0]["geometry"]["coordinates"] = [[[15, 45], [16]]]
    path.write_text(json.dumps(broken))
    with pytest.raises(DataError, match="item 'odd' has a geometry or bbox that cannot be read"):
        open_catalog(config(path, catalog={"bbox": [10, 40, 20, 50]}))


def test_nothing_chosen_is_an_error(written):
    with pytest.raises(DataError, match="has no scene"):
        open_catalog(config(written.save(), catalog={"collections": ["radar"]}))
    with pytest.raises(ConfigError, match=r"data\.catalog\.datetime = 'May'"):
        open_catalog(config(written.save(), catalog={"datetime": "May"}))


def test_label_items_that_name_the_image_as_their_source(written):
    ring = [[500000, 5000000], [501280, 5000000], [501280, 4997440], [500000, 4997440], [500000, 5000000]]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    feature = {
        "type": "Feature",
        "properties": {"kind": "odd"},
        "geometry": transform_geom("EPSG:32633", "EPSG:4326", polygon),
    }
    (written.make.folder / "l.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    said = {"label:type": "vector", "label:properties": ["kind"]}
    label = item("west-labels", 2, {"labels": (str(written.make.folder / "l.geojson"), {})}, **said)
    label.add_link(pystac.Link("source", written.items[0]))
    saved = written.save(label)
    with pytest.raises(
        DataError, match=r"1 images have no label: east; name their asset in data\.catalog\.label_asset"
    ):
        open_catalog(config(saved))
    with pytest.warns(UserWarning, match="1 images without a label are left out: east"):
        index = build_index(config(saved, catalog={"unlabelled": "skip"}, split={"buffer": 0}))
    (scene,) = index.scenes
    assert (scene.name, scene.label_field) == ("west", "kind")
    values = index.labels(scene).read(0, 0, 256, 256)
    assert (values[:, :127] == 1).all()
    assert (values[:, 129:] == 0).all()


@pytest.mark.parametrize("key", ["bands", "eo:bands"])
def test_bands_of_one_file_are_named_by_the_item(make, key):
    pixels = np.random.default_rng(0).integers(0, 99, (2, 64, 64)).astype(np.uint16)
    make.raster("a.tif", pixels)
    assets = {"data": ("a.tif", {key: [{"name": "nir"}, {"name": "red"}]})}
    assets["classes"] = make.raster("l.tif", np.zeros((1, 64, 64), np.uint8)), {}
    one = item("a", 1, assets)
    one.set_self_href(str(make.folder / "a.json"))
    one.save_object(include_self_link=False)
    (scene,) = open_catalog(config(make.folder / "a.json", catalog={"assets": ["data"], "label_asset": "classes"}))
    assert scene.band_names == ("nir", "red")
    np.testing.assert_array_equal(SceneReader(scene, ["red"]).read(0, 0, 64, 64)[0], pixels[1:])


def test_assets_that_are_missing_or_cannot_be_read_are_named_with_their_item(written):
    saved = written.save()
    with pytest.raises(DataError, match=r"item 'west' has no asset 'blue'; it has red, nir, classes"):
        open_catalog(config(saved, catalog={"assets": ["blue"], "label_asset": "classes"}))
    (written.make.folder / "east_nir.tif").write_bytes(b"no raster")
    with pytest.raises(DataError, match=r"asset 'nir' of item 'east': .*east_nir\.tif cannot be read"):
        open_catalog(config(saved, catalog={"label_asset": "classes"}))


def test_what_is_no_stac(make):
    (make.folder / "a.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"a\.json is no STAC that can be read"):
        open_catalog(config(make.folder / "a.json"))
    with pytest.raises(DataError, match=r"gone\.json cannot be read"):
        open_catalog(config(make.folder / "gone.json"))


def test_a_geojson_of_shapes_is_a_label_and_no_catalogue(shared_data):
    """It is named ``stac_training`` and has land-cover polygons, without STAC's fields."""
    with pytest.raises(DataError, match=r"stac_training\.geojson is no STAC that can be read"):
        open_catalog(config(shared_data / "landsat8_parana" / "stac_training.geojson"))


@pytest.fixture
def api(written):
    """A STAC API that finds items in one of its collections by their day."""
    written.save()
    searched = []

    class Handler(BaseHTTPRequestHandler):
        def _send(self, content):
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            root = f"http://127.0.0.1:{self.server.server_port}"
            conformance = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
            links = [{"rel": "self", "href": root}, {"rel": "root", "href": root}]
            links.append({"rel": "search", "href": f"{root}/search", "method": "POST", "type": "application/geo+json"})
            self._send({
                "type": "Catalog", "id": "api", "description": "api", "stac_version": "1.0.0", "links": links,
                "conformsTo": conformance,
            })  # fmt: skip

        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            searched.append(query)
            first, last = query["datetime"].split("/")
            found = [one for one in written.items if first <= one.datetime.isoformat() <= last]
            self._send({
                "type": "FeatureCollection",
                "features": [one.make_asset_hrefs_absolute().to_dict(transform_hrefs=False) for one in found],
                "links": [],
            })  # fmt: skip

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", searched
    server.shutdown()
    server.server_close()


def test_an_api_is_searched(api, monkeypatch):
    monkeypatch.setenv("UNUNENNIUM_LOCAL_HREFS", "1")  # it serves items whose files are on this machine
    address, searched = api
    search = {"collections": ["optical"], "bbox": [14, 44, 17, 46], "datetime": "2026-05-10/2026-05-30", "limit": 7}
    (scene,) = open_catalog(config(address, catalog={"label_asset": "classes", **search}))
    assert (scene.name, scene.dates) == ("east", ("2026-05-20",))
    assert searched[0]["collections"] == ["optical"]
    assert searched[0]["bbox"] == [14, 44, 17, 46]


class TestUnits:
    """Scale and offset of assets, as items of several versions and providers state them."""

    def scene(self, make, name, fields, transform, offset=0, **properties):
        numbers = np.random.default_rng(1).integers(1, 1000, (1, 64, 64)).astype(np.uint16)
        place = {"transform": rasterio.Affine(10, 0, 500000 + 10000 * transform, 0, -10, 5000000)}
        image = make.raster(f"{name}.tif", numbers + np.uint16(offset), **place)
        label = make.raster(f"{name}_l.tif", np.zeros((1, 64, 64), np.uint8), **place)
        return item(name, 1 + transform, {"B04": (image, fields), "classes": (label, {})}, **properties), numbers

    def read(self, make, items):
        path = make.folder / "items.json"
        pystac.ItemCollection(items).save_object(str(path))
        scenes = open_catalog(config(path, catalog={"assets": ["B04"], "label_asset": "classes"}))
        return [SceneReader(scene, scenes[0].band_set()).read(0, 0, 64, 64)[0] for scene in scenes]

    @pytest.mark.parametrize(
        ("fields", "properties"),
        [
            ({"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, {}),
            ({"bands": [{"name": "red", "raster:scale": 1e-4, "raster:offset": -0.1}]}, {}),
            ({"raster:scale": 1e-4, "raster:offset": -0.1}, {}),
            ({}, {"s2:processing_baseline": "05.10"}),
            ({}, {"sentinel:processing_baseline": "04.00"}),
        ],
    )
    def test_of_newer_sentinel_2_scenes_are_brought_to_those_of_older_ones(self, make, fields, properties):
        said = bool(fields)
        older, numbers = self.scene(
            make, "a", {"raster:bands": [{"scale": 1e-4, "offset": 0}]} if said else {}, 0,
            **({} if said else dict.fromkeys(properties, "02.09")),
        )  # fmt: skip
        newer, _ = self.scene(make, "b", fields, 1, 1000, **properties)
        for pixels in self.read(make, [older, newer]):
            np.testing.assert_allclose(pixels, numbers, rtol=1e-6)

    @pytest.mark.parametrize("fields", [{"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, {}])
    def test_of_which_the_offset_is_applied_already_stay(self, make, fields):
        applied = {"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True}
        older, numbers = self.scene(make, "a", {"raster:bands": [{"scale": 1e-4}]}, 0)
        newer, _ = self.scene(make, "b", fields, 1, **applied)
        for pixels in self.read(make, [older, newer]):
            np.testing.assert_array_equal(pixels, numbers)

    def test_that_agree_stay_numbers(self, make):
        items = [
            self.scene(make, name, {}, n, 1000, **{"s2:processing_baseline": "05.10"})[0] for n, name in enumerate("ab")
        ]
        numbers = self.scene(make, "c", {}, 2)[1]
        for pixels in self.read(make, items):
            np.testing.assert_array_equal(pixels, numbers + 1000)
