// Images on a plane: zoom, move, find, and a legend that turns values off and on. One script for the page of
// `sss plot`, for reports and for `sss serve`. A page that needs nothing else has its images as dots, which work
// without a script, too: here they become points on a canvas.
const MARGIN = 14;
const FADED = 0.1;
const MOST_ZOOM = 60;
const KEY_STEP = 40;

const folded = (text) => text.normalize("NFC").trim().toLowerCase();
const between = (low, value, high) => Math.min(Math.max(value, low), high);

function made(tag, set = {}, ...children) {
  const element = Object.assign(document.createElement(tag), set);
  element.append(...children);
  return element;
}

export class Plane {
  /**
   * canvas: in the element that its card may cover. points: {x, y (0 to 1, up), colour, caption, name (of its
   * identity, or null), key, entry (its line of the legend), picture() (an element, or null)}.
   */
  constructor(canvas, points) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.points = points.map((point) => ({ ...point, text: folded(`${point.caption}\n${point.name ?? ""}\n${point.key}`) }));
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.fingers = new Map();
    this.off = new Set(); // lines of the legend
    this.found = null; // points that are looked for
    this.card = made("div", { className: "hover", hidden: true });
    this.stage = made("div", { className: "stage" });
    canvas.replaceWith(this.stage);
    this.stage.append(canvas, this.card);
  }

  start() {
    this.makeTools();
    this.makeLegend(this.canvas.closest(".plane")?.querySelector("aside"));
    this.resize();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.listen();
  }

  // What is drawn

  resize() {
    const sharp = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * sharp);
    this.canvas.height = Math.round(this.height * sharp);
    this.pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    this.draw();
  }

  get unit() {
    return (Math.min(this.width, this.height) - 2 * MARGIN) * this.view.zoom;
  }

  toScreen([x, y]) {
    return [this.width / 2 + (x - this.view.x) * this.unit, this.height / 2 - (y - this.view.y) * this.unit];
  }

  toPlane([x, y]) {
    return [this.view.x + (x - this.width / 2) / this.unit, this.view.y - (y - this.height / 2) / this.unit];
  }

  /** What was asked for by name shows even where its line of the legend is off. */
  visible(point) {
    return this.found?.has(point) || !this.off.has(point.entry);
  }

  /** The points that stand out; null while all do. */
  lit() {
    return this.found;
  }

  draw() {
    const { pen } = this;
    const ground = getComputedStyle(this.canvas).backgroundColor;
    const lit = this.lit();
    this.radius = between(3, 110 / Math.sqrt(this.points.length), 6) * Math.min(2, Math.sqrt(this.view.zoom));
    pen.clearRect(0, 0, this.width, this.height);
    pen.lineWidth = 1;
    pen.strokeStyle = ground;
    const order = lit ? [...this.points].sort((a, b) => lit.has(a) - lit.has(b)) : this.points;
    for (const point of order) {
      const [x, y] = this.toScreen([point.x, point.y]);
      if (x < -20 || y < -20 || x > this.width + 20 || y > this.height + 20 || !this.visible(point)) continue;
      pen.globalAlpha = lit && !lit.has(point) ? FADED : 1;
      pen.beginPath();
      pen.arc(x, y, this.radius, 0, 2 * Math.PI);
      pen.fillStyle = point.colour;
      pen.fill();
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  // Where one looks

  zoomAt(at, factor) {
    const before = this.toPlane(at);
    this.view.zoom = between(1, this.view.zoom * factor, MOST_ZOOM);
    const after = this.toPlane(at);
    this.look(this.view.x + before[0] - after[0], this.view.y + before[1] - after[1]);
  }

  move(right, down) {
    this.look(this.view.x - right / this.unit, this.view.y + down / this.unit);
  }

  look(x, y, zoom = this.view.zoom) {
    this.view = { x: between(0, x, 1), y: between(0, y, 1), zoom };
    this.draw();
  }

  showAll() {
    this.look(0.5, 0.5, 1);
  }

  /** Zoom to some points, with room around them. */
  frame(points) {
    if (!points.length) return;
    const range = (values) => [Math.min(...values), Math.max(...values)];
    const [left, right] = range(points.map((point) => point.x));
    const [low, high] = range(points.map((point) => point.y));
    this.look((left + right) / 2, (low + high) / 2, between(1, 0.7 / Math.max(right - left, high - low, 0.01), MOST_ZOOM));
  }

  zoomBy(factor) {
    this.zoomAt([this.width / 2, this.height / 2], factor);
  }

  makeTools() {
    const button = (text, says, deed) => {
      const one = made("button", { type: "button", textContent: text, title: says });
      one.setAttribute("aria-label", says);
      one.addEventListener("click", deed);
      return one;
    };
    this.search = made("input", { type: "search", placeholder: "Find an identity or a file", spellcheck: false });
    this.search.setAttribute("aria-label", "Find an identity or a file");
    this.said = made("output");
    this.search.addEventListener("input", () => this.find(this.search.value));
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.frame([...(this.found ?? [])]);
      else if (event.key === "Escape") this.find((this.search.value = ""));
    });
    this.tools = made(
      "div",
      { className: "tools" },
      this.search,
      this.said,
      button("+", "Zoom in (key +)", () => this.zoomBy(1.4)),
      button("−", "Zoom out (key −)", () => this.zoomBy(1 / 1.4)),
      button("All", "Show all (key 0)", () => this.showAll()),
    );
    this.stage.before(this.tools);
  }

  // What is looked for

  find(text) {
    const wanted = folded(text);
    this.found = null;
    if (wanted) {
      const same = this.points.filter((point) => point.name !== null && folded(point.name) === wanted);
      this.found = new Set(same.length ? same : this.points.filter((point) => point.text.includes(wanted)));
    }
    const count = this.found?.size ?? 0;
    this.said.textContent = !wanted ? "" : `${count.toLocaleString("en")} ${count === 1 ? "image" : "images"}`;
    const entries = new Set([...(this.found ?? [])].map((point) => point.entry));
    for (const line of this.lines) line.item.hidden = Boolean(wanted) && !entries.has(line.entry);
    if (this.more) {
      this.more.hidden = Boolean(wanted) && !this.more.querySelector("li:not([hidden])");
      this.wasOpen ??= this.more.open;
      this.more.open = Boolean(wanted) || this.wasOpen;
      if (!wanted) this.wasOpen = null;
    }
    this.hide();
    this.draw();
  }

  makeLegend(aside) {
    this.lines = [];
    if (!aside) return;
    this.more = aside.querySelector("details");
    this.everything = made("button", { type: "button", className: "everything", textContent: "show all" });
    this.everything.addEventListener("click", () => this.turn([]));
    aside.querySelector(".legend").before(this.everything);
    for (const item of aside.querySelectorAll(".legend li")) {
      const entry = Number(item.dataset.entry);
      const button = made("button", { type: "button", title: "Click: off or on. Twice: this one only." });
      button.append(...item.childNodes);
      item.append(button);
      this.lines.push({ entry, item, button });
      button.addEventListener("click", () => {
        const off = new Set(this.off);
        if (!off.delete(entry)) off.add(entry);
        this.turn(off);
      });
      button.addEventListener("dblclick", () => this.turn(this.lines.map((line) => line.entry).filter((one) => one !== entry)));
    }
    this.turn([]);
  }

  /** Turn these lines of the legend off, and all others on. */
  turn(off) {
    this.off = new Set(off);
    for (const { entry, button } of this.lines) button.setAttribute("aria-pressed", String(!this.off.has(entry)));
    this.everything.disabled = !this.off.size; // its room stays: a second click falls where the first one fell
    this.draw();
  }

  // Hands

  listen() {
    const { canvas } = this;
    const at = (event) => [event.offsetX, event.offsetY];
    // Within a longer page the wheel scrolls on, until somebody has clicked here.
    const eager = canvas.closest(".plane") !== null;
    canvas.addEventListener("wheel", (event) => {
      if (!eager && !event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      this.zoomAt(at(event), Math.exp(-event.deltaY / 400));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 1) return;
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, at(event));
      this.hide();
      if (this.fingers.size === 1) this.travelled = 0;
      this.press(event, at(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = at(event);
      const before = this.fingers.get(event.pointerId);
      if (!before) return this.hover(this.nearest(now));
      this.travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (this.fingers.size > 1) this.pinch(event.pointerId, now);
      else this.drag(before, now);
      this.fingers.set(event.pointerId, now);
    });
    const end = (event) => {
      if (!this.fingers.delete(event.pointerId) || this.fingers.size) return;
      canvas.classList.remove("moving");
      this.release(event.type === "pointerup" && this.travelled < 4, at(event));
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.hide());
    canvas.addEventListener("keydown", (event) => {
      const deeds = {
        ArrowLeft: () => this.move(KEY_STEP, 0), ArrowRight: () => this.move(-KEY_STEP, 0),
        ArrowUp: () => this.move(0, KEY_STEP), ArrowDown: () => this.move(0, -KEY_STEP),
        "+": () => this.zoomBy(1.4), "=": () => this.zoomBy(1.4), "-": () => this.zoomBy(1 / 1.4),
        0: () => this.showAll(), Escape: () => this.escape(),
      };
      if (!(event.key in deeds) || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.hide();
      deeds[event.key]();
    });
  }

  press() {
    this.canvas.classList.add("moving");
  }

  drag(before, now) {
    this.move(now[0] - before[0], now[1] - before[1]);
  }

  /** clicked: it was no drag. */
  release(clicked, at) {
    if (clicked) this.hover(this.nearest(at)); // a finger does not point
  }

  escape() {
    this.search.value = "";
    this.find("");
  }

  pinch(id, now) {
    const [other] = [...this.fingers].filter(([one]) => one !== id).map(([, place]) => place);
    const before = this.fingers.get(id);
    const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
    this.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    this.zoomAt([(now[0] + other[0]) / 2, (now[1] + other[1]) / 2], apart(now) / apart(before));
  }

  nearest(at) {
    let best = null;
    let least = Math.max(this.radius + 3, 8) ** 2;
    for (const point of this.points) {
      const [x, y] = this.toScreen([point.x, point.y]);
      const away = (x - at[0]) ** 2 + (y - at[1]) ** 2;
      if (away < least && this.visible(point) && (!this.found || this.found.has(point))) [best, least] = [point, away];
    }
    return best;
  }

  hover(point) {
    this.canvas.classList.toggle("pointing", point !== null);
    if (point === null) return this.hide();
    if (this.shown !== point) this.card.replaceChildren(...[point.picture()].filter(Boolean), point.caption);
    this.shown = point;
    this.card.hidden = false;
    const [x, y] = this.toScreen([point.x, point.y]);
    this.card.style.left = `${between(0, x + 12, Math.max(this.width - this.card.offsetWidth - 2, 0))}px`;
    this.card.style.top = y + 230 > this.height ? "" : `${y + 12}px`;
    this.card.style.bottom = y + 230 > this.height ? `${this.height - y + 12}px` : "";
  }

  hide() {
    this.card.hidden = true;
  }
}

function pointOf(dot) {
  const card = dot.querySelector("span");
  return {
    x: parseFloat(dot.style.left) / 100,
    y: parseFloat(dot.style.bottom) / 100,
    colour: dot.style.backgroundColor,
    caption: card.textContent.trim(),
    name: dot.dataset.name ?? null,
    key: "",
    entry: Number(dot.dataset.entry ?? -1),
    picture: () => card.querySelector("img")?.cloneNode() ?? null,
  };
}

for (const map of document.querySelectorAll(".map")) {
  const canvas = made("canvas", { tabIndex: 0, ariaLabel: "Images on a plane: near ones look alike" });
  canvas.setAttribute("role", "img");
  map.after(canvas);
  map.hidden = true;
  new Plane(canvas, Array.from(map.children, pointOf)).start();
}
