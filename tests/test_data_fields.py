"""Fields: what comes with every image besides its class, from the source on disk to a batch."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import assert_same_state, train

from genimg_jax import core, data
from genimg_jax.data import identity, loading, order, shapes, text
from genimg_jax.data.transforms import prepare
from genimg_jax.data.types import CaptionOptions, DomainOptions, PairOptions, ShapesOptions
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, restore
from genimg_jax.engine.old_configs import complete
from genimg_jax.errors import ConfigError, DataError

COUNT = 20
ARCHIVE = ("tokens", "map", "features", "source")


def archive(path, **changes):
    """An npz of `COUNT` images with a field of every kind."""
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (COUNT, 8, 8, 3), np.uint8),
        "label": np.arange(COUNT) % 3,
        "caption": np.array([f"number {i} of {COUNT}" for i in range(COUNT)]),
        "map": rng.integers(0, 300, (COUNT, 8, 8)),
        "features": rng.normal(size=(COUNT, 5)),
        "source": rng.integers(0, 256, (COUNT, 4, 4), np.uint8),
    } | changes
    np.savez(path, **arrays)
    return arrays


def write(root, names, size=(6, 6), mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        channels = () if mode in ("L", "P") else (3,)
        values = rng.integers(0, 5 if mode == "P" else 256, (*size, *channels), np.uint8)
        image = Image.fromarray(values)
        if mode == "P":
            image.putpalette(list(range(60)))
        image.save(root / name)


def pairs(root, partner, **more):
    return data.Options(source="pairs", path=str(root), pairs=PairOptions(partner=str(partner)), **more)


def options_of(kind, root):
    """Options of a source with fields, written below `root`."""
    names = [f"{i}.png" for i in range(COUNT)]
    write(root / "a", names, (6, 8))
    if kind == "shapes":
        return data.Options(source="shapes", size=8, fields=("tokens", "map"), shapes=ShapesOptions(COUNT))
    if kind == "npz":
        archive(root / "all.npz")
        return data.Options(source="npz", path=str(root / "all.npz"), fields=ARCHIVE, size=160)
    if kind == "pairs":
        write(root / "b", names, (6, 8), "L", 1)
        return pairs(root / "a", root / "b", fields=("source",), size=5)
    if kind == "map":
        write(root / "b", names, (6, 8), "P", 1)
        return pairs(root / "a", root / "b", fields=("map",), size=5)
    if kind == "halves":
        return pairs(root / "a", "", fields=("source",))
    write(root / "b", [f"x{i}.png" for i in range(7)], (6, 6), "L", 1)
    partner = DomainOptions(partner=str(root / "b"))
    return data.Options(source="domains", path=str(root / "a"), size=6, domains=partner, fields=("source",))


def replaced(options, **changes):
    return data.Options(**{**vars(options), **changes})


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], name)


@pytest.mark.parametrize("bad_images", ["error", "skip"])
@pytest.mark.parametrize("kind", ["shapes", "npz", "pairs", "map", "halves", "domains"])
def test_every_field_is_the_same_in_memory_and_streamed(tmp_path, kind, bad_images):
    options = replaced(options_of(kind, tmp_path), limit=15, bad_images=bad_images, workers=0)
    held, streamed = (data.open_source(replaced(options, memory_mib=m), "train") for m in (64, kind == "npz"))
    assert held.in_memory and not streamed.in_memory
    assert held.spec == streamed.spec and tuple(held.spec.fields) == options.fields
    for make in (lambda s: loading.train_batches(s, 2, 1, 10), lambda s: loading.evaluation_batches(s, 10)):
        for one, other in itertools.islice(zip(make(held), make(streamed), strict=False), 3):
            same(one, other)
            assert set(options.fields) <= one.keys()
            for name, field in held.spec.fields.items():
                assert one[name].shape == (10, *field.shape)
                assert not field.size or (one[name].min() >= 0 and one[name].max() < field.size)
    assert identity.contents(held) == identity.contents(streamed)
    assert json.dumps(identity.record(held))


def test_workers_read_fields_too(tmp_path):
    options = options_of("npz", tmp_path)
    held, streamed = (data.open_source(replaced(options, memory_mib=m, workers=1), "train") for m in (64, 1))
    for one, other in zip(loading.evaluation_batches(held, 10), loading.evaluation_batches(streamed, 10), strict=True):
        same(one, other)


def test_an_archive_gives_each_image_its_own_fields(tmp_path):
    arrays = archive(tmp_path / "a.npz")
    options = data.Options(source="npz", path=str(tmp_path / "a.npz"), fields=ARCHIVE, limit=9)
    source = data.open_source(options, "train")
    rows = source.read(np.arange(9))
    chosen = [int(caption.split()[1]) for caption in source.captions(np.arange(9))]
    np.testing.assert_array_equal(rows["image"], arrays["image"][chosen])
    np.testing.assert_array_equal(rows["map"], arrays["map"][chosen])
    np.testing.assert_array_equal(rows["features"], arrays["features"][chosen].astype(np.float32))
    np.testing.assert_array_equal(rows["source"], arrays["source"][chosen][..., None])
    for i, number in enumerate(chosen):
        tokens = text.rows(source.vocabulary, [f"Number {number} of 20"], ["x"], 32)
        np.testing.assert_array_equal(rows["tokens"][i], tokens[0])
    assert source.spec.fields == {
        "tokens": core.Field((32,), text.size(source.vocabulary)),
        "map": core.Field((8, 8), arrays["map"].max() + 1),
        "features": core.Field((5,)),
        "source": core.Field((4, 4, 1)),
    }


def test_fields_of_shapes_are_the_scene(tmp_path):
    source = data.open_source(options_of("shapes", tmp_path), "test")
    rows = source.read(np.arange(source.size))
    np.testing.assert_array_equal(rows["map"], source.annotations(np.arange(source.size))["mask"])
    words = [source.vocabulary.id_to_token(i - 1) for i in rows["tokens"][0].tolist() if i]
    assert [" ".join(words)] == source.captions(np.array([0]))


def test_a_map_is_cut_and_resized_as_its_image_is():
    """Bright pixels of an image that is resized without averaging, at whole multiples, are where the map says."""
    from genimg_jax.data import decode

    image = np.zeros((12, 20, 1), np.uint8)
    image[4:8, 8:14] = 255
    for size in (12, 6, 24):
        bright = decode.conform(image, size, 0)[..., 0] > 127
        np.testing.assert_array_equal(decode.conform_map((image[..., 0] > 0).astype(np.uint8), size), bright)


def test_a_skipped_image_takes_its_fields_with_it(tmp_path):
    names = [f"{i}.png" for i in range(COUNT)]
    write(tmp_path / "a", names)
    write(tmp_path / "b", names, seed=1)
    options = pairs(tmp_path / "a", tmp_path / "b", fields=("source",), bad_images="skip")
    whole = data.open_source(options, "train")
    rows = whole.read(np.arange(COUNT))
    bad = whole.names(np.array([4]))[0].replace("/a/", "/b/")
    with open(bad, "wb") as file:
        file.write(b"no image")
    for memory in (64, 0):
        found = data.open_source(replaced(options, memory_mib=memory, workers=0), "train").read(np.arange(COUNT))
        same(found, {name: array[[0, 1, 2, 3, 5, *range(5, COUNT)]] for name, array in rows.items()})


def test_fields_count_in_the_memory_budget(tmp_path):
    """Of 1 MiB, two images of 400 x 400 take 0.92."""
    write(tmp_path / "a", ["0.png", "1.png"], (400, 400))
    write(tmp_path / "b", ["0.png", "1.png"], (400, 400))
    partner = str(tmp_path / "b")
    for kind in (
        {"source": "pairs", "pairs": PairOptions(partner)},
        {"source": "domains", "domains": DomainOptions(partner)},
    ):
        for fields in ((), ("source",)):
            options = data.Options(path=str(tmp_path / "a"), fields=fields, memory_mib=1, workers=0, **kind)
            source = data.open_source(options, "train")
            assert source.in_memory == (not fields)
            assert all(domain.in_memory == source.in_memory for domain in source.domains.values())


def test_fields_are_identified_beside_the_images(tmp_path):
    archive(tmp_path / "a.npz")
    plain = data.open_source(data.Options(source="npz", path=str(tmp_path / "a.npz")), "train")
    options = data.Options(source="npz", path=str(tmp_path / "a.npz"), fields=("features", "map"))
    source = data.open_source(options, "train")
    assert source.fingerprint == plain.fingerprint and source.listing != plain.listing
    recorded = json.loads(json.dumps(identity.record(source)))
    archive(tmp_path / "a.npz", features=np.ones((COUNT, 5)))
    assert identity.change(recorded, data.open_source(options, "train")).startswith("features ")


def test_fields_of_other_images_are_those_that_a_model_can_take(tmp_path):
    archive(tmp_path / "a.npz")
    source = data.open_source(data.Options(source="npz", path=str(tmp_path / "a.npz"), fields=("map",)), "train")
    for field, problem in (
        (source.spec.fields["map"], False),
        (core.Field((8, 8), 500), False),
        (core.Field((8, 8), 2), True),
        (core.Field((9, 8), 500), True),
    ):
        assert bool(identity.other_fields(("map",), {"map": field}, source)) == problem
    assert identity.other_fields(("tokens",), {"tokens": core.Field((8,), 9)}, source).endswith(
        "not in data.fields now"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "shapes", "fields": ("token",)}, "'token'; did you mean 'tokens'"),
        ({"fields": ("map",)}, "This digits source has no fields"),
        ({"source": "shapes", "fields": ("tokens",), "flip": True}, r"'left of'.*set data\.flip=False"),
        (
            {"source": "shapes", "fields": ("tokens",), "captions": CaptionOptions(length=3)},
            "'scene 0.*has",
        ),
    ],
)
def test_a_field_that_cannot_be_had_is_refused(options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        data.open_source(data.Options(**options), "train[:3]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((COUNT, 2, 2))}, "vectors of finite numbers"),
        ({"features": np.full((COUNT, 2), np.nan)}, "vectors of finite numbers"),
        ({"map": np.full((COUNT, 8, 8), -1)}, "integers from 0"),
        ({"map": np.zeros((COUNT, 8, 7), np.uint8)}, "of their size"),
        ({"source": np.zeros((COUNT - 1, 8, 8), np.uint8)}, "for 20 images"),
        ({"source": np.zeros((COUNT, 8, 8), np.float32)}, "images are uint8"),
    ],
)
def test_arrays_that_are_no_field_are_refused(tmp_path, change, message):
    archive(tmp_path / "a.npz", **change)
    with pytest.raises(DataError, match=message):
        data.open_source(data.Options(source="npz", path=str(tmp_path / "a.npz"), fields=ARCHIVE), "train")


# --------------------------------------------------------------------------------------------- inside the step


def test_flips_mirror_image_map_and_source_together():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (200, 4, 4, 3), np.uint8),
        "map": rng.integers(0, 9, (200, 4, 4), np.uint8),
        "source": rng.integers(0, 256, (200, 6, 6, 1), np.uint8),
        "features": rng.normal(size=(200, 5)).astype(np.float32),
        "tokens": rng.integers(0, 9, (200, 5), np.int32),
        "index": np.arange(200, dtype=np.int32),
    }
    plain, flipped = (
        jax.device_get(prepare(batch, jax.random.key(0), data.Options(flip=flip), 256, True)) for flip in (False, True)
    )
    assert plain["map"].dtype == np.int32 and plain["source"].dtype == np.float32
    np.testing.assert_allclose(plain["source"], batch["source"] / 127.5 - 1, atol=1e-6)
    mirrored = (flipped["image"] != plain["image"]).any((1, 2, 3))
    assert 60 < mirrored.sum() < 140
    for name in ("image", "map", "source"):
        expected = np.where(mirrored.reshape(-1, *(1,) * (plain[name].ndim - 1)), plain[name][:, :, ::-1], plain[name])
        np.testing.assert_array_equal(flipped[name], expected)
    for name in ("features", "tokens", "index"):
        np.testing.assert_array_equal(flipped[name], batch[name])


# ----------------------------------------------------------------------------------------------------- captions


@pytest.mark.parametrize("kind", ["words", "bpe", "bytes"])
def test_a_vocabulary_is_a_function_of_the_captions_in_any_order(kind):
    captions = shapes.captions(shapes.scenes(0, np.arange(300)))
    made = text.train(captions, kind, 400)
    assert text.digest(made) == text.digest(text.train(captions[::-1], kind, 400))
    assert text.size(made) <= 400
    ids = text.encode(made, captions[0], 100)
    assert (ids[: np.argmin(ids)] > 0).all() and (ids[np.argmin(ids) :] == 0).all()
    if kind != "words":
        exact = "Ein Café, [none]"
        ids = text.encode(made, exact, 100)
        assert bytes_of(made, ids).decode() == exact


def bytes_of(vocabulary, ids):
    """What tokens of bytes stand for."""
    from tokenizers import decoders

    tokens = [vocabulary.id_to_token(i - 1) for i in ids.tolist() if i]
    return decoders.ByteLevel().decode(tokens).encode()


def test_an_unknown_word_is_refused_with_the_nearest():
    made = text.train(shapes.captions(shapes.scenes(0, np.arange(300))), "words", 100)
    assert (text.encode(made, "A Red Circle", 4) == text.encode(made, "a red  circle", 4)).all()
    with pytest.raises(ConfigError, match=r"the word 'circel' of 'a red circel' .* did you mean 'circle'"):
        text.encode(made, "a red circel", 8)
    with pytest.raises(ConfigError, match=r"'xylophone' .* Use words of the training captions"):
        text.encode(made, "a xylophone", 8)
    with pytest.raises(ConfigError, match="has 3 tokens, and the model takes 2"):
        text.encode(made, "a red circle", 2)
    assert text.rows(made, ["a mauve circle"], ["x"], 3)[0, 1] == made.token_to_id(text.UNKNOWN) + 1


def test_a_vocabulary_comes_from_training_captions_alone_unless_it_is_given(tmp_path):
    caption = np.array([f"word{i}" for i in range(COUNT)])
    archive(tmp_path / "a.npz", caption=caption)
    options = data.Options(source="npz", path=str(tmp_path / "a.npz"), fields=("tokens",), train_split="train[:5]",
                           evaluate_split="train[5:]", validation_split="none")  # fmt: skip
    train, test = (data.open_source(options, part) for part in (data.Part.TRAIN, data.Part.EVALUATE))
    assert text.size(train.vocabulary) == 5 + 2 and text.digest(train.vocabulary) == text.digest(test.vocabulary)
    unknown = train.vocabulary.token_to_id(text.UNKNOWN) + 1
    assert (test.read(np.arange(3))["tokens"][:, 0] == unknown).all()
    text.save(text.train(caption, "words", 100), tmp_path)
    given = replaced(options, captions=CaptionOptions(vocabulary=str(tmp_path / text.FILE)))
    assert text.size(data.open_source(given, data.Part.TRAIN).vocabulary) == COUNT + 2
    (tmp_path / text.FILE).write_text("{}")
    with pytest.raises(ConfigError, match=r"data\.captions\.vocabulary is .* no vocabulary\.json"):
        data.open_source(given, data.Part.TRAIN)


# ------------------------------------------------------------------------------------------- pairs and domains


def test_pairs_are_of_one_name_and_endings_may_differ(tmp_path):
    write(tmp_path / "a", ["x/1.png", "y/2.png"])
    write(tmp_path / "b", ["x/1.bmp", "y/2.png"], seed=1)
    source = data.open_source(pairs(tmp_path / "a", tmp_path / "b", fields=("source",)), "train")
    assert source.classes == ("x", "y")
    for name, partner in zip(source.names(np.arange(2)), source.read(np.arange(2))["source"], strict=True):
        file = next((tmp_path / "b").glob(f"{name[-7:-4]}.*"))
        np.testing.assert_array_equal(partner, np.asarray(Image.open(file)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_halves_of_a_file_are_a_pair(tmp_path, side):
    write(tmp_path, ["1.png"], (4, 10))
    whole = np.asarray(Image.open(tmp_path / "1.png"))
    options = data.Options(source="pairs", path=str(tmp_path), pairs=PairOptions(image_side=side), fields=("source",))
    rows = data.open_source(options, "train").read(np.array([0]))
    halves = {"left": whole[:, :5], "right": whole[:, 5:]}
    np.testing.assert_array_equal(rows["image"][0], halves.pop(side))
    np.testing.assert_array_equal(rows["source"][0], *halves.values())


def test_maps_of_files_are_the_numbers_that_they_hold(tmp_path):
    options = options_of("map", tmp_path)
    options = replaced(options, size=0)
    source = data.open_source(options, "train")
    for name, found in zip(source.names(np.arange(3)), source.read(np.arange(3))["map"], strict=True):
        np.testing.assert_array_equal(found, np.asarray(Image.open(name.replace("/a/", "/b/"))))
    few = replaced(options, pairs=PairOptions(partner=options.pairs.partner, segments=2))
    with pytest.raises(DataError, match=r"has segment 4: raise data\.pairs\.segments=2"):
        data.open_source(few, "train")


def test_what_is_no_pair_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "a", ["1.png", "2.png"])
    write(tmp_path / "b", ["1.png"])
    options = pairs(tmp_path / "a", tmp_path / "b", fields=("source",))

    def refused(message, options=options):
        with pytest.raises(DataError, match=message):
            data.open_source(options, "train")

    refused(r"a/2\.png' has no partner")
    write(tmp_path / "b", ["2.png"], (5, 6))
    refused(r"a/2\.png' is 6 x 6 and its partner '.*b/2\.png' 5 x 6")
    write(tmp_path / "b", ["2.png", "3.png"])
    refused(r"b/3\.png' has no partner")
    (tmp_path / "b" / "3.png").unlink()
    refused("mode RGB: a map is a grey", replaced(options, fields=("map",)))
    refused("There is no folder '.*missing': set data.pairs.partner", pairs(tmp_path / "a", tmp_path / "missing"))
    write(tmp_path / "c", ["1.png"], (4, 5))
    refused("is 5 pixels wide", pairs(tmp_path / "c", "", fields=("source",)))
    domains = data.Options(source="domains", path=str(tmp_path / "a"), fields=("source",))
    write(tmp_path / "d", ["test/1.png"])
    partner = DomainOptions(partner=str(tmp_path / "d"))
    refused("images of the field 'source': There is no split 'train'", replaced(domains, domains=partner))
    refused("set data.domains.partner", data.Options(source="domains", path=str(tmp_path / "a")))


def test_domains_are_shuffled_independently(tmp_path):
    options = options_of("domains", tmp_path)
    source = data.open_source(options, "train")
    assert source.spec.fields == {"source": core.Field((6, 6, 1), 0, False)}
    images, others = source.read(np.arange(COUNT))["image"], source.domains["source"].read(np.arange(7))["image"]
    batches = list(itertools.islice(loading.train_batches(source, 3, 0, 10), 7))
    drawn = [np.concatenate([batch[name] for batch in batches]) for name in ("image", "source")]
    places = [
        np.array([next(i for i, x in enumerate(all_) if (x == row).all()) for row in rows])
        for all_, rows in zip((images, others), drawn, strict=True)
    ]
    np.testing.assert_array_equal(places[0], order.examples(3, np.arange(70), COUNT))
    np.testing.assert_array_equal(places[1], order.examples(3, np.arange(70), 7, "source"))
    np.testing.assert_array_equal(np.sort(places[1].reshape(10, 7), 1), np.tile(np.arange(7), (10, 1)))
    assert (order.examples(3, np.arange(20), COUNT, "source") != order.examples(3, np.arange(20), COUNT)).any()
    same(next(loading.train_batches(source, 3, 5, 10)), batches[5])
    stacked = next(loading.train_batches(source, [3, 4], 5, 10))
    np.testing.assert_array_equal(stacked["source"][0], batches[5]["source"])
    np.testing.assert_array_equal(loading.rows(source, np.array([8]))["source"], others[[1]])
    # More images of the other domain are other data, and change nothing of this one's order.
    listed = data.open_source(replaced(options, memory_mib=0), "train").fingerprint
    write(tmp_path / "b", [f"more{i}.png" for i in range(5)], (6, 6), "L", 2)
    assert data.open_source(replaced(options, memory_mib=0), "train").fingerprint != listed
    longer = data.open_source(options, "train")
    np.testing.assert_array_equal(next(loading.train_batches(longer, 3, 5, 10))["image"], batches[5]["image"])


def test_options_of_a_section_are_checked_like_others():
    with pytest.raises(ConfigError, match=r"config\.data\.captions\.lenght is not an option; did you mean 'length'"):
        configs.experiment("vae", data={"captions": {"lenght": 3}})
    with pytest.raises(ConfigError, match=r"config\.data\.captions\.tokens is 'word'"):
        configs.experiment("vae", data={"captions": {"tokens": "word"}})
    with pytest.raises(ConfigError, match=r"config\.data\.fields\[0\] is 3"):
        configs.experiment("vae", data={"fields": (3,)})
    with pytest.raises(ConfigError, match=r"config\.data\.fields\[0\] is 'tokens,map', .* write several as"):
        configs.experiment("vae", data={"fields": ("tokens,map",)})
    made = configs.experiment("vae", data={"captions": {"length": 3}}).data.captions
    assert (made.length, made.tokens) == (3, "words")


def test_options_of_earlier_runs_are_those_of_sections():
    stored = {"family": "vae", "data": {"source": "shapes", "shapes_count": 5, "shapes_seed": 2}}
    found = complete(stored)["data"]
    assert found["shapes"] == dataclasses.asdict(ShapesOptions(5, 2)) and "shapes_count" not in found
    assert found["captions"]["length"] == CaptionOptions().length and found["fields"] == ()


# --------------------------------------------------------------------------------------------------- whole runs


def test_a_run_with_fields_resumes_with_its_own_vocabulary(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.npz"
    image = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), np.uint8)
    archive(path, image=image)
    flags = ["--config.data.source=npz", f"--config.data.path={path}", "--config.data.fields=('tokens','map')"]
    flags += ["--config.data.captions.length=6"]
    vocabularies, train_vocabulary = [], text.train
    monkeypatch.setattr(text, "train", lambda *args: vocabularies.append(train_vocabulary(*args)) or vocabularies[-1])
    assert train(tmp_path / "whole", *flags) == 0
    assert len(vocabularies) == 1  # for training and validation
    assert train(tmp_path / "cut", *flags, "--config.train.steps=4") == 0
    assert train(tmp_path / "cut", *flags) == 0
    assert_same_state(tmp_path / "whole", tmp_path / "cut")
    opened = restore.open_run(tmp_path / "whole", config_files.of_run(tmp_path / "whole"), "last")
    options = opened.program.config.data
    assert options.captions.vocabulary == str(tmp_path / "whole" / text.FILE)
    source = data.open_source(options, data.Part.TRAIN)
    assert opened.program.spec == source.spec and source.spec.fields["tokens"].shape == (6,)
    assert opened.dataset["vocabulary"] == text.digest(text.load(options.captions.vocabulary))
    # The vocabulary is that of the run directory, not one that is made anew: with another, tokens are others.
    text.save(text.train(["nothing"], "words", 10), tmp_path / "cut")
    assert train(tmp_path / "cut", *flags, "--config.train.steps=8") == 3
    assert "tokens " in capsys.readouterr().err
    # Another caption is other training data, although the vocabulary and the images are the same.
    archive(path, image=image, caption=np.full(COUNT, "a new one"))
    assert train(tmp_path / "whole", *flags, "--config.train.steps=8") == 3
    assert "tokens " in capsys.readouterr().err
