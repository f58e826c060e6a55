// Who trains, and what failed last: tables of a fixed height, which their reader opens.

const CLIENT_COLUMNS = {
  updates: ({ updates }) => count(updates),
  "updates/s": ({ updates_per_second: rate }) => rate.toFixed(1),
  staleness: ({ staleness }) => count(staleness),
  errors: ({ errors }) => count(errors),
  received: ({ bytes_in: n }) => bytes(n),
  sent: ({ bytes_out: n }) => bytes(n),
  "last call": ({ seconds_ago: seconds }) => `${age(seconds)} ago`,
};
const FAILURE_COLUMNS = ["time", "client", "route", "error"];

class Tables {
  constructor() {
    this.clients = this.section("clients", ["client", ...Object.keys(CLIENT_COLUMNS)]);
    this.failures = this.section("errors", FAILURE_COLUMNS);
    this.root = make("div", { className: "tables", hidden: true }, this.clients.root, this.failures.root);
  }

  section(name, columns) {
    const body = make("tbody");
    const heads = columns.map((column) => make("th", { scope: "col" }, column));
    const table = make("table", {}, make("caption", { className: "hidden" }, name), make("thead", {}, make("tr", {}, ...heads)), body);
    const summary = make("summary");
    return { name, body, summary, root: make("details", {}, summary, make("div", { className: "bounded" }, table)) };
  }

  draw({ clients, failures }) {
    this.root.hidden = clients === undefined;
    if (this.root.hidden) return;
    const rows = Object.entries(clients).map(([name, row]) => [name, ...Object.values(CLIENT_COLUMNS).map((text) => text(row))]);
    this.fill(this.clients, rows);
    const newest = [...failures].reverse();
    this.fill(
      this.failures,
      newest.map(({ time, client, route, error, message }) => [clock(time), client, route, `${error}: ${message}`]),
    );
  }

  fill({ name, body, summary, root }, rows) {
    setText(summary, `${name} (${rows.length})`);
    if (!root.open) return;
    while (body.children.length > rows.length) body.lastChild.remove();
    rows.forEach((texts, i) => {
      const row = body.children[i] ?? body.appendChild(make("tr", {}, ...texts.map((_, place) => make(place ? "td" : "th"))));
      texts.forEach((text, place) => setText(row.children[place], text));
    });
  }
}
