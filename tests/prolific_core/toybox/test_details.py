"""Details of captions say what the image shows, and short captions stay."""

import numpy as np

from prolific_core.toybox.world import captions, details
from prolific_core.toybox.world import draw as world
from prolific_core.toybox.world.families import FAMILIES, TRAITS


def test_colours_have_their_own_names():
    for name, rgb in world.COLOURS.items():
        assert details.nearest_colour(np.array(rgb)) == name


def test_every_variant_of_a_family_has_words():
    from prolific_core.toybox.world.scene import single_object

    found = {
        single_object(family, "red", np.random.default_rng(seed)).trait for family in FAMILIES for seed in range(12)
    }
    assert found == {*TRAITS, ""}
    hats = [single_object("snowman", "red", np.random.default_rng(seed)) for seed in range(12)]
    tall = {trait: np.mean([np.ptp(s.vertices[:, 2]) / np.ptp(s.vertices[:, 1]) for s in hats if s.trait == trait])
            for trait in ("with a hat", "without a hat")}  # fmt: skip
    assert tall["with a hat"] > 1.05 * tall["without a hat"]


def test_captions_name_a_part_of_the_details():
    labels = [world.draw(5, k, size=8, samples=1).label() for k in range(200)]
    g, counts = np.random.default_rng(0), dict.fromkeys(("trait", "view", "height", "background"), 0)
    for label in labels:
        chosen = details.choose(label, g, named_views=0.5, others=0.3)
        text = details.describe(label, chosen)
        assert text.startswith(captions.without_view(label["caption"]))
        assert (chosen.trait in text) and (chosen.view is None or f", {chosen.view} view" in text)
        assert chosen.background is None or chosen.background == label["background"]
        assert captions.parse(text) == captions.parse(label["caption"])
        assert captions.parse_pair(text) == captions.parse_pair(label["caption"])
        assert captions.suggest(text) == ([], [])
        for name in counts:
            counts[name] += bool(getattr(chosen, name))
    assert 70 < counts["view"] < 130 and 30 < counts["height"] < 90 and 15 < counts["background"] < 80
    assert 5 < counts["trait"] < 60
    plain = details.describe(labels[0], details.choose(labels[0], g, named_views=0, others=0))
    assert plain == captions.without_view(labels[0]["caption"])


def test_attributes_are_what_a_caption_states():
    from prolific_core.toybox.training.text_encoder import ATTRIBUTES, attributes

    label = {"kind": "pair", "family": "ball", "colour": "red", "second": ["cube", "blue"], "relation": "on",
             "stripes": None}  # fmt: skip
    chosen = details.Details(view="left profile", background="gray")
    said = {
        name: values[k - 1] if k else None
        for (name, values), k in zip(ATTRIBUTES.items(), attributes(label, chosen), strict=True)
    }
    assert said == {
        "kind": "pair",
        "family": "ball",
        "colour": "red",
        "stripes": None,
        "relation": "on",
        "trait": None,
        "second_family": "cube",
        "second_colour": "blue",
        "view": "left profile",
        "height": None,
        "background": "gray",
    }
    normals = dict(zip(ATTRIBUTES, attributes(label | {"kind": "normals"}, details.Details()), strict=True))
    assert normals["colour"] == normals["second_colour"] == 0  # a normal map's caption does not name colours
