// A box drawn on a query image, with mouse, pen or finger: the search is then for what is in it.
const WHOLE = 10000; // the image's width and height in the numbers of the address
const LEAST = 200;

export function crop(frame) {
  if (frame.dataset.ready) return;
  frame.dataset.ready = "yes";
  const [dim, box] = frame.querySelectorAll("path, rect");
  let start = null;
  let drawn = null;

  const place = (event) => {
    const at = frame.getBoundingClientRect();
    const share = (value, low, size) => Math.round(Math.min(Math.max((value - low) / size, 0), 1) * WHOLE);
    return [share(event.clientX, at.left, at.width), share(event.clientY, at.top, at.height)];
  };
  const show = ([x, y, width, height]) => {
    dim.setAttribute("d", `M0 0H${WHOLE}V${WHOLE}H0Z M${x} ${y}v${height}h${width}v${-height}Z`);
    for (const [name, value] of Object.entries({ x, y, width, height })) box.setAttribute(name, value);
  };

  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    start = place(event);
    drawn = null;
  });
  frame.addEventListener("pointermove", (event) => {
    if (start === null) return;
    const end = place(event);
    drawn = [
      Math.min(start[0], end[0]), Math.min(start[1], end[1]),
      Math.abs(end[0] - start[0]), Math.abs(end[1] - start[1]),
    ];
    show(drawn);
  });
  frame.addEventListener("pointerup", () => {
    const done = drawn;
    start = drawn = null;
    if (done === null) return;
    if (done[2] < LEAST || done[3] < LEAST) {
      show(frame.dataset.box.split(",").map(Number));
      return;
    }
    const form = frame.closest(".card").querySelector("form");
    form.elements.box.value = done.join(",");
    form.requestSubmit();
  });
  frame.addEventListener("pointercancel", () => {
    start = drawn = null;
    show(frame.dataset.box.split(",").map(Number));
  });
}
