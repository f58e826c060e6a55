// What the GPU computes for a model, op by op: how often, how long, and which part of all its time.

const MOST_OPS = 8;

const KERNEL_COLUMNS = {
  calls: ({ count: n }) => (n ? count(n) : "–"),
  each: ({ count: n, seconds }) => (n ? duration(seconds / n) : "–"),
  "GPU time": ({ seconds }) => duration(seconds),
  share: ({ seconds }, total) => `${((seconds / total) * 100).toFixed(seconds < total / 10 ? 1 : 0)}%`,
};

class Kernels {
  constructor() {
    this.rows = new Map();
    this.heading = make("h3");
    this.body = make("tbody");
    const heads = Object.keys(KERNEL_COLUMNS).map((column) => {
      const head = make("th", { scope: "col" }, column);
      head.dataset.column = column;
      return head;
    });
    const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "op on the GPU"), ...heads));
    const table = make("table", {}, make("caption", { className: "hidden" }, "time on the GPU"), head, this.body);
    this.root = make("div", { className: "kernels", hidden: true }, this.heading, make("div", { className: "scroll" }, table));
  }

  draw(kernels) {
    const shown = kernels ? topOps(kernels.ops) : [];
    this.root.hidden = !shown.length;
    if (this.root.hidden) return;
    const { calls, measured } = kernels;
    setText(this.heading, measured < calls ? `estimated for ${count(calls)} calls from ${count(measured)} of them` : "");
    for (const [name, row] of this.rows) {
      if (shown.some(([other]) => other === name)) continue;
      row.root.remove();
      this.rows.delete(name);
    }
    shown.forEach(([name, op], place) => {
      if (!this.rows.has(name)) this.addRow(name);
      const { root, cells, bar } = this.rows.get(name);
      for (const [column, text] of Object.entries(KERNEL_COLUMNS)) setText(cells[column], text(op, kernels.seconds));
      bar.style.setProperty("--share", `${((op.seconds / kernels.seconds) * 100).toFixed(1)}%`);
      if (this.body.children[place] !== root) this.body.insertBefore(root, this.body.children[place] ?? null);
    });
  }

  addRow(name) {
    const cells = Object.fromEntries(Object.keys(KERNEL_COLUMNS).map((column) => [column, make("td")]));
    for (const [column, cell] of Object.entries(cells)) cell.dataset.column = column;
    const root = make("tr", {}, make("th", { scope: "row" }, name), ...Object.values(cells));
    root.dataset.op = name;
    cells.share.className = "share";
    this.rows.set(name, { root, cells, bar: cells.share });
  }
}

// The ops that take most of the time; the others added up as one.
const topOps = (ops) => {
  const sorted = Object.entries(ops).sort(([, one], [, other]) => other.seconds - one.seconds);
  if (sorted.length <= MOST_OPS) return sorted;
  const rest = sorted.slice(MOST_OPS - 1);
  const sum = (key) => rest.reduce((total, [, op]) => total + op[key], 0);
  return [...sorted.slice(0, MOST_OPS - 1), [`${rest.length} others`, { count: sum("count"), seconds: sum("seconds") }]];
};
