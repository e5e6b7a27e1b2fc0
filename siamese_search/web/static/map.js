// The gallery on a plane: zoom, move, and a line drawn around images to list them. The line is part of the address.
const MOST_SHOWN = 120;
const MOST_ASKED = 12;
const MARGIN = 14;

export async function plane(canvas) {
  if (canvas.dataset.ready) return;
  canvas.dataset.ready = "yes";
  const answer = await fetch(canvas.dataset.source, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const { points } = await answer.json();
  new Plane(canvas, points);
}

class Plane {
  constructor(canvas, points) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.points = points; // {id, x, y (0 to 1, up), colour, caption, identity}
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.lasso = read(location.hash); // in the numbers of the points
    this.fingers = new Map();
    this.resize();
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.listen();
    this.list();
  }

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

  draw() {
    const { pen } = this;
    const style = getComputedStyle(this.canvas);
    pen.clearRect(0, 0, this.width, this.height);
    const radius = Math.max(3, Math.min(7, 70 / Math.sqrt(this.points.length))) * Math.min(2, Math.sqrt(this.view.zoom));
    const chosen = new Set(this.chosen());
    for (const point of this.points) {
      const [x, y] = this.toScreen([point.x, point.y]);
      if (x < -20 || y < -20 || x > this.width + 20 || y > this.height + 20) continue;
      pen.globalAlpha = chosen.size && !chosen.has(point) ? 0.25 : 0.9;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      pen.fillStyle = point.colour;
      pen.fill();
      pen.lineWidth = 1;
      pen.strokeStyle = style.backgroundColor;
      pen.stroke();
    }
    pen.globalAlpha = 1;
    if (this.lasso.length > 1) {
      pen.beginPath();
      this.lasso.forEach((corner, index) => pen[index ? "lineTo" : "moveTo"](...this.toScreen(corner)));
      pen.closePath();
      pen.strokeStyle = style.color;
      pen.lineWidth = 1.5;
      pen.setLineDash([5, 4]);
      pen.stroke();
      pen.setLineDash([]);
    }
    this.radius = radius;
  }

  chosen() {
    return this.lasso.length > 2 ? this.points.filter((point) => inside([point.x, point.y], this.lasso)) : [];
  }

  nearest(at) {
    let best = null;
    let least = Math.max(this.radius + 3, 8) ** 2;
    for (const point of this.points) {
      const [x, y] = this.toScreen([point.x, point.y]);
      const away = (x - at[0]) ** 2 + (y - at[1]) ** 2;
      if (away < least) [best, least] = [point, away];
    }
    return best;
  }

  zoomAt(at, factor) {
    const before = this.toPlane(at);
    this.view.zoom = Math.min(Math.max(this.view.zoom * factor, 1), 60);
    const after = this.toPlane(at);
    this.view.x += before[0] - after[0];
    this.view.y += before[1] - after[1];
    this.draw();
  }

  move(right, down) {
    this.view.x -= right / this.unit;
    this.view.y += down / this.unit;
    this.draw();
  }

  listen() {
    const { canvas } = this;
    const at = (event) => [event.offsetX, event.offsetY];
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomAt(at(event), Math.exp(-event.deltaY / 400));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 1) return;
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, at(event));
      this.hide();
      this.moving = event.shiftKey || event.button === 1 || this.fingers.size > 1;
      canvas.classList.toggle("moving", this.moving);
      this.former ??= this.lasso;
      this.drawing = this.moving ? null : [at(event)];
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = at(event);
      if (!this.fingers.has(event.pointerId)) return this.hover(now);
      if (this.fingers.size > 1) this.pinch(event.pointerId, now);
      else if (this.moving) {
        const before = this.fingers.get(event.pointerId);
        this.move(now[0] - before[0], now[1] - before[1]);
      } else if (this.drawing) {
        this.drawing.push(now);
        if (this.drawing.length > 3) this.lasso = this.drawing.map((corner) => this.toPlane(corner));
        this.draw();
      }
      this.fingers.set(event.pointerId, now);
    });
    const end = (event) => {
      if (!this.fingers.delete(event.pointerId) || this.fingers.size) return;
      const clicked = !this.moving && (this.drawing?.length ?? 0) <= 4;
      if (this.moving || clicked) this.lasso = this.former;
      this.former = this.drawing = null;
      this.moving = false;
      canvas.classList.remove("moving");
      const point = clicked && event.type === "pointerup" ? this.nearest(at(event)) : null;
      if (point) location.assign(point.link);
      else if (clicked && event.type === "pointerup") this.choose([]);
      else this.choose(this.lasso);
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => this.hide());
    canvas.addEventListener("keydown", (event) => {
      const step = 40;
      const middle = [this.width / 2, this.height / 2];
      const deeds = {
        ArrowLeft: () => this.move(step, 0), ArrowRight: () => this.move(-step, 0),
        ArrowUp: () => this.move(0, step), ArrowDown: () => this.move(0, -step),
        "+": () => this.zoomAt(middle, 1.4), "=": () => this.zoomAt(middle, 1.4), "-": () => this.zoomAt(middle, 1 / 1.4),
        0: () => { this.view = { x: 0.5, y: 0.5, zoom: 1 }; this.draw(); },
        Escape: () => this.choose([]),
      };
      if (!(event.key in deeds) || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      deeds[event.key]();
    });
    document.getElementById("selected-clear").addEventListener("click", () => this.choose([]));
  }

  pinch(id, now) {
    const [other] = [...this.fingers].filter(([one]) => one !== id).map(([, place]) => place);
    const before = this.fingers.get(id);
    const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
    this.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    this.zoomAt([(now[0] + other[0]) / 2, (now[1] + other[1]) / 2], apart(now) / apart(before));
  }

  hover(now) {
    const point = this.nearest(now);
    const card = document.getElementById("hover");
    this.canvas.classList.toggle("pointing", point !== null);
    if (point === null) return this.hide();
    if (card.dataset.id !== point.id) {
      card.dataset.id = point.id;
      const image = new Image();
      image.src = `/images/${point.id}?size=200`;
      image.alt = "";
      card.replaceChildren(image, point.caption);
    }
    card.hidden = false;
    const [x, y] = this.toScreen([point.x, point.y]);
    card.style.left = `${Math.min(Math.max(x + 12, 0), this.width - 108)}px`;
    const room = y + 230 > this.height;
    card.style.top = room ? "" : `${y + 12}px`;
    card.style.bottom = room ? `${this.canvas.parentElement.clientHeight - y + 12}px` : "";
  }

  hide() {
    document.getElementById("hover").hidden = true;
  }

  choose(lasso) {
    this.lasso = simpler(lasso);
    const text = this.lasso.map((corner) => corner.map((value) => Math.round(value * 1000)).join(",")).join(";");
    history.replaceState(history.state, "", text ? `#around=${text}` : location.pathname + location.search);
    this.draw();
    this.list();
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

function card(point) {
  const item = document.createElement("li");
  item.className = "card";
  const link = document.createElement("a");
  link.className = "picture";
  link.href = point.link;
  const image = new Image();
  image.loading = "lazy";
  image.src = `/images/${point.id}?size=400`;
  image.alt = point.caption;
  link.append(image);
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

function read(hash) {
  const text = new URLSearchParams(hash.slice(1)).get("around") ?? "";
  const corners = text.split(";").map((pair) => pair.split(",").map((value) => Number(value) / 1000));
  const good = corners.filter((corner) => corner.length === 2 && corner.every(Number.isFinite));
  return good.length === corners.length ? good.slice(0, 48) : [];
}
