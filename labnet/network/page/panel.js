// The live panel of a server. Two users: the page at "/" of every server, which polls "snapshot", and the
// notebook widget, whose kernel sends snapshots. Elements are made once and only their texts and paths change,
// so that focus, selection and screen readers are left alone. Text never goes through innerHTML.

const STYLE = `
.labnet-panel {
  --ink: var(--jp-ui-font-color1, light-dark(#1c2330, #e6e9ef));
  --soft: var(--jp-ui-font-color2, light-dark(#5b6577, #a3adbd));
  --line: var(--jp-border-color2, light-dark(#d9dee7, #3a4250));
  --paper: var(--jp-layout-color1, light-dark(#ffffff, #171b22));
  --accent: light-dark(#2563c9, #6ea8fe);
  --good: light-dark(#1a7f45, #4cc38a);
  --bad: light-dark(#b3261e, #ff8f87);
  color: var(--ink); background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  font: 13px/1.45 var(--jp-ui-font-family, system-ui, sans-serif);
  padding: 12px 14px; margin: 4px 0; max-width: 900px; box-sizing: border-box; overflow-x: auto;
  container-type: inline-size;
}
.labnet-panel header { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline; margin-bottom: 8px; }
.labnet-panel .name { font-weight: 600; font-size: 15px; }
.labnet-panel .state::before { content: "●"; margin-right: 5px; color: var(--soft); }
.labnet-panel[data-state=running] .state::before { color: var(--good); }
.labnet-panel[data-state=unreachable] .state::before { color: var(--bad); }
.labnet-panel .soft { color: var(--soft); }
.labnet-panel table { border-collapse: collapse; width: 100%; }
.labnet-panel th, .labnet-panel td {
  padding: 3px 8px; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums;
  border: 0; background: none;
}
.labnet-panel thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
.labnet-panel th:first-child { text-align: left; font-weight: 500; padding-left: 0; }
.labnet-panel .spark { width: 150px; }
.labnet-panel svg { display: block; overflow: visible; }
.labnet-panel .spark svg { width: 140px; height: 22px; margin-left: auto; }
.labnet-panel path { fill: none; stroke: var(--accent); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.labnet-panel .bad { color: var(--bad); font-weight: 600; }
.labnet-panel figure { margin: 10px 0 0; }
.labnet-panel figcaption { display: flex; justify-content: space-between; color: var(--soft); }
.labnet-panel figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; }
.labnet-panel .loss svg { width: 100%; height: 110px; border-left: 1px solid var(--line); border-bottom: 1px solid var(--line); }
.labnet-panel .axis.steps { margin-top: -1.4em; padding-left: 5em; }
.labnet-panel .axis { display: flex; justify-content: space-between; color: var(--soft); font-size: 11px; }
@container (max-width: 620px) { .labnet-panel :is(th, td):nth-child(5), .labnet-panel .spark { display: none; } }
.labnet-panel[data-state=unreachable] :is(tbody, figure) { opacity: 0.55; }
body:has(> main[data-labnet-page]) { margin: 16px; background: light-dark(#f4f6f9, #0f1217); }
main[data-labnet-page] .labnet-panel { margin: 0 auto; }
`;

const COLUMNS = ["hits", "rate", "errors", "in flight", "p50", "p99"];
const RATE_WINDOW_SECONDS = 2;

const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

const svg = (label, width, height) => {
  const root = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.setAttribute("preserveAspectRatio", "none");
  root.setAttribute("role", "img");
  root.setAttribute("aria-label", label);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  root.append(path);
  return { root, path };
};

const count = (n) => Math.round(n).toLocaleString("en");

