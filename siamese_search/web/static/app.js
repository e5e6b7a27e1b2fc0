// What the pages do better with a script: nothing here is needed to read them.
import { crop } from "./crop.js";
import { plane } from "./map.js";

const upload = (files, fresh) => {
  const form = document.querySelector("form.upload");
  const images = [...files].filter((file) => file.type.startsWith("image/") || file.type === "");
  if (!form || !images.length) return false;
  const held = new DataTransfer();
  images.forEach((file) => held.items.add(file));
  form.querySelector("input[type=file]").files = held.files;
  if (fresh) form.elements.state.value = form.dataset.fresh;
  form.requestSubmit();
  return true;
};

const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

// One listener each, on the document: what htmx exchanges below it needs no new ones.
document.addEventListener("dragover", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  document.body.classList.remove("dropping");
  upload(event.dataTransfer.files, true);
});
document.addEventListener("paste", (event) => {
  if (upload(event.clipboardData?.files ?? [], true)) event.preventDefault();
});
document.addEventListener("change", (event) => {
  const { target } = event;
  if (target.type === "file" && target.files.length) target.form.requestSubmit();
  else if (target.closest("form[data-submit]")) target.form.requestSubmit();
  else if (target.name === "points") picked(target.form);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  const button = document.querySelector(`form[data-keys] button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!button || button.disabled || document.documentElement.matches(":has(.htmx-request), .htmx-request")) return;
  event.preventDefault();
  button.click();
});

function picked(form) {
  const said = form.querySelector("[data-picked]");
  if (!said) return;
  const count = [...form.elements].filter((one) => one.name === "points" && one.checked).length;
  said.textContent = count ? `${count} selected` : "Select sightings";
}

function begin() {
  document.querySelectorAll("[data-crop]").forEach(crop);
  const canvas = document.querySelector("canvas#plane");
  if (canvas) plane(canvas);
}

document.addEventListener("htmx:after:swap", begin);
begin();
