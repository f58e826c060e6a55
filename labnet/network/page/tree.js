// The servers that a server is composed of, with the latency of each edge, as nested lists.

const MOST_LEVELS = 8;

const isServer = (part) => part !== null && typeof part === "object" && part.server !== null && typeof part.server === "object";

const routesOf = (document) => Object.entries(document).filter(([, part]) => part && part.latency);

const describe = (document) =>
  routesOf(document)
    .filter(([, route]) => route.hits)
    .map(([name, route]) => `${name} ${duration(route.latency.p50)} (${count(route.hits)} calls)`)
    .join(" · ");

const branch = (name, document, level) => {
  const { server } = document;
  const version = server.version === undefined ? "" : ` · ${count(server.version)} updates`;
  const item = make(
    "li",
    {},
    make("span", { className: "edge" }, name),
    make("span", { className: "soft" }, server.name === name ? "" : `→ ${server.name} `),
    make("span", {}, describe(document) || "not called yet"),
    make("span", { className: "soft" }, version),
  );
  if (server.incomplete) item.append(make("div", { className: "bad" }, server.incomplete));
  const parts = Object.entries(document).filter(([, part]) => isServer(part));
  if (parts.length && level < MOST_LEVELS) {
    item.append(make("ul", {}, ...parts.map(([key, part]) => branch(key, part, level + 1))));
  }
  return item;
};

class Tree {
  constructor() {
    this.list = make("ul");
    this.trouble = make("div", { className: "bad" });
    this.heading = make("h3");
    this.root = make(
      "div",
      { className: "tree", hidden: true },
      this.heading,
      this.list,
      this.trouble,
    );
  }

  draw({ known, incomplete } = { known: {}, incomplete: "" }) {
    const parts = Object.entries(known).filter(([, part]) => isServer(part));
    this.root.hidden = !parts.length && !incomplete;
    this.root.classList.toggle("old", Boolean(incomplete));
    setText(this.heading, `composed of, with median latency${incomplete ? ", as last heard" : ""}`);
    setText(this.trouble, incomplete);
    const items = parts.map(([name, part]) => branch(name, part, 1));
    const text = items.map((item) => item.textContent).join("\n");
    if (text === this.drawn) return;
    this.drawn = text;
    this.list.replaceChildren(...items);
  }
}
