// What is looked at, with boxes on it: an image or the camera's video.

const NUM_COLOURS = 8;

export function classStyle(label) {
  return `class-${label % NUM_COLOURS}`;
}

export class Picture {
  constructor(root) {
    this.root = root;
    this.hint = root.querySelector("#hint");
    this.image = root.querySelector("#image");
    this.video = root.querySelector("#video");
    this.boxes = root.querySelector("#boxes");
    this.image.addEventListener("load", () => this.fit(this.image.naturalWidth, this.image.naturalHeight));
    this.video.addEventListener("resize", () => this.fit(this.video.videoWidth, this.video.videoHeight));
  }

  showImage(blob) {
    this.clear();
    this.image.src = URL.createObjectURL(blob);
    this.image.hidden = false;
  }

  showVideo() {
    this.clear();
    this.video.hidden = false;
  }

  clear() {
    if (this.image.src) URL.revokeObjectURL(this.image.src);
    this.image.removeAttribute("src");
    this.image.hidden = true;
    this.video.hidden = true;
    this.hint.hidden = false;
    this.root.classList.add("empty");
    this.boxes.replaceChildren();
  }

  // Make room for a picture of this size.
  fit(width, height) {
    this.hint.hidden = true;
    this.root.classList.remove("empty");
    this.root.style.setProperty("--aspect", width / height);
    this.root.style.setProperty("--pixels", width);
  }

  // Boxes are in pixels of a picture of this size. The best come last, on top of the others.
  draw(found, names, { width, height }) {
    this.fit(width, height);
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    const drawn = [...found].reverse().map(({ box: [x1, y1, x2, y2], score, label }) => {
      const box = document.createElement("div");
      box.className = `box ${classStyle(label)}`;
      box.classList.toggle("high", y1 < 0.05 * height);
      box.classList.toggle("right", x1 > 0.85 * width);
      box.style.left = percent(x1, width);
      box.style.top = percent(y1, height);
      box.style.width = percent(x2 - x1, width);
      box.style.height = percent(y2 - y1, height);
      const name = document.createElement("span");
      name.textContent = `${names[label]} ${score.toFixed(2)}`;
      box.append(name);
      return box;
    });
    this.boxes.replaceChildren(...drawn);
    this.image.alt = `${found.length} objects found`;
  }
}
