// The servers that a server is composed of, with the latency of each edge, as nested lists.

const MOST_LEVELS = 8;

const isServer = (part) => part !== null && typeof part === "object" && part.server !== null && typeof part.server === "object";

const routesOf = (document) => Object.entries(document).filter(([, part]) => part && part.latency);

const describe = (document) => {
  const routes = routesOf(document);
  const called = routes.filter(([, route]) => route.hits);
  if (routes.length && !called.length) return "not called yet";
  return called.map(([name, route]) => `${name} ${duration(route.latency.p50)} (${count(route.hits)} calls)`).join(" · ");
};

const branch = (name, document, level) => {
  const { server } = document;
  const version = server.version === undefined ? "" : ` · ${count(server.version)} updates`;
  const described = describe(document);
  const where = server.name === name ? "" : `→ ${server.name}${described ? " · " : ""}`;
  const item = make(
    "li",
    {},
    make("span", { className: "edge" }, name),
    make("span", { className: "soft" }, where),
    make("span", {}, described),
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

  // Servers that are not asked any more may have gone on since: `live` tells.
  draw({ known, incomplete, title = "composed of" } = { known: {}, incomplete: "" }, live = true) {
    const parts = Object.entries(known).filter(([, part]) => isServer(part));
    this.root.hidden = !parts.length && !incomplete;
    this.root.classList.toggle("old", Boolean(incomplete));
    setText(this.heading, `${title}, with median latency${incomplete || !live ? ", as last heard" : ""}`);
    setText(this.trouble, incomplete);
    const items = parts.map(([name, part]) => branch(name, part, 1));
    const text = items.map((item) => item.textContent).join("\n");
    if (text === this.drawn) return;
    this.drawn = text;
    this.list.replaceChildren(...items);
  }
}
