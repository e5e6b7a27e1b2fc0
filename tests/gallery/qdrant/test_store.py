"""Generations on a server, crash by crash, on qdrant-client's in-memory mode."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
from qdrant_client import models

from siamese_search.errors import (
    GalleryNotFoundError,
    GalleryReplacedError,
    ModelMismatchError,
    StoreBusyError,
    StoreError,
    UsageError,
)
from siamese_search.gallery.contract import Generations, ModelRef
from siamese_search.gallery.qdrant import generation
from siamese_search.gallery.qdrant import store as server_store

from .. import contract, memory

OLD, NEW = contract.MODEL, ModelRef("e" * 64, 8, "newer")


@pytest.fixture
def client():
    warnings.simplefilter("ignore")
    return memory.memory_client()


@pytest.fixture
def store(client):
    return memory.memory_store(client)


@pytest.fixture
def filled(store):
    """A store whose gallery "people" holds five points of the old model."""
    with store.open("people", model=OLD, create=True, mode="w") as gallery:
        contract.fill(gallery, 5)
    return store


def build(store, n=3, model=NEW):
    with store.build("people", model) as gallery:
        rows = contract.unit(np.random.default_rng(1), n, model.dim)
        gallery.upsert(contract.make_ids(n, seed=7), rows, [{"camera": "1"}] * n)


def current_count(store):
    with store.open("people") as gallery:
        return gallery.model, gallery.count()


def collections(client):
    return {one.name for one in client.get_collections().collections}


def test_an_empty_server_has_no_galleries(store):
    assert store.names() == []
    with pytest.raises(GalleryNotFoundError, match=r"no gallery 'people'.*it is empty"):
        store.open("people")
    with pytest.raises(UsageError):
        store.open("../people")
    with pytest.raises(GalleryNotFoundError):
        store.drop("people")


def test_a_gallery_is_made_once_and_listed(filled, client):
    with filled.open("people", model=OLD, create=True, mode="w") as again:
        assert again.count() == 5
    assert filled.names() == ["people"]
    assert collections(client) == {"people.g-00000000"}
    with pytest.raises(GalleryNotFoundError, match="it has people"):
        filled.open("others")
    with pytest.raises(ModelMismatchError, match="newer"):
        filled.open("people", model=NEW)


def test_what_is_not_ours_is_neither_listed_nor_touched(filled, client):
    """Foreign collections and aliases, some under names that look like ours."""
    plain = models.VectorParams(size=4, distance=models.Distance.COSINE)
    for name in ("theirs", "people.g-12345678", "mine.g-00000000", "taken"):
        client.create_collection(name, vectors_config=plain, metadata={"owner": "somebody"})
    alias = models.CreateAlias(collection_name="mine.g-00000000", alias_name="mine")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    foreign = {"theirs", "people.g-12345678", "mine.g-00000000", "taken"}
    assert filled.names() == ["people"]
    for name in ("mine", "theirs"):
        with pytest.raises(StoreError, match="not ours"):
            filled.open(name)
    for name in ("mine", "taken"):
        with pytest.raises(StoreError, match=r"not ours: choose another --gallery"):
            filled.open(name, model=OLD, create=True, mode="w")
    build(filled)
    filled.publish("people")
    assert filled.drop_old("people") == 1
    filled.drop("people")
    assert collections(client) == foreign
    assert [one.alias_name for one in client.get_aliases().aliases] == ["mine"]


def test_reindexing_and_rolling_back(filled, client):
    assert filled.generations("people") == Generations(OLD)
    build(filled)
    assert filled.generations("people") == Generations(OLD, building=NEW)
    assert current_count(filled) == (OLD, 5)
    filled.publish("people")
    assert filled.generations("people") == Generations(NEW, previous=OLD)
    assert current_count(filled) == (NEW, 3)
    assert filled.rollback("people") == OLD
    assert filled.generations("people") == Generations(OLD, previous=NEW)
    assert filled.rollback("people") == NEW
    assert filled.generations("people") == Generations(NEW, previous=OLD)
    assert filled.drop_old("people") == 1
    assert len(collections(client)) == 1
    assert current_count(filled) == (NEW, 3)
    with pytest.raises(StoreError, match="no former generation"):
        filled.rollback("people")
    with pytest.raises(StoreError, match="nothing is being built"):
        filled.publish("people")


def test_publishing_again_deletes_the_older_previous_one(filled, client):
    build(filled)
    filled.publish("people")
    third = ModelRef("d" * 64, 4, "third")
    build(filled, model=third)
    filled.publish("people")
    assert filled.generations("people") == Generations(third, previous=NEW)
    assert len(collections(client)) == 2


def test_building_goes_on_where_it_was_left_unless_the_model_is_another(filled, client):
    build(filled, 3)
    with filled.build("people", NEW) as gallery:
        assert gallery.count() == 3
    with filled.build("people", OLD) as gallery:
        assert gallery.count() == 0
    assert len(collections(client)) == 2


def test_one_process_builds_at_a_time(filled, client, monkeypatch):
    gallery = filled.build("people", NEW)
    with pytest.raises(StoreBusyError, match="re-indexed by process"):
        memory.memory_store(client).build("people", NEW, wait=0)
    for refused in (filled.publish, filled.drop, filled.drop_old):
        with pytest.raises(StoreBusyError):
            refused("people")
    # A process of the same number on the same machine, later: the first one must have ended.
    monkeypatch.setattr(generation, "PROCESS", "another")
    later = memory.memory_store(client).build("people", NEW, wait=0)
    rows = contract.unit(np.random.default_rng(1), 1, NEW.dim)
    monkeypatch.undo()
    with pytest.raises(StoreBusyError, match="this run stops"):
        gallery.upsert(contract.make_ids(1), rows, [{}])
    later.close()


def test_a_lease_ends_with_time_and_with_its_process():
    mine = generation.lease()
    assert generation.holder(mine) is not None
    assert generation.holder({}) is None
    elsewhere = {**mine, "host": "another-machine", "process": "another"}
    assert "another-machine" in (generation.holder(elsewhere) or "")
    assert generation.holder(elsewhere, now=mine["seen"] + generation.LEASE_SECONDS + 1) is None
    for pid in (2**22 + 1, 2**70, -1, "x", None):  # what a server says need not be a process
        assert generation.holder({**mine, "process": "another", "pid": pid}) is None
    for seen in ("yesterday", None, []):
        assert generation.holder({**mine, "process": "another", "seen": seen}) is None


class _Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


def _killed_at(monkeypatch, step):
    """Let the n-th change of the store from now on be the last thing before the process dies."""
    done = 0
    real = {name: getattr(server_store, name) for name in ("update_metadata", "create_collection")}
    store = server_store.ServerStore
    methods = {name: getattr(store, name) for name in ("_aliases", "_delete")}

    def dying(action):
        def act(*args, **kwargs):
            nonlocal done
            if done == step:
                raise _Killed
            done += 1
            return action(*args, **kwargs)

        return act

    for name, action in real.items():
        monkeypatch.setattr(server_store, name, dying(action))
    for name, method in methods.items():
        monkeypatch.setattr(store, name, dying(method))


@pytest.mark.parametrize("step", range(5))
def test_a_publication_that_dies_anywhere_goes_on(filled, client, monkeypatch, step):
    build(filled)
    filled.publish("people")
    build(filled, 4, OLD)  # so that there is an older one to delete, too
    with monkeypatch.context() as patch:
        _killed_at(patch, step)
        with contextlib.suppress(_Killed):
            filled.publish("people")
    assert current_count(filled) in ((NEW, 3), (OLD, 4))  # never neither
    if current_count(filled) == (NEW, 3):
        filled.publish("people")
    assert current_count(filled) == (OLD, 4)
    assert filled.generations("people") == Generations(OLD, previous=NEW)
    # What was left over goes with the next build.
    build(filled, 2, NEW)
    assert len(collections(client)) == 3
    assert filled.generations("people") == Generations(OLD, previous=NEW, building=NEW)


@pytest.mark.parametrize("step", range(3))
def test_a_rollback_that_dies_anywhere_goes_on(filled, monkeypatch, step):
    build(filled)
    filled.publish("people")
    with monkeypatch.context() as patch:
        _killed_at(patch, step)
        with contextlib.suppress(_Killed):
            filled.rollback("people")
    if current_count(filled) == (NEW, 3):
        assert filled.rollback("people") == OLD
    assert filled.generations("people") == Generations(OLD, previous=NEW)


@pytest.mark.parametrize("step", range(7))
def test_a_drop_that_dies_anywhere_never_leaves_half_a_gallery(filled, client, monkeypatch, step):
    build(filled)
    filled.publish("people")
    with monkeypatch.context() as patch:
        _killed_at(patch, step)
        with contextlib.suppress(_Killed):
            filled.drop("people")
    whole = "people" in filled.names()
    if whole:
        assert current_count(filled) == (NEW, 3)
    # Made anew, it is empty: nothing that was dropped comes back.
    with filled.open("people", model=NEW, create=True, mode="w") as gallery:
        assert gallery.count() == (3 if whole else 0)
    filled.drop("people")
    assert collections(client) == set()
    assert filled.names() == []


@pytest.mark.parametrize("step", range(3))
def test_a_creation_that_dies_anywhere_goes_on(store, monkeypatch, step):
    with monkeypatch.context() as patch:
        _killed_at(patch, step)
        with contextlib.suppress(_Killed):
            store.open("people", model=OLD, create=True, mode="w").close()
    with store.open("people", model=OLD, create=True, mode="w") as gallery:
        contract.fill(gallery, 5)
    assert current_count(store) == (OLD, 5)


def test_readers_stay_in_their_generation_and_writers_are_told(filled):
    reader = filled.open("people")
    writer = filled.open("people", model=OLD, mode="w")
    build(filled)
    filled.publish("people")
    query = contract.unit(np.random.default_rng(0), 1)
    assert len(reader.query_batch(query, 10)[0]) == 5  # the old one's vectors, to the end
    with pytest.raises(GalleryReplacedError, match="run the command again"):
        writer.upsert(contract.make_ids(1), query, [{}])
    filled.drop_old("people")
    with pytest.raises(GalleryReplacedError):
        reader.query_batch(query, 10)


def test_indexing_is_held_back_until_the_first_writer_closes(store, client, monkeypatch):
    asked = []
    real = client._client.update_collection

    def update(collection_name, *args, **kwargs):
        if kwargs.get("optimizers_config") is not None:
            asked.append(kwargs["optimizers_config"].indexing_threshold)
        return real(collection_name, *args, **kwargs)

    monkeypatch.setattr(client._client, "update_collection", update)
    with store.open("people", model=OLD, create=True, mode="w") as gallery:
        contract.fill(gallery, 5)
        assert asked == [0]
    assert asked == [0, 20000]  # the server's own value again
    with store.open("people", model=OLD, mode="w") as gallery:
        contract.fill(gallery, 5)
    assert asked == [0, 20000]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"format": 3}, "later release"),
        ({"model": None}, "damaged"),
        ({"state": "strange"}, "damaged"),
        ({"storage": {"vectors": "float8"}}, "damaged"),
    ],
)
def test_metadata_of_a_later_release_or_damaged_are_one_line(filled, client, metadata, words):
    client.update_collection("people.g-00000000", metadata=metadata)
    with pytest.raises(StoreError, match=words):
        filled.open("people")


def test_a_collection_of_another_dimension_is_one_line(filled, client):
    client.update_collection("people.g-00000000", metadata={"model": {"fingerprint": "f" * 64, "dim": 99, "name": ""}})
    with pytest.raises(StoreError, match=r"16-D vectors, its model 99-D"):
        filled.open("people")
