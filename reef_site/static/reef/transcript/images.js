// Images of the message that is being written: chosen, pasted or dropped.
//
// They are the files of the form's own input, so the form sends them.
import { byId, showProblem } from "../core.js";

const input = byId("images");
const list = byId("chosen");
const refused = byId("refused");
const MEGABYTE = 1_000_000;

const isAccepted = (file) => input.accept.split(",").includes(file.type);

function setFiles(files) {
  const chosen = new DataTransfer();
  for (const file of files) chosen.items.add(file);
  input.files = chosen.files;
  show();
}

// Choose the images among these files, and say why the others are not taken.
function choose(files, chosenBefore = []) {
  const others = files.filter((file) => !isAccepted(file)).map((file) => file.name);
  setFiles([...chosenBefore, ...files.filter(isAccepted)]);
  const problem = others.length ? `${others.join(", ")}: must be ${input.dataset.formats}` : imagesProblem();
  showProblem(refused, problem);
}

// Return why the chosen images cannot be sent; empty if they can.
export function imagesProblem() {
  if (!input) return "";
  const { maxImages, maxBytes } = input.dataset;
  if (input.files.length > maxImages) return `At most ${maxImages} images can be sent with a message.`;
  const bytes = [...input.files].reduce((sum, file) => sum + file.size, 0);
  if (bytes <= maxBytes) return "";
  const size = Math.ceil(bytes / MEGABYTE * 10) / 10;
  return `The images have ${size} MB, at most ${maxBytes / MEGABYTE} MB can be sent with a message.`;
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
  button.addEventListener("click", () => choose([...input.files].filter((each) => each !== file)));
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
  input.addEventListener("change", () => choose([...input.files]));
  composer.addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    // Spreadsheets and text editors copy a picture of the text too; then the text is meant.
    if (!files.length || types.includes("text/plain")) return;
    event.preventDefault();
    choose([...files], input.files);
  });
  composer.addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  composer.addEventListener("drop", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    choose([...event.dataTransfer.files], input.files);
  });
  show();
}
