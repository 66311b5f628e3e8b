// The gallery: filters by class and kind of error with counts, orders, and an enlarged view.

const ORDERS = {
  worst: (a, b) => a.found - b.found || b.errors - a.errors,
  best: (a, b) => b.found - a.found || a.errors - b.errors,
  errors: (a, b) => b.errors - a.errors,
  name: (a, b) => a.name.localeCompare(b.name),
};
const ANY = "any";
// "" is what is right, and has no button of its own.
const ERRORS = ["localisation", "class", "both", "duplicate", "background", "missed"];

class Gallery {
  constructor(section, names, viewer) {
    this.place = section.querySelector(".cards");
    if (!this.place) return;
    this.filters = section.querySelector(".filters");
    this.select = this.filters.querySelector(".by-class");
    this.order = this.filters.querySelector(".by-order");
    this.names = names;
    this.error = ANY;
    this.cards = [...this.place.children].map((node) => ({
      node,
      found: Number(node.dataset.found),
      errors: Number(node.dataset.errors),
      name: node.dataset.name,
      marks: node.dataset.marks.split(" ").filter(Boolean).map((pair) => {
        const cut = pair.indexOf(":");
        return { label: pair.slice(0, cut), error: pair.slice(cut + 1) };
      }),
    }));
    this.makeChips();
    this.makeOptions();
    this.select.addEventListener("change", () => this.update());
    this.order.addEventListener("change", () => this.update());
    this.place.addEventListener("click", (event) => {
      const button = event.target.closest(".open");
      if (button) viewer.open(button.closest(".card"), this.visible());
    });
    this.filters.hidden = false;
    this.update();
  }

  makeChips() {
    const chips = this.filters.querySelector(".chips");
    this.chips = [ANY, ...ERRORS].map((error) => {
      const content = [element("span", {}, [error === ANY ? "any" : error === "both" ? "class and localisation" : error])];
      if (error !== ANY) content.unshift(element("span", { class: "dot", "data-error": error }));
      content.push(element("span", { class: "count" }));
      const chip = element("button", { type: "button", "data-error": error }, content);
      chip.addEventListener("click", () => {
        this.error = error === this.error ? ANY : error;
        this.update();
      });
      chips.append(chip);
      return chip;
    });
  }

  makeOptions() {
    const present = new Set(this.cards.flatMap((card) => card.marks.map((mark) => mark.label)));
    this.options = [ANY, ...[...present].sort((a, b) => a - b)].map((label) => new Option("", label));
    this.select.replaceChildren(...this.options);
  }

  fits(mark, label, error) {
    return (label === ANY || mark.label === label) && (error === ANY || mark.error === error);
  }

  // Images with a box of that class and that kind of error: of one box, not of two.
  count(label, error) {
    return this.cards.filter((card) => this.has(card, label, error)).length;
  }

  has(card, label, error) {
    return (label === ANY && error === ANY) || card.marks.some((mark) => this.fits(mark, label, error));
  }

  update() {
    const label = this.select.value;
    for (const chip of this.chips) {
      const count = this.count(label, chip.dataset.error);
      chip.setAttribute("aria-pressed", String(chip.dataset.error === this.error));
      chip.disabled = !count && chip.dataset.error !== this.error;
      chip.querySelector(".count").textContent = count;
    }
    for (const option of this.options) {
      const count = this.count(option.value, this.error);
      option.textContent = `${option.value === ANY ? "any" : this.names[option.value]} (${count})`;
      option.disabled = !count && option.value !== label;
    }
    const sorted = [...this.cards].sort(ORDERS[this.order.value]);
    this.place.append(...sorted.map((card) => card.node));
    for (const card of this.cards) {
      card.node.hidden = !this.has(card, label, this.error);
      for (const mark of card.node.querySelectorAll(".mark")) {
        const fits = this.fits({ label: mark.dataset.class, error: mark.dataset.error }, label, this.error);
        mark.classList.toggle("dim", !fits);
      }
    }
    this.filters.querySelector(".shown").textContent = `${this.visible().length} of ${this.cards.length} images`;
  }

  visible() {
    return [...this.place.children].filter((node) => !node.hidden);
  }
}

// One card over the whole page; arrow keys go to the next one, Escape back.
class Viewer {
  constructor(dialog) {
    this.dialog = dialog;
    dialog.querySelector(".previous").addEventListener("click", () => this.go(-1));
    dialog.querySelector(".next").addEventListener("click", () => this.go(1));
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) this.go(step);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("close", () => this.cards[this.current]?.querySelector(".open").focus());
  }

  open(card, cards) {
    this.cards = cards;
    this.current = cards.indexOf(card);
    this.go(0);
    this.dialog.showModal();
    this.dialog.querySelector(".close").focus();
  }

  go(step) {
    this.current = (this.current + step + this.cards.length) % this.cards.length;
    const card = this.cards[this.current];
    const caption = element("p", { class: "dim" }, [card.querySelector("figcaption").textContent]);
    this.dialog.querySelector(".dialog-title").textContent = card.dataset.name;
    this.dialog.querySelector(".dialog-body").replaceChildren(card.querySelector(".pair").cloneNode(true), caption);
  }
}
