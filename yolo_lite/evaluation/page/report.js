// Puts the page together: models as tabs, curves with their legend and threshold, tables that can be sorted.

const FEW_CLASSES = 10; // more curves than that are only shown when asked for
const NUM_WEAKEST = 5;
const KINDS = {
  pr: { x: "recallSteps", y: "precisionAtRecall", xLabel: "recall", yLabel: "precision" },
  f1: { x: "thresholds", y: "f1", xLabel: "score threshold", yLabel: "F1" },
  precision: { x: "thresholds", y: "precision", xLabel: "score threshold", yLabel: "precision" },
  recall: { x: "thresholds", y: "recall", xLabel: "score threshold", yLabel: "recall" },
};

class Curves {
  constructor(section, model) {
    this.section = section;
    this.model = model;
    this.kind = "pr";
    this.root = section.querySelector(".curves");
    this.root.hidden = false;
    // Of one class, the curve of all is that of the class.
    this.names = model.names.length > 1 ? ["all classes", ...model.names] : [model.names[0] ?? "all classes"];
    this.shown = new Set([0]);
    this.showRows(this.names.length - 1 <= FEW_CLASSES ? "all" : "weakest");
    this.chart = new Chart(this.root.querySelector(".chart"), "Curves of precision and recall", (i) => this.values(i));
    this.makeLegend();
    this.makeThreshold();
    for (const button of this.root.querySelectorAll(".kinds button")) {
      button.addEventListener("click", () => {
        this.kind = button.dataset.kind;
        this.draw();
      });
    }
    this.draw();
  }

  showRows(which) {
    const rows = this.names.map((_, row) => row);
    if (which === "all") this.shown = new Set(rows);
    if (which === "none") this.shown = new Set([0]);
    if (which === "weakest") {
      const scored = rows.slice(1).filter((row) => this.model.ap[row - 1] !== null);
      scored.sort((a, b) => this.model.ap[a - 1] - this.model.ap[b - 1]);
      this.shown = new Set([0, ...scored.slice(0, NUM_WEAKEST)]);
    }
  }

  makeLegend() {
    const list = this.root.querySelector(".legend ul");
    this.items = this.names.map((name, row) => {
      const swatch = shape("svg", { class: "line", viewBox: "0 0 26 8", "aria-hidden": "true" });
      swatch.append(shape("line", { x1: 0, x2: 26, y1: 4, y2: 4, ...lineStyle(row) }));
      const parts = [swatch, element("span", { class: "name" }, [name]), element("span", { class: "value" })];
      const button = element("button", { type: "button", "data-row": row }, parts);
      button.addEventListener("click", () => {
        if (!this.shown.delete(row)) this.shown.add(row);
        this.draw();
      });
      list.append(element("li", {}, [button]));
      return button;
    });
    const tools = this.root.querySelector(".legend-tools");
    for (const button of tools.querySelectorAll("button")) button.hidden = this.names.length < 3;
    tools.querySelector('[data-show="weakest"]').hidden = this.names.length - 1 <= NUM_WEAKEST;
    for (const button of tools.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        this.showRows(button.dataset.show);
        this.draw();
      });
    }
  }

  makeThreshold() {
    const { thresholds, best } = this.model;
    this.slider = this.root.querySelector(".threshold input");
    this.slider.max = Math.max(0, thresholds.length - 1);
    this.slider.addEventListener("input", () => this.moveTo(Number(this.slider.value)));
    const atBest = this.nearest(thresholds, best ?? 0);
    this.root.querySelector(".to-best").addEventListener("click", () => this.moveTo(atBest));
    this.at = atBest;
    this.slider.value = atBest;
  }

  nearest(values, wanted) {
    return values.reduce((best, value, i) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? i : best), 0);
  }

  moveTo(i) {
    this.at = i;
    this.slider.value = i;
    for (const cell of this.section.querySelectorAll("[data-live]")) {
      cell.textContent = number(this.model[cell.dataset.live][cell.dataset.row]?.[i]);
    }
    for (const place of this.section.querySelectorAll(".at-threshold")) {
      place.textContent = number(this.model.thresholds[i]);
    }
    this.draw();
  }

  draw() {
    const { model, at } = this;
    const { x, y, xLabel, yLabel } = KINDS[this.kind];
    for (const button of this.root.querySelectorAll(".kinds button")) {
      button.setAttribute("aria-pressed", String(button.dataset.kind === this.kind));
    }
    this.items.forEach((item, row) => item.setAttribute("aria-pressed", String(this.shown.has(row))));
    // That of all classes last: on top.
    const rows = [...this.shown].sort((a, b) => b - a);
    const lines = rows.map((row) => ({ row, name: this.names[row], y: model[y][row], style: lineStyle(row) }));
    const place = this.kind === "pr" || !model.thresholds.length ? null : model.thresholds[at];
    this.chart.show({ x: model[x], lines: lines, xLabel, yLabel, at: place });
    const [p, r, f] = ["precision", "recall", "f1"].map((name) => number(model[name][0][at]));
    this.root.querySelector(".threshold output").textContent =
      `${number(model.thresholds[at])}: precision ${p}, recall ${r}, F1 ${f}`;
    this.values(null);
  }

  // Beside the names: values under the pointer, or AP.
  values(i) {
    if (!this.items) return;
    const { x, y, xLabel, yLabel } = KINDS[this.kind];
    const isOne = this.names.length === 1;
    const head = i === null ? "AP 50:95" : `${yLabel} at ${xLabel} ${number(this.model[x][i])}`;
    this.root.querySelector(".legend-head").textContent = head;
    this.items.forEach((item, row) => {
      const ap = row > 0 || isOne ? number(this.model.ap[isOne ? 0 : row - 1]) : "";
      item.querySelector(".value").textContent = i === null ? ap : number(this.model[y][row][i]);
    });
  }
}

