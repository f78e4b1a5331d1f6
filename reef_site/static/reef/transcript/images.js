// Images of the message that is being written: chosen, pasted or dropped.
//
// They are the files of the form's own input, so the form sends them.
import { byId } from "../core.js";

const input = byId("images");
const list = byId("chosen");

const accepted = (file) => input.accept.split(",").includes(file.type);

function setFiles(files) {
  const chosen = new DataTransfer();
  for (const file of files) chosen.items.add(file);
  input.files = chosen.files;
  show();
}

function add(files) {
  const images = [...files].filter(accepted);
  if (images.length) setFiles([...input.files, ...images]);
  return images.length > 0;
}

function show() {
  list.hidden = !input.files.length;
  list.replaceChildren(...[...input.files].map(itemOf));
}

function itemOf(file) {
  const item = document.createElement("li");
  const image = document.createElement("img");
  image.alt = file.name;
  const reader = new FileReader();
  reader.addEventListener("load", () => (image.src = reader.result));
  reader.readAsDataURL(file);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Remove";
  button.setAttribute("aria-label", `Remove ${file.name}`);
  button.addEventListener("click", () => setFiles([...input.files].filter((each) => each !== file)));
  item.append(image, button);
  return item;
}

// A text that differs for other images.
export function describeImages() {
  return [...(input?.files || [])].map((file) => `${file.name} ${file.size} ${file.lastModified}`).join("\n");
}

export function clearImages() {
  if (input) setFiles([]);
}

export function initImages(composer) {
  if (!input) return;
  input.addEventListener("change", show);
  composer.addEventListener("paste", (event) => {
    if (add(event.clipboardData.files)) event.preventDefault();
  });
  composer.addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  composer.addEventListener("drop", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
  show();
}
