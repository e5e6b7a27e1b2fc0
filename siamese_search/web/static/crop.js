// A box drawn on a query image, with mouse, pen, finger or keys: the search is then for what is in it.
const WHOLE = 10000; // the image's width and height in the numbers of the address
const LEAST = 200;
const STEP = 500; // of a key
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

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

  const now = () => frame.dataset.box.split(",").map(Number);
  // Keys begin with the box that there is, or with the middle of the image.
  const first = () => (now()[2] < WHOLE || now()[3] < WHOLE ? now() : [WHOLE / 4, WHOLE / 4, WHOLE / 2, WHOLE / 2]);
  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  const forget = () => {
    start = drawn = null;
    show(now());
  };
  const search = (box) => {
    start = drawn = null;
    const form = frame.closest(".card").querySelector("form");
    form.elements.box.value = box.join(",");
    form.requestSubmit();
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
    if (done === null || done[2] < LEAST || done[3] < LEAST) forget();
    else search(done);
  });
  frame.addEventListener("pointercancel", forget);

  frame.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow) {
      const [x, y, width, height] = drawn ?? first();
      drawn = event.shiftKey
        ? [x, y, within(width + arrow[0], STEP, WHOLE - x), within(height + arrow[1], STEP, WHOLE - y)]
        : [within(x + arrow[0], 0, WHOLE - width), within(y + arrow[1], 0, WHOLE - height), width, height];
      show(drawn);
    } else if (event.key === "Enter" && drawn) search(drawn);
    else if (event.key === "Escape" && drawn) forget();
    else return;
    event.preventDefault();
  });
}