function drawCalibration(section, model) {
  const chart = new Chart(section.querySelector('[data-chart="calibration"]'), "Share of right detections by score");
  const most = Math.max(1, ...model.counts);
  const width = 0.03;
  chart.show({
    x: model.meanScore,
    lines: [{ row: 0, name: "share that is right", y: model.hitShare, style: lineStyle(1), dotted: true }],
    bars: model.counts.map((count, i) => ({ share: (0.25 * Math.log1p(count)) / Math.log1p(most),
      from: Math.max(0, model.meanScore[i] - width / 2), to: Math.min(1, model.meanScore[i] + width / 2) })),
    xLabel: "score",
    yLabel: "share that is right",
    diagonal: true,
    describe: (i) => `${model.counts[i].toLocaleString("en")} detections`,
  });
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const shown = row.cells[column].textContent;
    const value = Number(shown.replaceAll(",", ""));
    return column === 0 ? shown : Number.isNaN(value) ? -1 : value;
  };
  heads.forEach((head, column) => {
    const button = element("button", { type: "button" }, [head.textContent]);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.ariaSort) ? 1 : -1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const [left, right] = [key(a, column), key(b, column)];
        return order * (column === 0 ? left.localeCompare(right) : left - right);
      });
      body.append(...rows);
    });
  });
}

function makeTabs() {
  const list = document.querySelector(".tabs");
  if (!list) return;
  const tabs = [...list.children];
  const sections = [...document.querySelectorAll(".model")];
  const choose = (chosen) => tabs.forEach((tab, i) => {
    tab.setAttribute("aria-selected", String(i === chosen));
    tab.tabIndex = i === chosen ? 0 : -1;
    sections[i].hidden = i !== chosen;
  });
  tabs.forEach((tab, i) => {
    sections[i].setAttribute("role", "tabpanel");
    tab.addEventListener("click", () => choose(i));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const next = (i + step + tabs.length) % tabs.length;
      choose(next);
      tabs[next].focus();
    });
  });
  list.hidden = false;
  choose(0);
}

const data = JSON.parse(document.getElementById("data").textContent);
const viewer = new Viewer(document.querySelector("dialog"));
document.querySelectorAll(".model").forEach((section, i) => {
  new Curves(section, data.models[i]);
  drawCalibration(section, data.models[i]);
  new Gallery(section, data.models[i].names, viewer);
});
document.querySelectorAll("table.sortable").forEach(makeSortable);
makeTabs();