const duration = (seconds) => {
  if (!seconds) return "–";
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(3)} ms`;
  return `${seconds.toPrecision(3)} s`;
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
    if (!hits[i - 1] && !hits[i + 1]) path += "h2";
  }
  return path;
};

const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

class Panel {
  constructor(element) {
    this.rows = new Map();
    this.history = new Map();
    this.name = make("span", { className: "name" });
    this.state = make("span", { className: "state" });
    this.where = make("span", { className: "soft" });
    this.version = make("span", { className: "soft" });
    this.body = make("tbody");
    const heads = ["route", ...COLUMNS].map((text) => make("th", { scope: "col" }, text));
    heads.push(make("th", { scope: "col", className: "spark" }, "latency, last minute"));
    this.curve = svg("loss over steps", 600, 110);
    this.loss = make("b");
    this.first = make("span");
    this.last = make("span");
    this.scale = make("span");
    this.low = make("div", { className: "axis" });
    this.high = make("div", { className: "axis" });
    this.figure = make(
      "figure",
      { className: "loss", hidden: true },
      make("figcaption", {}, this.scale, this.loss),
      this.high,
      this.curve.root,
      this.low,
      make("div", { className: "axis steps" }, this.first, this.last),
    );
    this.section = make(
      "section",
      { className: "labnet-panel", ariaLabel: "labnet server" },
      make("header", {}, this.name, this.state, this.where, this.version),
      make("table", {}, make("thead", {}, make("tr", {}, ...heads)), this.body),
      this.figure,
    );
    element.replaceChildren(make("style", {}, STYLE), this.section);
  }

  unreachable(reason) {
    this.section.dataset.state = "unreachable";
    for (const { cells } of this.rows.values()) setText(cells[1], "–");
    setText(this.state, `unreachable: ${reason}`);
  }

  draw(snapshot) {
    const { server, ...routes } = snapshot.statistics;
    const state = snapshot.running ? "running" : "stopped";
    this.section.dataset.state = state;
    setText(this.name, server.name);
    setText(this.state, state);
    setText(this.where, snapshot.url);
    setText(this.version, server.version === undefined ? "" : `${count(server.version)} updates`);
    for (const [name, route] of Object.entries(routes)) {
      if (route && route.latency) this.drawRoute(name, route, snapshot.recent[name], snapshot.running, server.uptime);
    }
    for (const [name, row] of this.rows) {
      if (!(name in routes)) {
        row.root.remove();
        this.rows.delete(name);
      }
    }
    this.drawLoss(snapshot.loss);
  }

  drawRoute(name, route, recent, running, uptime) {
    if (!this.rows.has(name)) {
      const cells = COLUMNS.map((column) => make("td", {}));
      const spark = svg(`latency of ${name} in the last minute`, 140, 22);
      const root = make("tr", {}, make("th", { scope: "row" }, name), ...cells, make("td", { className: "spark" }, spark.root));
      root.dataset.route = name;
      cells.forEach((cell, i) => (cell.dataset.column = COLUMNS[i]));
      this.rows.set(name, { root, cells, spark });
      this.body.append(root);
    }
    const { cells, spark } = this.rows.get(name);
    const rate = running ? this.rate(name, uptime, route.hits) : 0;
    const texts = [
      count(route.hits),
      `${rate < 10 ? rate.toFixed(1) : count(rate)}/s`,
      count(route.errors),
      count(route.in_flight),
      duration(route.latency.p50),
      duration(route.latency.p99),
    ];
    texts.forEach((text, i) => setText(cells[i], text));
    cells[2].classList.toggle("bad", route.errors > 0);
    const high = Math.max(...recent.latency);
    spark.path.setAttribute("d", high ? spans(recent, high) : "");
  }

  rate(name, uptime, hits) {
    const points = this.history.get(name) ?? [];
    if (points.length && uptime < points[points.length - 1][0]) points.length = 0;
    points.push([uptime, hits]);
    while (points.length > 2 && points[1][0] <= uptime - RATE_WINDOW_SECONDS) points.shift();
    this.history.set(name, points);
    const [since, before] = points[0];
    return uptime > since ? (hits - before) / (uptime - since) : 0;
  }

  drawLoss({ steps, values }) {
    this.figure.hidden = steps.length < 2;
    if (steps.length < 2) return;
    const high = Math.max(...values);
    const least = Math.min(...values);
    const logarithmic = least > 0 && high / least > 100;
    const low = logarithmic ? least : Math.min(0, least);
    const scaled = logarithmic ? Math.log10 : (value) => value;
    this.curve.path.setAttribute("d", line(steps, values.map(scaled), 600, 110, scaled(low), scaled(high)));
    setText(this.loss, number(values[values.length - 1]));
    setText(this.scale, logarithmic ? "loss, logarithmic" : "loss");
    setText(this.high, number(high));
    setText(this.low, number(low));
    setText(this.first, `update ${count(steps[0])}`);
    setText(this.last, `update ${count(steps[steps.length - 1])}`);
  }
}

// The page at "/" of a server.
const poll = async (element) => {
  const panel = new Panel(element);
  for (;;) {
    try {
      const response = await fetch("snapshot", { cache: "no-store" });
      if (!response.ok) throw new Error(`status ${response.status}`);
      const snapshot = await response.json();
      document.title = `${snapshot.statistics.server.name} – labnet`;
      panel.draw(snapshot);
    } catch (error) {
      panel.unreachable(error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, document.hidden ? 2000 : 250));
  }
};

const page = document.querySelector("main[data-labnet-page]");
if (page) poll(page);

// The notebook widget.
const render = ({ model, el }) => {
  const panel = new Panel(el);
  const draw = () => {
    const data = model.get("data");
    if (data.statistics) panel.draw(data);
    if (data.unreachable) panel.unreachable(data.unreachable);
  };
  model.on("change:data", draw);
  draw();
  return () => model.off("change:data", draw);
};

export default { render };
