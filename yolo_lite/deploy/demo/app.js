// Puts the page together: where pictures come from, what the worker finds in them, what is shown of it.

import { Camera, CameraError } from "./camera.js";
import { classStyle, Picture } from "./picture.js";

const FEW_CLASSES = 12; // of more, only those that were found are offered

const get = (id) => document.getElementById(id);
const status = get("status");
const picture = new Picture(get("stage"));
const camera = new Camera(get("video"), () => {
  leaveCamera();
  complain("The camera has gone.");
});
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map(); // by number of the request, who waits for its answer

let info = null; // of the model, once it is loaded
let last = null; // answer of the worker for the picture that is shown
let newest = 0; // number of the last request
const hidden = new Set(); // classes that are not shown

function say(message) {
  status.textContent = message;
  status.classList.remove("failed");
}

function complain(message) {
  status.textContent = message;
  status.classList.add("failed");
}

worker.addEventListener("message", ({ data }) => {
  if (data.ready) return begin(data.ready);
  if (data.failed) return complain(`The model cannot be loaded: ${data.failed}`);
  waiting.get(data.id)?.(data);
  waiting.delete(data.id);
});
worker.addEventListener("error", (event) => {
  event.preventDefault();
  complain(`This browser cannot run the model${event.message ? `: ${event.message}` : ""}. Is it up to date?`);
});

// What the worker finds in a picture; it looks at one after the other.
function look(source) {
  const id = ++newest;
  return new Promise((resolve) => {
    waiting.set(id, resolve);
    worker.postMessage({ id, source }, source instanceof ImageBitmap ? [source] : []);
  });
}

function begin(loaded) {
  info = loaded;
  document.title = get("title").textContent = info.name;
  const [height, width] = info.inputSize;
  const size = width === height ? `${width} px` : `${width} × ${height} px`;
  const count = info.classNames.length === 1 ? "1 class" : `${info.classNames.length} classes`;
  get("about").textContent = `${info.variant}, ${info.precision}, ${size}, ${count}. Pictures stay on this device.`;
  get("score").min = info.leastScore;
  get("score").value = info.score;
  for (const id of ["choose", "camera"]) get(id).disabled = false;
  say("Ready.");
  show();
}

async function lookAtFile(blob) {
  if (info === null) return;
  leaveCamera();
  last = null;
  picture.showImage(blob);
  show();
  say("Looking…");
  const answer = await look(blob);
  if (answer.id !== newest) return; // another picture came meanwhile
  if (answer.error) {
    picture.clear();
    const name = blob.name ? `"${blob.name}"` : "What was given";
    complain(answer.error === "unreadable" ? `${name} is not an image that this browser reads.` : failure(answer.error));
    return;
  }
  last = answer;
  show();
}

function failure(reason) {
  return `The model failed: ${reason}`;
}

function shown() {
  const score = Number(get("score").value);
  return last.found.filter((one) => one.score > score && !hidden.has(one.label));
}

function show() {
  get("score-shown").textContent = Number(get("score").value).toFixed(2);
  get("list").hidden = last === null;
  showClasses();
  if (last === null) return;
  const found = shown();
  picture.draw(found, info.classNames, last.size);
  get("rows").replaceChildren(...found.map(row));
  const { decode, resize, network, suppress } = last.times;
  const all = decode + resize + network + suppress;
  const objects = found.length === 1 ? "1 object" : `${found.length} objects`;
  say(`${objects} in ${last.size.width} × ${last.size.height} pixels. ${all.toFixed(0)} ms, network ${network.toFixed(0)} ms.`);
}

function row({ box, score, label }) {
  const line = document.createElement("tr");
  for (const content of [info.classNames[label], score.toFixed(3), box.map((side) => side.toFixed(1)).join(", ")]) {
    line.insertCell().textContent = content;
  }
  return line;
}

// Buttons that show and hide classes, with how many of each there are above the threshold.
function showClasses() {
  const counts = info.classNames.map(() => 0);
  const score = Number(get("score").value);
  for (const one of last?.found ?? []) if (one.score > score) counts[one.label]++;
  const isOffered = (label) => info.classNames.length <= FEW_CLASSES || counts[label] > 0 || hidden.has(label);
  const offered = counts.map((_, label) => label).filter(isOffered);
  const buttons = get("classes");
  if (buttons.dataset.labels !== offered.join()) {
    buttons.dataset.labels = offered.join(); // kept as they are otherwise, and with them the keyboard's focus
    buttons.replaceChildren(...offered.map(classButton));
  }
  for (const button of buttons.children) {
    const label = Number(button.dataset.label);
    button.setAttribute("aria-pressed", !hidden.has(label));
    button.querySelector(".count").textContent = last === null ? "" : counts[label];
  }
}

function classButton(label) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = classStyle(label);
  button.dataset.label = label;
  const [dot, name, count] = ["dot", "name", "count"].map((kind) => {
    const part = document.createElement("span");
    part.className = kind;
    return part;
  });
  name.textContent = info.classNames[label];
  button.append(dot, name, count);
  button.addEventListener("click", () => {
    if (!hidden.delete(label)) hidden.add(label);
    show();
  });
  return button;
}

async function openCamera(id) {
  say("Opening the camera…");
  try {
    if (!(await camera.open(id))) return;
  } catch (error) {
    leaveCamera();
    if (!(error instanceof CameraError)) throw error;
    complain(error.message);
    return;
  }
  newest++; // an answer that is still to come is of another picture
  last = null;
  picture.showVideo();
  status.setAttribute("aria-live", "off"); // it changes with every frame
  get("camera").textContent = "Stop camera";
  const cameras = await camera.all();
  get("cameras").replaceChildren(
    ...cameras.map(({ id: value, name, isOpen }) => new Option(name, value, isOpen, isOpen)),
  );
  get("cameras").hidden = cameras.length < 2;
  follow(camera.stream);
}

// Look at one frame of the camera after the other, as fast as the network goes.
async function follow(stream) {
  const video = get("video");
  while (camera.stream === stream) {
    await new Promise(requestAnimationFrame); // which waits while the page is not visible
    if (camera.stream !== stream || video.readyState < video.HAVE_CURRENT_DATA) continue;
    const answer = await look(await createImageBitmap(video));
    if (camera.stream !== stream) return;
    if (answer.error) {
      leaveCamera();
      complain(failure(answer.error));
      return;
    }
    last = answer;
    show();
  }
}

function leaveCamera() {
  camera.stop();
  status.removeAttribute("aria-live");
  get("camera").textContent = "Open camera";
  get("cameras").hidden = true;
  if (!get("video").hidden) {
    picture.clear();
    last = null;
    show();
  }
}

get("choose").addEventListener("click", () => get("file").click());
get("file").addEventListener("change", ({ target }) => {
  if (target.files.length > 0) lookAtFile(target.files[0]);
  target.value = ""; // the same file can then be chosen again
});
get("camera").addEventListener("click", () => {
  if (!camera.isOpen) return openCamera();
  leaveCamera();
  say("Ready.");
});
get("cameras").addEventListener("change", ({ target }) => openCamera(target.value));
get("score").addEventListener("input", show);

addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files.length > 0) lookAtFile(clipboardData.files[0]);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (relatedTarget === null) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length > 0) lookAtFile(event.dataTransfer.files[0]);
  else complain("That is no file: save the image first, then drop it.");
});
