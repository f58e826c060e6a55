// The panel: header with controls, facts, one row per route, curves, and the tree of a composed server.

const RATE_WINDOW_SECONDS = 2;

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

// What is said about the server as a whole; undefined leaves it out.
const FACTS = {
  "kept graphs": ({ graphs }) => graphs && `${count(graphs.count)} (${bytes(graphs.bytes)})`,
  dropped: ({ graphs }) => (graphs && graphs.evicted ? count(graphs.evicted) : undefined),
  staleness: ({ staleness, staleness_histogram: seen }) => {
    const classes = Object.keys(seen ?? {});
    const most = classes.length ? classes[classes.length - 1].split("-").pop() : undefined;
    return most === undefined || most === "0" ? most : `${staleness}, at most ${most}`;
  },
  device: ({ device }) => device && `${device.name}, ${bytes(device.used)} of ${bytes(device.total)}`,
  waiting: ({ queue }) => queue && count(queue.now),
  "turned away": ({ queue }) => (queue && queue.refused ? count(queue.refused) : undefined),
};

class Panel {
  // `ask` stops the server by way of the kernel; a page has none, and asks its user for the token.
  constructor(element, { ask } = {}) {
    this.rows = new Map();
    this.history = new Map();
    this.name = make("span", { className: "name" });
    this.state = make("span", { className: "state" });
    this.where = make("span", { className: "soft" });
    this.version = make("span", { className: "soft" });
    this.spoken = make("p", { className: "hidden", role: "status" });
    this.controls = new Controls({ say: (text) => setText(this.spoken, text), ask });
    this.form = ask ? null : new TokenForm({ controls: this.controls, stopped: () => (this.ended = this.epoch) });
    this.facts = make("dl", { className: "facts" });
    this.caption = make("caption", { className: "hidden" });
    this.body = make("tbody");
    this.scroll = make("div", { className: "scroll" }, this.table());
    this.kernels = new Kernels();
    this.loss = new Figure("loss", "loss wide");
    this.norms = { gradient: new Figure("gradient norm"), weights: new Figure("weight norm") };
    this.tree = new Tree();
    this.section = make(
      "section",
      { className: "labnet-panel", ariaLabel: "labnet server" },
      make("header", {}, this.name, this.state, this.where, this.version, this.controls.root),
      ...(this.form ? [this.form.root] : []),
      this.facts,
      this.scroll,
      this.kernels.root,
      make("div", { className: "curves" }, this.loss.root, this.norms.gradient.root, this.norms.weights.root),
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
    this.history.clear();
    for (const { cells } of this.rows.values()) setText(cells.rate, "–");
  }

  draw(snapshot) {
    const { server, ...parts } = snapshot.statistics;
    setText(this.name, server.name);
    setText(this.caption, `routes of ${server.name}`);
    const state = snapshot.running ? "running" : "stopped";
    this.enter(state, snapshot.state ?? state);
    setText(this.where, snapshot.url);
    setText(this.version, server.version === undefined ? "" : `${count(server.version)} updates`);
    this.controls.draw(snapshot);
    this.form?.draw(snapshot);
    this.drawFacts(server);
    const routes = Object.entries(parts).filter(([name, route]) => route && route.latency && snapshot.recent[name]);
    for (const [name, route] of routes) {
      this.drawRoute(name, route, snapshot.recent[name], snapshot.running ? this.rate(name, server, route.hits) : 0);
    }
    const names = new Set(routes.map(([name]) => name));
    for (const [name, row] of this.rows) {
      if (names.has(name)) continue;
      row.root.remove();
      this.rows.delete(name);
    }
    this.scroll.hidden = !names.size;
    this.kernels.draw(server.device?.kernels);
    this.loss.draw(snapshot.loss);
    for (const [name, figure] of Object.entries(this.norms)) figure.draw(snapshot.norms?.[name]);
    this.tree.draw(snapshot.branches, snapshot.running);
  }

  drawFacts(server) {
    const texts = Object.entries(FACTS).map(([name, text]) => [name, text(server)]);
    const shown = texts.filter(([, text]) => text !== undefined);
    const names = shown.map(([name]) => name).join();
    if (names !== this.factNames) {
      this.factNames = names;
      this.facts.replaceChildren(...shown.map(([name]) => make("div", {}, make("dt", {}, name), make("dd"))));
    }
    shown.forEach(([, text], i) => setText(this.facts.children[i].lastChild, text));
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
