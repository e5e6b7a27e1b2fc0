"""Every page: on a telephone, in light and dark, without scripts, read-only, behind a key."""

from __future__ import annotations

from browsing import IMAGES, hand_over, serving

from siamese_search.gallery import open_gallery

PAGES = ["/", "/identities", "/identity?name=0001", "/review", "/review/clusters", "/map", "/gallery", "/nowhere"]


#: What can be used and has no name to be read aloud.
NAMELESS = """[...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary, img, canvas")]
  .filter((one) => one.checkVisibility({visibilityProperty: true}) && !one.matches("a img, header img"))
  .filter((one) => !(one.innerText?.trim()
    || one.ariaLabel || one.alt || one.labels?.length || one.querySelector("img[alt]:not([alt=''])")))
  .map((one) => one.outerHTML.slice(0, 200))"""
#: Words below 4.5 to 1 (large ones below 3), and edges of fields below 3 to 1, by the formula of WCAG 2.
PALE = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour.startsWith("rgb") && (numbers(colour)[3] ?? 1) === 1) return numbers(colour);
    }
    return [255, 255, 255];
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  for (const one of document.body.querySelectorAll("*")) {
    if (!one.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (one.closest("svg, canvas, :disabled")) continue;
    const style = getComputedStyle(one);
    const words = [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (words && ratio(numbers(style.color), behind(one)) < least) found.push(one.outerHTML.slice(0, 160));
    if (one.matches("input[type=text], input[type=search], input[type=password], select")
        && ratio(numbers(style.borderTopColor), behind(one.parentElement)) < 3) found.push(one.outerHTML.slice(0, 160));
  }
  return found;
}"""


#: Short names and numbers below pictures that are broken in two.
BROKEN = """[...document.querySelectorAll(".card .name, .card .numbers")].filter((one) => {
  const range = document.createRange();
  range.selectNodeContents(one);
  return one.innerText.length < 12 && new Set([...range.getClientRects()].map((box) => box.top)).size > 1;
}).map((one) => one.innerText)"""

#: Options of commands that are broken in two, as ``--`` and ``store``.
BROKEN_OPTIONS = """(() => {
  const found = [], range = document.createRange();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode()); )
    for (const one of node.data.matchAll(/--[a-z-]+/g)) {
      range.setStart(node, one.index);
      range.setEnd(node, one.index + one[0].length);
      if (range.getClientRects().length > 1) found.push(one[0]);
    }
  return found;
})()"""


def test_what_stands_below_a_picture_is_not_broken_in_two(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", *drawn.queries["0001"])
    found = page.url + "&k=50"
    for path in (found, found + "&group=1", "/identities", "/identity?name=0001", "/review"):
        page.goto(path)
        for width in (390, 800, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate(BROKEN) == [], (path, width)


def test_every_page_on_a_telephone_in_light_and_dark(read_server, tab):
    page = tab(read_server, viewport={"width": 390, "height": 844}, has_touch=True)
    for path in PAGES[:-1]:
        assert page.goto(path).status == 200, path
        page.wait_for_load_state("networkidle")
        for width in (800, 1400, 390):
            page.set_viewport_size({"width": width, "height": 844})
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} px too wide at {width}"
            assert page.evaluate(BROKEN_OPTIONS) == [], (path, width)
        assert page.evaluate(NAMELESS) == [], path
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(PALE) == [], (path, scheme)
            paper, ink = page.evaluate(
                """() => { const style = getComputedStyle(document.body);
                return [style.backgroundColor, style.color].map((one) => one.match(/\\d+/g).map(Number)); }"""
            )
            assert (sum(paper) > sum(ink)) == (scheme == "light"), path
        broken = page.evaluate(
            "[...document.images].filter((one) => one.complete && !one.naturalWidth).map((one) => one.src)"
        )
        assert broken == [], path


def test_reading_needs_no_script(drawn, read_server, tab):
    page = tab(read_server, java_script_enabled=False)
    page.goto("/")
    page.locator("form.upload input[type=file]").set_input_files(drawn.queries["0002"])
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**q=*")
    assert page.locator("ol.cards .name").first.inner_text() == "0002"
    page.locator(".facet li a").first.click()
    page.wait_for_url("**where=*")
    page.goto("/identities")
    page.locator("a.picture").first.click()
    page.locator(".group img").first.wait_for()
    page.goto("/map")
    assert page.locator("figure svg circle").count() == IMAGES
    assert page.locator("canvas").is_hidden()
    page.locator("figure a").first.click(force=True)
    page.wait_for_load_state()
    assert page.url != f"{read_server}/map"


def test_a_line_around_images_on_the_map_lists_them_and_survives_a_reload(read_server, tab):
    page = tab(read_server)
    page.goto("/map?color=camera")
    page.wait_for_load_state("networkidle")
    box = page.locator("#plane").bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.05)]
    for place, (x, y) in enumerate(corners):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
        if place == 0:
            page.mouse.down()
    page.mouse.up()
    count = page.locator("#selected-count")
    count.wait_for()
    assert count.inner_text() == f"{IMAGES} images selected"
    page.reload()
    count.wait_for()
    assert count.inner_text() == f"{IMAGES} images selected"
    assert page.locator("#selected-cards li").count() == IMAGES
    page.locator("#selected-search").click()
    page.wait_for_url("**/?like=*")
    page.wait_for_selector("ol.cards .name")


def test_the_map_finds_moves_and_turns_values_off(read_server, tab):
    page = tab(read_server)
    page.goto("/")
    page.get_by_role("link", name="Map").click()  # by htmx: nothing of the page's head is read again
    find = page.get_by_role("searchbox", name="Find an identity or a file")
    find.fill("0001")
    said = page.locator(".tools output")
    assert said.inner_text() == "4 images"
    assert page.locator(".legend li:visible").all_inner_texts() == ["0001\n4"]
    page.reload()
    said.filter(has_text="4 images").wait_for()  # the address has it
    find.press("Escape")
    assert page.url == f"{read_server}/map"

    everyone, last = page.locator(".legend button"), page.locator(".legend button").last
    last.click()
    assert last.get_attribute("aria-pressed") == "false"
    box = page.locator("#plane").bounding_box()
    places = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.05)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]

    def draw():
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=3)
        page.mouse.up()

    draw()
    hidden = int(last.inner_text().splitlines()[-1])
    assert page.locator("#selected-count").inner_text() == f"{IMAGES - hidden} images selected"
    page.locator("#selected-clear").click()
    page.get_by_role("button", name="Move").click()
    page.get_by_role("button", name="Zoom in").click()
    draw()  # which moves the map
    assert page.locator("#selected").is_hidden()
    assert everyone.count() > 2


def test_a_read_only_server_offers_no_change(read_server, tab):
    page = tab(read_server)
    for path in PAGES[1:-1]:
        page.goto(path)
        assert page.locator("form[method=post]").count() == 0, path
    assert page.get_by_text("read-only").count() == 1


def test_the_whole_search_works_by_keyboard(drawn, read_server, tab):
    """Every control can be reached, and the one that has the focus is seen to have it."""
    page = tab(read_server)
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href') ?? document.activeElement.type"))
        assert page.evaluate(
            """() => [document.activeElement, document.activeElement.previousElementSibling].some(
            (one) => one && getComputedStyle(one).outlineStyle !== 'none')"""
        )
    assert {"/identities", "/review", "/map", "/gallery", "file"} <= reached


def test_a_key_is_asked_for_once(copied, chromium):
    with serving(copied, SSS_SERVE_KEY="correct-horse-battery-staple") as address:
        context = chromium.new_context(base_url=address)
        page = context.new_page()
        page.goto("/identities")
        assert page.locator("h1").inner_text() == "Sign in"
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.locator("[role=alert]").wait_for()
        page.get_by_label("Key").fill("correct-horse-battery-staple")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Identities").wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.goto("/identities")
        assert page.locator("h1").inner_text() == "Sign in"
        context.close()


def test_what_is_not_there_is_said_in_one_line(read_server, chromium):
    context = chromium.new_context(base_url=read_server)
    page = context.new_page()
    for path in ("/nowhere", "/identity?name=nobody", "/?q=gone"):
        answer = page.goto(path)
        assert answer.status == 404, path
        assert page.locator("main h1").inner_text()
        assert page.locator("main").get_by_role("link", name="Search").count() == 1
    context.close()


def test_several_queries_stand_beside_each_other_and_their_names_within_their_box(drawn, read_server, tab):
    with open_gallery(str(drawn.store)) as gallery:
        nameless = [one.id for one in gallery.scroll() if one.identity is None][:3]  # shown with the names of files
    assert len(nameless) == 3
    for width in (1200, 768, 390):
        page = tab(read_server, viewport={"width": width, "height": 800})
        page.goto("/?" + "&".join(f"like={point}" for point in nameless))
        spills = "(all) => all.filter((one) => one.scrollWidth > one.clientWidth).length"
        assert page.locator(".query .text").evaluate_all(spills) == 0, width
        tops = {card.bounding_box()["y"] for card in page.locator(".query .card").all()}
        assert len(tops) == (1 if width == 768 else 3), width
