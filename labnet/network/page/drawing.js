// Elements, numbers as text, and lines.

const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

const svg = (width, height) => {
  const root = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.setAttribute("preserveAspectRatio", "none");
  root.setAttribute("role", "img");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  root.append(path);
  return { root, path };
};

const count = (n) => Math.round(n).toLocaleString("en");

const bytes = (n) => {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; unit += 1) n /= 1000;
  return `${unit && n < 100 ? n.toPrecision(2 + (n >= 10)) : Math.round(n)} ${units[unit]}`;
};

const duration = (seconds) => {
  if (!seconds) return "–";
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(3)} ms`;
  return `${seconds.toPrecision(3)} s`;
};

const age = (seconds) => {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
};

const number = (value) =>
  value === 0 ? "0" : (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? value.toPrecision(4) : value.toExponential(2));

// A line through (x, y) scaled into a box; y from `low` to `high`, drawn upwards.
const line = (xs, ys, width, height, low, high) => {
  const first = xs[0];
  const span = xs[xs.length - 1] - first || 1;
  const range = high - low || 1;
  return xs
    .map((x, i) => {
      const px = (((x - first) / span) * width).toFixed(1);
      const py = (height - 1 - ((ys[i] - low) / range) * (height - 2)).toFixed(1);
      return `${i ? "L" : "M"}${px} ${py}`;
    })
    .join("");
};

// Latency per second as a line that is broken where there was no request.
const spans = ({ hits, latency }, high) => {
  let path = "";
  for (let i = 0; i < hits.length; i += 1) {
    if (!hits[i]) continue;
    const x = ((i / (hits.length - 1)) * 138).toFixed(1);
    const y = (21 - (latency[i] / high) * 20).toFixed(1);
    path += `${hits[i - 1] ? "L" : "M"}${x} ${y}`;
    if (!hits[i - 1] && !hits[i + 1]) path += "h1.5";
  }
  return path;
};

// A figure with one curve over the updates; hidden as long as there is nothing to draw.
class Figure {
  constructor(title, className = "") {
    this.title = title;
    this.curve = svg(600, 100);
    [this.high, this.low, this.first, this.scale, this.last] = ["high", "low", "", "", ""].map((name) =>
      make("span", { className: name }),
    );
    this.value = make("b");
    this.root = make(
      "figure",
      { className, hidden: true },
      make("figcaption", {}, make("span", {}, title), this.value),
      make("div", { className: "plot" }, this.curve.root, this.high, this.low),
      make("div", { className: "axis" }, this.first, this.scale, this.last),
    );
  }

  draw({ steps, values } = { steps: [], values: [] }) {
    this.root.hidden = steps.length < 2;
    if (this.root.hidden) return;
    const high = Math.max(...values);
    const least = Math.min(...values);
    const logarithmic = least > 0 && high / least > 100;
    const low = logarithmic ? least : Math.min(0, least);
    const scaled = logarithmic ? Math.log10 : (value) => value;
    const last = values.length - 1;
    this.curve.path.setAttribute("d", line(steps, values.map(scaled), 600, 100, scaled(low), scaled(high)));
    this.curve.root.setAttribute("aria-label", `${this.title}: ${number(values[last])} at update ${steps[last]}`);
    setText(this.value, number(values[last]));
    setText(this.scale, logarithmic ? "log scale" : "");
    setText(this.high, number(high));
    setText(this.low, number(low));
    setText(this.first, `update ${count(steps[0])}`);
    setText(this.last, count(steps[last]));
  }
}
