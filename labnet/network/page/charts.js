// Curves over updates: one row of figures with common tools. Zoom, cursor, scale and smoothing are those of all of them.

const WIDTH = 600;
const HEIGHT = 100;
const SMOOTHING = 0.9;
const LEAST_DRAG_PIXELS = 5;
const PNG_SCALE = 2;
const STEP_KEYS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

const finite = (values) => values.filter(Number.isFinite);

// A line through points, scaled into the box of a figure; `low` to `high` upwards.
const line = (xs, ys, [first, last], [low, high]) => {
  const span = last - first || 1;
  const range = high - low || 1;
  const place = (x, y) =>
    `${(((x - first) / span) * WIDTH).toFixed(1)} ${(HEIGHT - 1 - ((y - low) / range) * (HEIGHT - 2)).toFixed(1)}`;
  return xs.map((x, i) => `${i ? "L" : "M"}${place(x, ys[i])}`).join("");
};

const smoothed = (values) => {
  let mean = values[0];
  return values.map((value) => (mean += (1 - SMOOTHING) * (value - mean)));
};

// The index of the point whose step is nearest.
const nearest = (steps, step) => {
  let low = 0;
  let high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle;
    else high = middle;
  }
  return Math.abs(steps[low] - step) <= Math.abs(steps[high] - step) ? low : high;
};

