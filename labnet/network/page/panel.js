// The panel: header with controls, facts, one row per route, curves, and the tree of a composed server.

const RATE_WINDOW_SECONDS = 2;
// Training forwards without an update from which on the panel says so.
const MANY_FORWARDS = 20;

// Columns of the table: what they are called, and their text for a route and its rate.
const COLUMNS = {
  hits: (route) => count(route.hits),
  rate: (route, rate) => `${rate < 10 ? rate.toFixed(1) : count(rate)}/s`,
  errors: (route) => count(route.errors),
  "in flight": (route) => count(route.in_flight),
  received: (route) => bytes(route.bytes_in),
  sent: (route) => bytes(route.bytes_out),
  p50: (route) => duration(route.latency.p50),
  p90: (route) => duration(route.latency.p90),
  p99: (route) => duration(route.latency.p99),
};

// What is said about the server as a whole: the text, and what it means. Undefined leaves it out.
const FACTS = {
  "learning rate": [({ learning_rate: rate }) => rate && number(rate), "step size of the optimizer"],
  examples: [({ examples_per_second: rate }) => rate !== undefined && `${count(rate)}/s`, "rows per second that gradients came for, over ten seconds"],
  "kept graphs": [
    ({ graphs }) => graphs && `${count(graphs.count)} (${bytes(graphs.bytes)})`,
    "forwards whose gradient has not arrived, and the memory that they hold",
  ],
  dropped: [({ graphs }) => graphs && count(graphs.evicted), "forwards that were dropped before their gradient arrived: too many, too large or too old"],
  staleness: [
    ({ staleness, staleness_histogram: seen }) => {
      const classes = Object.keys(seen ?? {});
      const most = classes.length ? classes[classes.length - 1].split("-").pop() : undefined;
      if (most === undefined) return seen && "–";
      return most === "0" ? most : `${staleness}, at most ${most}`;
    },
    "updates by others between the forward of a gradient and its use",
  ],
  waiting: [({ queue }) => queue && count(queue.now), "requests that are queued or running"],
  "turned away": [({ queue }) => queue && count(queue.refused), "requests that were refused because too many were waiting"],
  CPU: [
    (server, { process, cpu }) => process && (cpu === undefined ? "–" : `${Math.round(cpu * 100)}%`),
    "use of one processor by the process of the server",
  ],
  memory: [(server, { process }) => process && bytes(process.memory), "memory of the process of the server"],
  device: [({ device }) => device && `${device.name}, ${bytes(device.used)} of ${bytes(device.total)}`, "the GPU, and its memory in use"],
};

const NORMS = { gradient: "gradient norm", weights: "weight norm" };

// The curves of a server by title: its own, and behind its loss those of earlier runs, from the same first update.
const linesOf = ({ statistics: { server }, loss, norms = {}, metrics = {}, earlier = [] }) => {
  const logged = Object.entries(metrics).map(([title, curve]) => [title, [{ name: "this run", ...curve }]]);
  if (server.version === undefined) return Object.fromEntries(logged);
  const first = loss.steps[0] ?? 1;
  const before = earlier.map(({ name, steps, values }) => ({
    name,
    steps: steps.map((step) => step + first),
    values,
    faint: true,
  }));
  const measured = Object.entries(NORMS).map(([key, title]) => [
    title,
    [{ name: "this run", steps: [], values: [], ...norms[key] }],
  ]);
  return Object.fromEntries([["loss", [...before, { name: "this run", ...loss }]], ...logged, ...measured]);
};

