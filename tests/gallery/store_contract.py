"""The store contract as tests: any store must pass them word for word.

A test module runs a store through the suite by subclassing :class:`StoreContract` and giving it one fixture,
``open_place``: a function ``() -> Store`` that opens the same store, empty at first, on every call.
See test_embedded_store.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from siamese_search.errors import (
    GalleryNotFoundError,
    GalleryReplacedError,
    ModelMismatchError,
    StoreBusyError,
    StoreError,
    UsageError,
)
from siamese_search.gallery.contract import Gallery, Generations, ModelRef, Store
from siamese_search.gallery.storage import Storage

OpenPlace = Callable[[], Store]

DIM = 8
OLD = ModelRef("a1b2c3d4e5f6" + "0" * 52, DIM, "old")
NEW = ModelRef("999888777666" + "0" * 52, DIM, "new")
NEWER = ModelRef("555444333222" + "0" * 52, 2 * DIM, "newer")


def point_id(i: int) -> str:
    return f"00000000-0000-0000-0000-{i:012d}"


def vector(model: ModelRef, i: int) -> np.ndarray:
    """What a model makes of image i: different models give different vectors."""
    row = np.random.default_rng([int(model.fingerprint[:12], 16), i]).standard_normal(model.dim)
    return (row / np.linalg.norm(row)).astype(np.float32)


def put(gallery: Gallery, *images: int) -> None:
    """Upsert these images, as the gallery's own model sees them."""
    rows = np.stack([vector(gallery.model, i) for i in images])
    gallery.upsert([point_id(i) for i in images], rows, [{"size": i, "camera": str(i % 3)} for i in images])


def fill(store: Store, name: str = "default", model: ModelRef = OLD, n: int = 10) -> None:
    with store.open(name, model=model, create=True, mode="w") as gallery:
        put(gallery, *range(n))


def renew(store: Store, name: str = "default", model: ModelRef = NEW, n: int = 6) -> None:
    """A new generation of n images, published."""
    with store.build(name, model) as fresh:
        put(fresh, *range(n))
    store.publish(name)


def finds(gallery: Gallery, i: int = 3) -> bool:
    """Whether the gallery finds image i by what its own model makes of it."""
    hit = gallery.query(vector(gallery.model, i), 1)[0]
    return hit.id == point_id(i) and hit.score == pytest.approx(1.0, abs=1e-5)


def count(store: Store, name: str = "default") -> int:
    with store.open(name) as gallery:
        return gallery.count()