const download = (blob, name) => {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

// One figure: lines of the same quantity, of this run and of others.
class Figure {
  constructor(title, charts, className = "") {
    this.title = title;
    this.charts = charts;
    this.lines = [];
    this.root = make("figure", { className });
    this.svg = svg(WIDTH, HEIGHT).root;
    this.svg.replaceChildren();
    this.svg.setAttribute("tabindex", "0");
    [this.high, this.low, this.first, this.scale, this.last, this.empty] = ["high", "low", "", "", "", "empty"].map(
      (name) => make("span", { className: name }),
    );
    this.value = make("b");
    this.legend = make("span", { className: "legend" });
    this.cursor = make("div", { className: "cursor", hidden: true });
    this.marked = make("div", { className: "marked", hidden: true });
    this.plot = make("div", { className: "plot" }, this.svg, this.high, this.low, this.empty, this.marked, this.cursor);
    this.root.append(
      make("figcaption", {}, make("span", {}, title), this.legend, this.value),
      this.plot,
      make("div", { className: "axis" }, this.first, this.scale, this.last),
    );
    this.listen();
  }

  listen() {
    const fraction = (event) => {
      const box = this.svg.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / (box.width || 1)));
    };
    const stepAt = (part) => this.range[0] + part * (this.range[1] - this.range[0]);
    let begun = null;
    this.plot.addEventListener("pointerdown", (event) => {
      if (!this.range) return;
      begun = { x: event.clientX, part: fraction(event) };
      this.plot.setPointerCapture(event.pointerId);
    });
    this.plot.addEventListener("pointermove", (event) => {
      if (!this.range) return;
      this.charts.point(stepAt(fraction(event)));
      if (begun) this.mark(begun.part, fraction(event));
    });
    this.plot.addEventListener("pointerup", (event) => {
      if (begun && Math.abs(event.clientX - begun.x) >= LEAST_DRAG_PIXELS) {
        this.charts.zoom([stepAt(begun.part), stepAt(fraction(event))].sort((a, b) => a - b));
      }
      begun = null;
      this.marked.hidden = true;
    });
    this.plot.addEventListener("pointerleave", () => begun || this.charts.point(null));
    this.plot.addEventListener("dblclick", () => this.charts.zoom(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
    this.svg.addEventListener("blur", () => this.charts.point(null));
  }

  mark(from, to) {
    this.marked.hidden = false;
    this.marked.style.left = `${Math.min(from, to) * 100}%`;
    this.marked.style.width = `${Math.abs(to - from) * 100}%`;
  }

  // Arrow keys move the cursor from point to point, + zooms in around it, and Escape out.
  press(event) {
    const { steps = [] } = this.main ?? {};
    if (!steps.length) return;
    const at = nearest(steps, this.charts.cursor ?? this.range[1]);
    if (event.key in STEP_KEYS) {
      const next = Math.min(steps.length - 1, Math.max(0, at + STEP_KEYS[event.key]));
      this.charts.point(steps[next]);
      this.charts.say(`${this.title} ${number(this.main.values[next])} at update ${count(steps[next])}`);
    } else if (event.key === "+") {
      const half = (this.range[1] - this.range[0]) / 4;
      this.charts.zoom([steps[at] - half, steps[at] + half]);
    } else if (event.key === "Escape") {
      this.charts.zoom(null);
    } else {
      return;
    }
    event.preventDefault();
  }

  // Lines have a name, steps and values; those of other runs are `faint`.
  draw(lines) {
    this.lines = lines.filter(({ steps }) => steps.length);
    this.main = this.lines.find(({ faint }) => !faint);
    const drawn = Boolean(this.main) && this.main.steps.length > 1;
    setText(this.empty, drawn ? "" : this.main ? "one value so far" : "no updates yet");
    if (!drawn) this.range = undefined;
    const spans = this.lines.flatMap(({ steps }) => [steps[0], steps[steps.length - 1]]);
    if (drawn) this.range = this.charts.range ?? [Math.min(...spans), Math.max(...spans)];
    const visible = drawn ? this.lines.map((each) => this.cut(each)) : [];
    const all = finite(visible.flatMap(({ values }) => values));
    const least = Math.min(...all);
    const high = Math.max(...all);
    const logarithmic = least > 0 && (this.charts.log ?? high / least > 100);
    const low = logarithmic ? least : Math.min(0, least);
    const scaled = logarithmic ? Math.log10 : (value) => value;
    const box = [scaled(low), scaled(high)];
    this.scaling = { box, scaled };
    this.paths = visible.flatMap((each) => this.pathsOf(each, scaled, box));
    this.show();
    const { steps, values } = drawn ? this.main : { steps: [0], values: [NaN] };
    const end = steps.length - 1;
    const label = drawn ? `${this.title}: ${number(values[end])} at update ${steps[end]}` : `${this.title}: no updates yet`;
    if (this.svg.getAttribute("aria-label") !== label) this.svg.setAttribute("aria-label", label);
    setText(this.scale, drawn && logarithmic ? "log scale" : "");
    setText(this.high, drawn ? number(high) : "");
    setText(this.low, drawn ? number(low) : "");
    setText(this.first, drawn ? `update ${count(this.range[0])}` : "");
    setText(this.last, drawn ? count(this.range[1]) : "");
    this.legend.title = this.lines.filter((each) => each !== this.main).map(({ name }) => name).join(", ");
    this.drawCursor();
  }

  // The part of a line inside the zoom, with one point beyond each end.
  cut({ steps, values, ...rest }) {
    const [first, last] = this.range;
    const from = Math.max(0, steps.findIndex((step) => step >= first) - 1);
    const behind = steps.findIndex((step) => step > last);
    const to = behind < 0 ? steps.length : behind + 1;
    return { ...rest, steps: steps.slice(from, to), values: values.slice(from, to) };
  }

  pathsOf({ steps, values, faint, colour = 0 }, scaled, box) {
    const positive = scaled === Math.log10;
    const kept = steps.map((_, i) => i).filter((i) => Number.isFinite(values[i]) && (!positive || values[i] > 0));
    if (!kept.length) return [];
    const xs = kept.map((i) => steps[i]);
    const ys = kept.map((i) => scaled(values[i]));
    const path = (points, paler) => ({ d: line(xs, points, this.range, box), className: paler ? "faint" : `line-${colour % 6}` });
    if (faint || !this.charts.smooth) return [path(ys, faint)];
    return [path(ys, true), path(smoothed(ys), false)];
  }

  show() {
    while (this.svg.children.length > this.paths.length) this.svg.lastChild.remove();
    while (this.svg.children.length < this.paths.length) {
      this.svg.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    }
    this.paths.forEach(({ d, className }, i) => {
      const path = this.svg.children[i];
      if (path.getAttribute("d") !== d) path.setAttribute("d", d);
      if (path.getAttribute("class") !== className) path.setAttribute("class", className);
    });
  }

  // The names of other runs, and of this one where runs are compared, with their values at the cursor.
  drawLegend(cursor) {
    const compared = this.lines.some(({ colour }) => colour);
    const named = this.lines.filter((each) => compared || each !== this.main);
    const texts = named.map(({ name, steps, values }) =>
      cursor === null ? name : `${name}: ${number(values[nearest(steps, cursor)])}`,
    );
    if (this.legend.textContent === texts.join(" ")) return;
    const parts = texts.flatMap((text, i) => [" ", make("span", { className: `name-${named[i].faint ? "earlier" : (named[i].colour ?? 0) % 6}` }, text)]);
    this.legend.replaceChildren(...parts.slice(1));
  }

  // The value at the cursor, or else the last one.
  drawCursor() {
    const { cursor } = this.charts;
    const shown = cursor !== null && this.range && cursor >= this.range[0] && cursor <= this.range[1];
    this.cursor.hidden = !shown;
    if (!this.main) return setText(this.value, "");
    const { steps, values } = this.main;
    const at = shown ? nearest(steps, cursor) : steps.length - 1;
    setText(this.value, `${number(values[at])}${shown ? ` at ${count(steps[at])}` : ""}`);
    this.drawLegend(shown ? cursor : null);
    if (shown) this.cursor.style.left = `${((steps[at] - this.range[0]) / (this.range[1] - this.range[0] || 1)) * 100}%`;
  }
}

class Charts {
  constructor({ say }) {
    this.say = say;
    this.figures = new Map();
    this.log = null;
    this.smooth = false;
    this.range = null;
    this.cursor = null;
    const tool = (text, title, act) => {
      const button = make("button", { type: "button", textContent: text, title });
      button.addEventListener("click", act);
      return button;
    };
    this.logButton = tool("log scale", "logarithmic scale of all curves", () => this.set("log", !this.isLogarithmic()));
    this.smoothButton = tool("smooth", "moving average of all curves", () => this.set("smooth", !this.smooth));
    this.wholeButton = tool("whole curve", "undo the zoom; drag over a curve to zoom in", () => this.zoom(null));
    this.tools = make(
      "div",
      { className: "tools", role: "group", ariaLabel: "curves" },
      this.logButton,
      this.smoothButton,
      this.wholeButton,
      tool("CSV", "download the points of all curves", () => this.saveTable()),
      tool("PNG", "download a picture of the curves", () => this.savePicture()),
    );
    this.row = make("div", { className: "curves" });
    this.root = make("div", { className: "charts", hidden: true }, this.tools, this.row);
  }

  isLogarithmic() {
    return [...this.figures.values()].some(({ scale }) => scale.textContent !== "");
  }

  set(name, value) {
    this[name] = value;
    this.redraw();
  }

  zoom(range) {
    this.set("range", range);
  }

  point(step) {
    this.cursor = step;
    for (const figure of this.figures.values()) figure.drawCursor();
  }

  redraw() {
    for (const figure of this.figures.values()) figure.draw(figure.lines);
    this.drawTools();
  }

  drawTools() {
    this.logButton.ariaPressed = String(this.isLogarithmic());
    this.smoothButton.ariaPressed = String(this.smooth);
    this.wholeButton.disabled = this.range === null;
  }

  // Draw lines by title, in this order.
  draw(name, lines) {
    this.name = name;
    const titles = Object.keys(lines);
    this.root.hidden = !titles.length;
    for (const [title, figure] of this.figures) {
      if (title in lines) continue;
      figure.root.remove();
      this.figures.delete(title);
    }
    titles.forEach((title, place) => {
      if (!this.figures.has(title)) this.figures.set(title, new Figure(title, this, place ? "" : "wide"));
      const figure = this.figures.get(title);
      if (this.row.children[place] !== figure.root) this.row.insertBefore(figure.root, this.row.children[place] ?? null);
      figure.draw(lines[title]);
    });
    this.drawTools();
  }

  saveTable() {
    const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const rows = [...this.figures.values()].flatMap(({ title, lines }) =>
      lines.flatMap(({ name, steps, values }) =>
        steps.map((step, i) => [quoted(title), quoted(name), step, values[i]].join(",")),
      ),
    );
    download(new Blob([["metric,run,step,value", ...rows].join("\n"), "\n"], { type: "text/csv" }), `${this.name}.csv`);
  }

  savePicture() {
    const shown = [...this.row.children].map((root) => [...this.figures.values()].find((figure) => figure.root === root));
    const figures = shown.filter(({ paths }) => paths.length);
    const [width, height] = [WIDTH + 40, (HEIGHT + 60) * Math.max(1, figures.length)];
    const canvas = make("canvas", { width: width * PNG_SCALE, height: height * PNG_SCALE });
    const context = canvas.getContext("2d");
    const style = getComputedStyle(this.row.closest(".labnet-panel"));
    context.scale(PNG_SCALE, PNG_SCALE);
    context.fillStyle = style.backgroundColor;
    context.fillRect(0, 0, width, height);
    figures.forEach((figure, i) => {
      context.save();
      context.translate(20, i * (HEIGHT + 60) + 28);
      context.fillStyle = style.color;
      context.font = "13px sans-serif";
      context.fillText(`${figure.title}  ${figure.value.textContent}  (${figure.low.textContent} to ${figure.high.textContent})`, 0, -10);
      context.fillText(figure.first.textContent, 0, HEIGHT + 18);
      context.fillText(figure.last.textContent, WIDTH - context.measureText(figure.last.textContent).width, HEIGHT + 18);
      context.beginPath();
      context.rect(0, 0, WIDTH, HEIGHT);
      context.clip();
      figure.paths.forEach(({ d }, place) => {
        const drawn = getComputedStyle(figure.svg.children[place]);
        context.strokeStyle = drawn.stroke;
        context.globalAlpha = Number(drawn.opacity);
        context.lineWidth = 1.5;
        context.stroke(new Path2D(d));
      });
      context.restore();
    });
    canvas.toBlob((blob) => download(blob, `${this.name}.png`));
  }
}
