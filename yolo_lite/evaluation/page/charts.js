"use strict";
// Curves as SVG: a line chart with values under the pointer, sized to its place so that letters stay readable.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 44, right: 12, top: 10, bottom: 40 };
const DASHES = ["", "7 4", "2 3", "8 3 2 3"];
const NUM_COLOURS = 6;

function element(name, attributes = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, content = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = content;
  return made;
}

// Colour and dash of a class by its row; row 0 is that of all classes.
function lineStyle(row) {
  if (row === 0) return { stroke: "var(--fg)", "stroke-width": 3 };
  const k = row - 1;
  const dash = DASHES[Math.floor(k / NUM_COLOURS) % DASHES.length];
  return { stroke: `var(--c${k % NUM_COLOURS})`, "stroke-width": 1.8, "stroke-dasharray": dash };
}

function number(value) {
  return value === null || value === undefined ? "–" : value.toFixed(3);
}

// A chart of lines over x from 0 to 1, with y from 0 to 1.
class Chart {
  // place: the element to fill; label: what it shows, in words; onHover: told the position in x under the pointer.
  constructor(place, label, onHover = () => {}) {
    this.place = place;
    this.onHover = onHover;
    this.content = { x: [], lines: [], bars: [], xLabel: "", yLabel: "", at: null, diagonal: false };
    this.cursor = null;
    this.svg = shape("svg", { tabindex: 0, role: "img", "aria-label": `${label}. Arrow keys read values.` });
    this.tip = element("div", { class: "tip", hidden: "", "aria-live": "polite" });
    place.replaceChildren(this.svg, this.tip);
    this.svg.addEventListener("pointermove", (event) => this.follow(event));
    this.svg.addEventListener("pointerdown", (event) => this.follow(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("blur", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => this.step(event));
    new ResizeObserver(() => this.draw()).observe(place);
  }

  show(content) {
    this.content = { ...this.content, ...content };
    this.draw();
  }

  toX(value) {
    return MARGIN.left + value * (this.width - MARGIN.left - MARGIN.right);
  }

  toY(value) {
    return this.height - MARGIN.bottom - value * (this.height - MARGIN.top - MARGIN.bottom);
  }

  draw() {
    this.width = this.place.clientWidth;
    if (!this.width) return; // of a model that is not shown
    this.height = Math.round(Math.min(430, Math.max(240, this.width * 0.62)));
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.setAttribute("height", this.height);
    const { x, lines, bars, xLabel, yLabel, at, diagonal } = this.content;
    const drawn = [];
    for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
      const [left, top] = [this.toX(tick), this.toY(tick)];
      drawn.push(shape("line", { class: "grid", x1: this.toX(0), x2: this.toX(1), y1: top, y2: top }));
      drawn.push(shape("line", { class: "grid", x1: left, x2: left, y1: this.toY(0), y2: this.toY(1) }));
      drawn.push(shape("text", { x: this.toX(0) - 8, y: top + 4, "text-anchor": "end" }, String(tick)));
      drawn.push(shape("text", { x: left, y: this.toY(0) + 17, "text-anchor": "middle" }, String(tick)));
    }
    drawn.push(shape("text", { x: this.toX(0.5), y: this.height - 5, "text-anchor": "middle" }, xLabel));
    const turned = `rotate(-90) translate(${-this.toY(0.5)} 11)`;
    drawn.push(shape("text", { transform: turned, "text-anchor": "middle" }, yLabel));
    for (const bar of bars) {
      const top = this.toY(bar.share);
      drawn.push(shape("rect", { class: "count", x: this.toX(bar.from), y: top, height: this.toY(0) - top,
        width: Math.max(1, this.toX(bar.to) - this.toX(bar.from) - 1) }));
    }
    if (diagonal) {
      drawn.push(shape("path", { class: "dashed", d: `M${this.toX(0)} ${this.toY(0)}L${this.toX(1)} ${this.toY(1)}` }));
    }
    if (at !== null) {
      drawn.push(shape("path", { class: "dashed", d: `M${this.toX(at)} ${this.toY(0)}V${this.toY(1)}` }));
    }
    for (const line of lines) {
      drawn.push(shape("path", { ...line.style, d: this.path(x, line.y), "data-row": line.row }));
      if (line.dotted) {
        line.y.forEach((y, i) => drawn.push(shape("circle", { cx: this.toX(x[i]), cy: this.toY(y), r: 3.5,
          fill: line.style.stroke })));
      }
    }
    this.pointer = shape("g");
    this.svg.replaceChildren(...drawn, this.pointer);
    if (this.cursor !== null) this.point(Math.min(this.cursor, x.length - 1));
  }

  // What cannot be told, null, leaves a gap.
  path(x, y) {
    let path = "";
    let pen = "M";
    y.forEach((value, i) => {
      if (value === null) {
        pen = "M";
        return;
      }
      path += `${pen}${this.toX(x[i]).toFixed(1)} ${this.toY(value).toFixed(1)}`;
      pen = "L";
    });
    return path;
  }

  follow(event) {
    const box = this.svg.getBoundingClientRect();
    const { x } = this.content;
    if (!x.length) return;
    const wanted = (event.clientX - box.left - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
    let nearest = 0;
    x.forEach((value, i) => {
      if (Math.abs(value - wanted) < Math.abs(x[nearest] - wanted)) nearest = i;
    });
    const y = 1 - (event.clientY - box.top - MARGIN.top) / (this.height - MARGIN.top - MARGIN.bottom);
    this.point(nearest, y);
  }

  step(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const last = this.content.x.length - 1;
    if (!step || last < 0) return;
    event.preventDefault();
    const from = this.cursor === null ? (step > 0 ? -1 : last + 1) : this.cursor;
    this.point(Math.min(last, Math.max(0, from + step)));
  }

  // Show the values at a position in x, and the name of the line that is nearest to y; null: none.
  point(i, y = null) {
    this.cursor = i;
    this.onHover(i);
    this.tip.hidden = i === null;
    this.pointer?.replaceChildren();
    if (i === null || !this.pointer) return;
    const { x, lines, xLabel, describe } = this.content;
    const left = this.toX(x[i]);
    this.pointer.append(shape("line", { class: "grid", x1: left, x2: left, y1: this.toY(0), y2: this.toY(1) }));
    const known = lines.filter((line) => line.y[i] !== null);
    for (const line of known) {
      this.pointer.append(shape("circle", { cx: left, cy: this.toY(line.y[i]), r: 3.5, fill: line.style.stroke }));
    }
    const nearest = known.reduce((best, line) =>
      best === null || (y !== null && Math.abs(line.y[i] - y) < Math.abs(best.y[i] - y)) ? line : best, null);
    const words = [`${xLabel} ${number(x[i])}`];
    if (nearest) words.push(`${nearest.name}: ${number(nearest.y[i])}`);
    if (describe) words.push(describe(i));
    this.tip.replaceChildren(...words.map((word) => element("div", {}, [word])));
    const room = this.width - this.tip.offsetWidth - 4;
    const beside = left + 12 > room ? left - this.tip.offsetWidth - 12 : left + 12;
    this.tip.style.left = `${Math.max(2, beside)}px`;
    this.tip.style.top = `${MARGIN.top + 6}px`;
  }
}
