"""The care for a gallery in a real browser: names given, joined, parted, taken back; and the review by keyboard."""

from __future__ import annotations

from browsing import UNKNOWN, until

from siamese_search.gallery import open_gallery


def identities(store):
    """What the store itself says: how many images each identity has."""
    with open_gallery(str(store)) as gallery:
        return {str(name): count for name, count in gallery.facet("identity", limit=1000).items()}


def test_merge_and_undo(write_server, tab):
    address, store = write_server
    before = identities(store)
    page = tab(address)
    page.goto("/identities")
    page.locator("a[href$='/identity?name=0002']").last.click()  # not the "new-0002" of another test
    page.wait_for_url("**/identity?name=0002")
    page.get_by_text("Merge with another").click()
    page.get_by_label("Identity to merge into this one").fill("0001")
    page.get_by_role("button", name="Merge into 0002").click()
    page.wait_for_selector(".notice")
    merged = {**before, "0002": before["0001"] + before["0002"]}
    del merged["0001"]
    assert identities(store) == merged
    assert f"{merged['0002']} sightings" in page.locator("main").inner_text()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text(f"{before['0002']} sightings").wait_for()
    assert identities(store) == before


def test_rename_and_split_with_names_that_are_markup(write_server, tab):
    address, store = write_server
    strange = '<img src=x onerror=alert(1)>"&'
    before = identities(store)
    page = tab(address)
    page.goto("/identity?name=0003")
    page.get_by_text("Rename", exact=True).first.click()
    page.get_by_label("New name").fill(strange)
    page.get_by_role("button", name="Rename").click()
    page.wait_for_selector(".notice")
    assert page.locator("h1").inner_text() == strange
    assert page.locator("main img[src=x]").count() == 0
    page.locator("[name=points]").first.check()
    assert page.locator("[data-picked]").inner_text() == "1 selected"
    page.get_by_label("Identity of the selected").fill("Ann / Lee")
    page.get_by_role("button", name="Split off").click()
    until(lambda: "Ann / Lee" in identities(store))
    after = identities(store)
    assert after[strange] == before["0003"] - 1
    assert after["Ann / Lee"] == 1
    page.goto("/identities?text=Ann")
    page.get_by_role("link", name="Ann / Lee").last.click()
    page.get_by_text("1 sighting", exact=True).wait_for()


def test_a_cluster_is_accepted_without_what_was_unticked(write_server, tab):
    address, store = write_server
    before = identities(store)
    page = tab(address)
    page.goto("/review/clusters")
    first = page.locator("form.box").first
    count = first.locator("[name=points]").count()
    assert count > 1
    first.locator("[name=points]").last.uncheck()
    first.get_by_label("Identity of the ticked").fill("Mia")
    first.get_by_role("button", name="Accept").click()
    page.wait_for_selector(".notice")
    assert identities(store)["Mia"] == count - 1
    page.locator(".notice").get_by_role("button", name="Undo").click()
    until(lambda: identities(store) == before)


def test_ten_are_reviewed_by_keyboard(write_server, tab):
    address, store = write_server
    before = identities(store)
    page = tab(address)
    page.goto("/review")
    assert f"{UNKNOWN} images" in page.locator(".head").inner_text()

    def answer(key):
        asked = page.locator("main").inner_html()
        page.keyboard.press(key)
        until(lambda: page.locator("main").inner_html() != asked)
        until(lambda: page.locator(".htmx-request").count() == 0)

    def left():
        return int(page.locator(".head p").inner_text().split()[0])

    def named():
        return sum(identities(store).values()) - sum(before.values())

    for key in "ynywsynynw":  # yes to two that nobody knows names both
        was = left()
        answer(key)
        assert was - left() in {"y": (1, 2), "w": (1,), "n": (0,), "s": (0,)}[key]
        assert named() == UNKNOWN - left()
    assert len(identities(store)) > len(before)
    answer("u")
    assert left() == was
    assert named() == UNKNOWN - was