class Panel {
  // `ask` stops the server by way of the kernel; a page has none, and asks its user for the token.
  constructor(element, { ask } = {}) {
    this.rows = new Map();
    this.history = new Map();
    this.name = make("span", { className: "name" });
    this.state = make("span", { className: "state" });
    this.where = make("a", { className: "soft", target: "_blank", rel: "noopener" });
    this.version = make("span", { className: "soft" });
    this.spoken = make("p", { className: "hidden", role: "status" });
    this.controls = new Controls({ say: (text) => setText(this.spoken, text), ask });
    this.form = ask ? null : new TokenForm({ controls: this.controls, stopped: () => (this.ended = this.epoch) });
    this.facts = make("dl", { className: "facts" });
    this.caption = make("caption", { className: "hidden" });
    this.body = make("tbody");
    this.scroll = make("div", { className: "scroll" }, this.table());
    this.kernels = new Kernels();
    this.charts = new Charts({ say: (text) => setText(this.spoken, text) });
    this.alert = make("p", { className: "alert", hidden: true });
    this.tables = new Tables();
    this.tree = new Tree();
    this.section = make(
      "section",
      { className: "labnet-panel", ariaLabel: "labnet server" },
      make("header", {}, this.name, this.state, this.where, this.version, this.controls.root),
      ...(this.form ? [this.form.root] : []),
      this.controls.training,
      this.alert,
      this.facts,
      this.scroll,
      this.charts.root,
      this.tables.root,
      this.kernels.root,
      this.tree.root,
      this.spoken,
    );
    element.replaceChildren(make("style", {}, STYLE), this.section);
  }

  table() {
    const heads = Object.keys(COLUMNS).map((column) => {
      const head = make("th", { scope: "col" }, column);
      head.dataset.column = column;
      return head;
    });
    const spark = make("th", { scope: "col", className: "spark" }, "last minute");
    const row = make("tr", {}, make("th", { scope: "col" }, "route"), ...heads, spark);
    return make("table", {}, this.caption, make("thead", {}, row), this.body);
  }

  enter(state, text) {
    const before = this.section.dataset.state;
    this.section.dataset.state = state;
    setText(this.state, text);
    if (before && before !== state) setText(this.spoken, `${this.name.textContent} is ${text}`);
  }

  unreachable(reason) {
    const ended = this.epoch !== undefined && this.ended === this.epoch;
    this.enter(ended ? "stopped" : "unreachable", ended ? "stopped" : `unreachable: ${reason}`);
    this.form?.close();
    this.controls.allow(null);
    this.idle();
  }

  silent(seconds) {
    this.enter("silent", `no news from the kernel for ${age(seconds)}`);
    this.controls.allow(null);
    this.idle();
  }

  idle() {
    this.controls.enable(false);
    this.history.clear();
    for (const { cells } of this.rows.values()) setText(cells.rate, "–");
  }

  draw(snapshot) {
    if (snapshot.comparison) return this.compare(snapshot);
    const { server, ...parts } = snapshot.statistics;
    setText(this.name, server.name);
    setText(this.caption, `routes of ${server.name}`);
    const state = snapshot.running ? "running" : "stopped";
    this.enter(state, snapshot.state ?? (snapshot.running && server.paused ? "paused" : state));
    setText(this.where, snapshot.url);
    const page = snapshot.url.startsWith("http") ? pageOf(snapshot.url) : null; // a cluster has no page
    if (page === null) this.where.removeAttribute("href");
    else if (this.where.getAttribute("href") !== page) this.where.href = page;
    setText(this.version, server.version === undefined ? "" : `${count(server.version)} updates`);
    this.controls.draw(snapshot);
    this.form?.draw(snapshot);
    const routes = Object.entries(parts).filter(([name, route]) => route && route.latency && snapshot.recent[name]);
    for (const [name, route] of routes) {
      this.drawRoute(name, route, snapshot.recent[name], snapshot.running ? this.rate(name, server, route.hits) : 0);
    }
    const { process } = snapshot;
    const cpu = process && snapshot.running ? this.rate("", server, process.cpu_seconds) : undefined;
    this.drawFacts(server, { process, cpu });
    const names = new Set(routes.map(([name]) => name));
    for (const [name, row] of this.rows) {
      if (names.has(name)) continue;
      row.root.remove();
      this.rows.delete(name);
    }
    this.scroll.hidden = !names.size;
    this.kernels.draw(server.device?.kernels);
    this.charts.draw(server.name, linesOf(snapshot));
    this.tables.draw(snapshot);
    this.drawAlert(server, snapshot.alerts);
    this.tree.draw(snapshot.branches, snapshot.running);
  }

