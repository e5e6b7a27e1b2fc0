// The gallery on a plane: what plane.js does, and a line drawn around images to list them. The line is part of the
// address, and so is what is looked for.
import { Plane } from "./plane.js";

const MOST_SHOWN = 120;
const MOST_ASKED = 12;

export async function plane(canvas) {
  if (canvas.dataset.ready) return;
  canvas.dataset.ready = "yes";
  const answer = await fetch(canvas.dataset.source, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const { points } = await answer.json();
  new Gallery(canvas, points.map((point) => ({ ...point, picture: () => pictureOf(point, 200) }))).start();
}

class Gallery extends Plane {
  lasso = []; // in the numbers of the points

  start() {
    const asked = new URLSearchParams(location.hash.slice(1));
    this.lasso = read(asked.get("around") ?? "");
    super.start();
    this.hand = document.createElement("button");
    Object.assign(this.hand, { type: "button", textContent: "Move", title: "Dragging moves the map, and selects nothing" });
    this.hand.setAttribute("aria-pressed", "false");
    this.hand.addEventListener("click", () => {
      const moves = this.stage.classList.toggle("hand");
      this.hand.setAttribute("aria-pressed", String(moves));
    });
    this.said.after(this.hand);
    document.getElementById("selected-clear").addEventListener("click", () => this.choose([]));
    this.search.value = asked.get("find") ?? "";
    super.find(this.search.value);
    this.list();
  }

  draw() {
    super.draw();
    if (this.lasso.length < 2) return;
    const { pen } = this;
    pen.beginPath();
    this.lasso.forEach((corner, index) => pen[index ? "lineTo" : "moveTo"](...this.toScreen(corner)));
    pen.closePath();
    pen.strokeStyle = getComputedStyle(this.canvas).color;
    pen.lineWidth = 1.5;
    pen.setLineDash([5, 4]);
    pen.stroke();
    pen.setLineDash([]);
  }

  lit() {
    const chosen = this.chosen();
    if (!chosen.length) return this.found;
    return new Set(this.found ? [...chosen, ...this.found] : chosen);
  }

  chosen() {
    if (this.lasso.length < 3) return [];
    return this.points.filter((point) => this.visible(point) && inside([point.x, point.y], this.lasso));
  }

  find(text) {
    super.find(text);
    this.remember();
    this.list();
  }

  turn(off) {
    super.turn(off);
    this.list();
  }

  escape() {
    super.escape();
    this.choose([]);
  }

  press(event, at) {
    const moves = this.stage.classList.contains("hand") !== event.shiftKey;
    this.moving = moves || event.button === 1 || this.fingers.size > 1;
    this.canvas.classList.toggle("moving", this.moving);
    this.former ??= this.lasso;
    this.drawing = this.moving ? null : [at];
  }

  drag(before, now) {
    if (this.moving) return super.drag(before, now);
    this.drawing.push(now);
    if (this.drawing.length > 3) this.lasso = this.drawing.map((corner) => this.toPlane(corner));
    this.draw();
  }

  release(clicked, at) {
    if (this.moving || clicked) this.lasso = this.former;
    this.former = this.drawing = null;
    const point = clicked ? this.nearest(at) : null;
    if (point) location.assign(point.link);
    else if (!this.moving) this.choose(clicked ? [] : this.lasso);
    this.moving = false;
  }

  choose(lasso) {
    this.lasso = simpler(lasso);
    this.remember();
    this.draw();
    this.list();
  }

  remember() {
    const around = this.lasso.map((corner) => corner.map((value) => Math.round(value * 1000)).join(",")).join(";");
    const state = new URLSearchParams(Object.entries({ around, find: this.search.value }).filter(([, text]) => text));
    history.replaceState(history.state, "", state.size ? `#${state}` : location.pathname + location.search);
  }

  list() {
    const chosen = this.chosen();
    const section = document.getElementById("selected");
    section.hidden = this.lasso.length < 3;
    document.getElementById("selected-count").textContent =
      chosen.length === 1 ? "1 image selected" : `${chosen.length.toLocaleString("en")} images selected`;
    const search = document.getElementById("selected-search");
    search.hidden = !chosen.length;
    search.href = `/?${new URLSearchParams(spread(chosen, MOST_ASKED).map((point) => ["like", point.id]))}`;
    document.getElementById("selected-cards").replaceChildren(...chosen.slice(0, MOST_SHOWN).map(card));
    document.getElementById("selected-more").textContent =
      chosen.length > MOST_SHOWN ? `and ${(chosen.length - MOST_SHOWN).toLocaleString("en")} more` : "";
  }
}

function pictureOf(point, size) {
  const image = new Image();
  image.loading = size > 200 ? "lazy" : "eager";
  image.src = `/images/${point.id}?size=${size}`;
  image.alt = "";
  return image;
}

function card(point) {
  const item = document.createElement("li");
  item.className = "card";
  const link = document.createElement("a");
  link.className = "picture";
  link.href = point.link;
  link.append(Object.assign(pictureOf(point, 400), { alt: point.caption }));
  const text = document.createElement("div");
  text.className = "text soft";
  text.textContent = point.caption;
  item.append(link, text);
  return item;
}

/** Evenly spread over a list, at most so many. */
function spread(list, most) {
  const step = Math.max(1, list.length / most);
  return Array.from({ length: Math.min(most, list.length) }, (_, index) => list[Math.floor(index * step)]);
}

function inside([x, y], corners) {
  let within = false;
  for (let i = 0, j = corners.length - 1; i < corners.length; j = i++) {
    const [[ax, ay], [bx, by]] = [corners[i], corners[j]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

/** Fewer corners, so that the address stays short. */
function simpler(corners) {
  return spread(corners, 48);
}

function read(text) {
  const corners = text.split(";").map((pair) => pair.split(",").map((value) => Number(value) / 1000));
  const good = corners.filter((corner) => corner.length === 2 && corner.every(Number.isFinite));
  return good.length === corners.length ? good.slice(0, 48) : [];
}