class StoreContract:
    """Subclass it in a test module that provides ``open_place``."""

    def test_an_empty_store_has_no_galleries(self, open_place: OpenPlace):
        with open_place() as store:
            assert store.names() == []
            for ask in (store.open, store.generations, store.publish, store.rollback, store.drop_old, store.drop):
                with pytest.raises(GalleryNotFoundError) as caught:
                    ask("default")
                assert "\n" not in str(caught.value)
            with pytest.raises(GalleryNotFoundError):
                store.build("default", NEW)
            assert store.names() == []
            store.close()
            store.close()

    def test_galleries_are_listed_by_name_and_told_in_errors(self, open_place: OpenPlace):
        with open_place() as store:
            for name in ("zoo", "default", "cars.2"):
                fill(store, name)
            assert store.names() == ["cars.2", "default", "zoo"]
            with pytest.raises(GalleryNotFoundError, match=r"'car'.*cars\.2, default, zoo"):
                store.open("car")
        with open_place() as store:
            assert store.names() == ["cars.2", "default", "zoo"]

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", ".hidden", "x" * 65, "a\n", "ä"])
    def test_names_that_cannot_be(self, open_place: OpenPlace, name: str):
        with open_place() as store:
            for ask in (store.open, store.generations, store.publish, store.rollback, store.drop_old, store.drop):
                with pytest.raises(UsageError):
                    ask(name)
            with pytest.raises(UsageError):
                store.open(name, model=OLD, create=True, mode="w")
            with pytest.raises(UsageError):
                store.build(name, NEW)

    def test_a_gallery_refuses_another_model(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            for options in ({}, {"create": True, "mode": "w"}):
                with pytest.raises(ModelMismatchError, match=r"a1b2c3d4e5f6.*999888777666.*sss reindex"):
                    store.open("default", model=NEW, **options)
            with store.open("default", model=OLD) as gallery:
                assert gallery.model == OLD

    def test_a_reader_writes_nothing(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            with store.open("default") as gallery:
                with pytest.raises(StoreError, match="reading only"):
                    put(gallery, 99)
                assert gallery.count() == 10

    def test_a_generation_is_built_unseen_and_published_whole(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            assert store.generations("default") == Generations(OLD)
            with store.build("default", NEW) as fresh:
                assert fresh.model == NEW
                assert fresh.count() == 0
                put(fresh, *range(6))
                assert store.generations("default") == Generations(OLD, None, NEW)
                with store.open("default", model=OLD) as gallery:
                    assert gallery.count() == 10
                    assert finds(gallery)
            assert store.names() == ["default"]
            assert count(store) == 10
            store.publish("default")
            assert store.generations("default") == Generations(NEW, OLD)
            with store.open("default", model=NEW) as gallery:
                assert gallery.count() == 6
                assert finds(gallery)
            with pytest.raises(StoreError, match="nothing is being built"):
                store.publish("default")

    def test_an_unfinished_generation_goes_on(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            with store.build("default", NEW) as fresh:
                put(fresh, 0, 1)
        with open_place() as store:
            assert store.generations("default").building == NEW
            with store.build("default", NEW) as fresh:
                assert fresh.count() == 2
                put(fresh, 2)
            store.publish("default")
            assert count(store) == 3

    def test_an_unfinished_generation_of_another_model_is_replaced(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            with store.build("default", NEW) as fresh:
                put(fresh, 0, 1)
            with store.build("default", NEWER) as fresh:
                assert fresh.count() == 0
                put(fresh, 5)
                assert finds(fresh, 5)
            assert store.generations("default") == Generations(OLD, None, NEWER)

    def test_a_generation_may_be_stored_in_another_way(self, open_place: OpenPlace):
        half = Storage("float16", "int8")
        with open_place() as store:
            fill(store)
            with store.build("default", OLD, storage=half) as fresh:
                assert fresh.storage == half
                put(fresh, 0, 1)
            with store.build("default", OLD, storage=Storage("float16")) as fresh:
                assert fresh.count() == 0  # what was begun is stored otherwise
            with store.build("default", OLD, storage=half) as fresh:
                put(fresh, 0)
            store.publish("default")
            with store.open("default") as gallery:
                assert gallery.storage == half
            with store.build("default", NEW) as fresh:  # nothing is said: rounded as before
                assert fresh.storage.vectors == "float16"

    def test_one_builds_at_a_time_and_publishes_when_done(self, open_place: OpenPlace):
        with open_place() as store, open_place() as other:
            fill(store)
            with store.build("default", NEW) as fresh:
                put(fresh, 0)
                for model in (NEW, NEWER):
                    with pytest.raises(StoreBusyError):
                        other.build("default", model, wait=0.1)
                with pytest.raises(StoreBusyError):
                    other.publish("default", wait=0.1)
                assert fresh.count() == 1
                assert store.generations("default") == Generations(OLD, None, NEW)
            with other.build("default", NEW) as fresh:
                assert fresh.count() == 1

    def test_the_same_model_again(self, open_place: OpenPlace):
        """New storage settings: the model stays."""
        with open_place() as store:
            fill(store)
            renew(store, model=OLD)
            assert store.generations("default") == Generations(OLD, OLD)
            assert count(store) == 6

    def test_settling_sees_the_current_generation_and_may_refuse(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            fresh = store.build("default", NEW)
            put(fresh, 0)

            def refuse(current: Gallery) -> None:
                assert current.model == OLD
                assert current.count() == 10
                fresh.close()
                raise KeyError("not good enough")

            with pytest.raises(KeyError):
                store.publish("default", refuse)
            assert store.generations("default") == Generations(OLD, None, NEW)
            fresh = store.build("default", NEW)

            def agree(current: Gallery) -> None:
                put(fresh, *(point.payload["size"] for point in current.scroll() if point.payload["size"]))
                fresh.close()

            store.publish("default", agree)
            assert store.generations("default") == Generations(NEW, OLD)
            assert count(store) == 10

    def test_a_reader_stays_with_its_generation(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            with store.open("default") as begun, store.open("default") as unused:
                assert begun.count() == 10
                pages = begun.scroll(batch=3)
                first = next(pages)
                renew(store)
                for reader in (begun, unused):
                    assert reader.count() == 10
                    assert finds(reader)
                assert [first.id, *(point.id for point in pages)] == [point_id(i) for i in range(10)]
                with store.open("default") as later:
                    assert later.count() == 6
                    assert finds(later)
                assert begun.count() == 10
                store.drop_old("default")
                for reader in (begun, unused):
                    with pytest.raises(GalleryReplacedError) as caught:
                        reader.count()
                    assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("model", [NEW, OLD])
    def test_a_writer_of_a_former_generation_is_told(self, open_place: OpenPlace, model: ModelRef):
        with open_place() as store:
            fill(store)
            with store.open("default", mode="w") as used, store.open("default", mode="w") as unused:
                put(used, 10)
                renew(store, model=model)
                for writer in (used, unused):
                    with pytest.raises(GalleryReplacedError):
                        put(writer, 11)
                    with pytest.raises(GalleryReplacedError):
                        writer.delete([point_id(0)])
            assert count(store) == 6
            store.rollback("default")
            assert count(store) == 11

    def test_rolling_back_and_forth(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            with pytest.raises(StoreError, match="no former generation"):
                store.rollback("default")
            renew(store)
            for model, n, other in ((OLD, 10, NEW), (NEW, 6, OLD), (OLD, 10, NEW)):
                assert store.rollback("default") == model
                assert store.generations("default") == Generations(model, other)
                with store.open("default", model=model) as gallery:
                    assert gallery.count() == n
                    assert finds(gallery)
            # What is written now goes into what is current.
            with store.open("default", mode="w") as gallery:
                put(gallery, 20)
            assert count(store) == 11
            store.rollback("default")
            assert count(store) == 6

    def test_a_rollback_leaves_what_is_being_built(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            renew(store)
            with store.build("default", NEWER) as fresh:
                put(fresh, 1)
                assert store.rollback("default") == OLD
                put(fresh, 2)
            assert store.generations("default") == Generations(OLD, NEW, NEWER)
            store.publish("default")
            assert store.generations("default") == Generations(NEWER, OLD)

    def test_publishing_again_keeps_one_former_generation(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            renew(store, model=NEW, n=6)
            renew(store, model=NEWER, n=4)
            assert store.generations("default") == Generations(NEWER, NEW)
            assert store.rollback("default") == NEW
            assert count(store) == 6
            assert store.drop_old("default") == 1

    def test_dropping_the_old(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            assert store.drop_old("default") == 0
            renew(store)
            with store.build("default", NEWER) as fresh:
                put(fresh, 1)
            assert store.drop_old("default") == 2
            assert store.generations("default") == Generations(NEW)
            assert count(store) == 6
            assert store.drop_old("default") == 0
            with pytest.raises(StoreError, match="no former generation"):
                store.rollback("default")
            with store.build("default", NEWER) as fresh:
                assert fresh.count() == 0

    def test_a_dropped_gallery_is_gone_with_all_generations(self, open_place: OpenPlace):
        with open_place() as store:
            fill(store)
            fill(store, "other", n=3)
            renew(store)
            with store.build("default", NEWER) as fresh:
                put(fresh, 1)
            with store.open("default") as reader, store.open("default", mode="w") as writer:
                assert reader.count() == writer.count() == 6
                store.drop("default")
                for gallery in (reader, writer):
                    with pytest.raises(StoreError) as caught:
                        gallery.count()
                    assert "\n" not in str(caught.value)
            assert store.names() == ["other"]
            assert count(store, "other") == 3
            with pytest.raises(GalleryNotFoundError):
                store.drop("default")
            fill(store, model=NEWER, n=2)
            assert store.generations("default") == Generations(NEWER)
            assert count(store) == 2

    def test_the_generations_of_one_gallery_are_no_others(self, open_place: OpenPlace):
        """Names that begin alike must not be taken for one another's generations."""
        with open_place() as store:
            fill(store, "a", n=3)
            fill(store, "a.b", n=4)
            fill(store, "a-b", n=5)
            renew(store, "a", n=2)
            assert store.generations("a.b") == Generations(OLD)
            store.drop("a")
            assert store.names() == ["a-b", "a.b"]
            assert [count(store, name) for name in store.names()] == [5, 4]