  // Runs side by side, without a server.
  compare({ comparison, runs }) {
    this.enter("compared", `${runs.length} runs, counted from the first update of each`);
    setText(this.name, runs.join(", "));
    this.controls.root.hidden = this.scroll.hidden = true;
    const coloured = (lines) => lines.map((each, colour) => ({ ...each, colour }));
    this.charts.draw(
      runs.join("-"),
      Object.fromEntries(Object.entries(comparison).map(([title, lines]) => [title, coloured(lines)])),
    );
  }

  // The latest alert, in a line that is there from the beginning.
  drawAlert({ name, version, unused_forwards: unused = 0 }, alerts = []) {
    this.alert.hidden = version === undefined && !alerts.length;
    const latest = alerts[alerts.length - 1];
    const forgotten =
      unused >= MANY_FORWARDS ? `${count(unused)} forwards, 0 updates: is an await loss.backward() missing?` : "";
    const text = forgotten || (latest ? `${clock(latest.time)} ${latest.kind}: ${latest.message}` : "no alerts");
    setText(this.alert, text);
    this.alert.classList.toggle("bad", text !== "no alerts");
    const known = this.known ?? latest?.time ?? 0;
    this.known = Math.max(known, latest?.time ?? 0);
    if (this.known === known) return;
    setText(this.spoken, `${latest.kind}: ${latest.message}`);
    if (this.controls.notifyButton.ariaPressed === "true") new Notification(name, { body: latest.message, tag: latest.kind });
  }

  drawFacts(server, rates) {
    const texts = Object.entries(FACTS).map(([name, [text, meaning]]) => [name, text(server, rates), meaning]);
    const shown = texts.filter(([, text]) => text !== undefined && text !== null && text !== false);
    const names = shown.map(([name]) => name).join();
    if (names !== this.factNames) {
      this.factNames = names;
      this.facts.replaceChildren(
        ...shown.map(([name, , title]) => make("div", { title }, make("dt", {}, name), make("dd"))),
      );
    }
    shown.forEach(([, text], i) => setText(this.facts.children[i].lastChild, String(text)));
  }

  drawRoute(name, route, recent, rate) {
    if (!this.rows.has(name)) this.addRow(name);
    const { cells, spark } = this.rows.get(name);
    for (const [column, text] of Object.entries(COLUMNS)) setText(cells[column], text(route, rate));
    cells.errors.classList.toggle("bad", route.errors > 0);
    const high = Math.max(...recent.latency);
    spark.path.setAttribute("d", high ? spans(recent, high) : "");
    spark.root.setAttribute("aria-label", high ? `latency of ${name}, at most ${duration(high)}` : "no calls");
  }

  addRow(name) {
    const cells = Object.fromEntries(Object.keys(COLUMNS).map((column) => [column, make("td")]));
    for (const [column, cell] of Object.entries(cells)) cell.dataset.column = column;
    const spark = svg(140, 22);
    const last = make("td", { className: "spark" }, spark.root);
    const root = make("tr", {}, make("th", { scope: "row" }, name), ...Object.values(cells), last);
    root.dataset.route = name;
    this.rows.set(name, { root, cells, spark });
    this.body.append(root);
  }

  rate(name, { uptime, epoch }, hits) {
    if (epoch !== this.epoch) this.history.clear();
    this.epoch = epoch;
    const points = this.history.get(name) ?? [];
    points.push([uptime, hits]);
    while (points.length > 2 && points[1][0] <= uptime - RATE_WINDOW_SECONDS) points.shift();
    this.history.set(name, points);
    const [since, before] = points[0];
    return uptime > since ? (hits - before) / (uptime - since) : 0;
  }
}
