// Where a panel gets its snapshots: from the server whose page this is, or from the kernel.

const POLL_MILLISECONDS = 220;
const HIDDEN_MILLISECONDS = 2000;
const TIMEOUT_MILLISECONDS = 5000;
const SILENT_SECONDS = 15;
const REVEAL_MILLISECONDS = 300;

// What browsers say in words of their own.
const REASONS = { TypeError: "it does not answer; this page goes on asking", TimeoutError: "it has not answered for 5 s" };

let wake = () => {};
document.addEventListener("visibilitychange", () => wake());

// Wait, but no longer than until the page is visible again.
const pause = (milliseconds) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });

// Return the newest snapshot of the server whose page this is.
const ask = async () => {
  let response, answer;
  try {
    response = await fetch("snapshot", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS) });
    answer = isJson(response) ? await response.json() : undefined;
  } catch (error) {
    throw new Error(REASONS[error.name] ?? error.message);
  }
  if (!answer) throw new Error("something else answers at this address; to sign in, load the page again");
  if (!response.ok) throw new Error(answer.message ?? `status ${response.status}`);
  return answer;
};

// The page at "/" of a server. A request that a sleeping machine has lost ends by itself; then it goes on.
const poll = async (element) => {
  const panel = new Panel(element);
  for (;;) {
    try {
      const answer = await ask();
      document.title = `${answer.statistics.server.name} – labnet`;
      panel.draw(answer);
    } catch (error) {
      panel.unreachable(error.message);
    }
    await pause(document.hidden ? HIDDEN_MILLISECONDS : POLL_MILLISECONDS);
  }
};

const page = document.querySelector("main[data-labnet-page]");
if (page) poll(page);

// The notebook widget. What the kernel sends beside the snapshots is kept here and never in the model's state,
// which is saved with the notebook: the capability to stop the server, renewed every few seconds.
const news = new Map();
const nameOf = (model) => String(model.get("sent").panel ?? "");
const snapshotOf = (model) => JSON.parse(model.get("sent").snapshot);

const initialize = ({ model }) => {
  const heard = { capability: null, at: Date.now(), panels: new Set() };
  news.set(nameOf(model), heard);
  const touch = () => (heard.at = Date.now());
  const listen = (message) => {
    touch();
    heard.capability = message.capability ?? null;
    for (const panel of heard.panels) panel.controls.allow(heard.capability);
  };
  model.on("msg:custom", listen);
  model.on("change:sent", touch);
  return () => {
    model.off("msg:custom", listen);
    model.off("change:sent", touch);
    news.delete(nameOf(model));
  };
};

// A still picture stands below every panel for when there is no kernel; it is hidden while this one lives.
const hidePicture = (id) => {
  const rule = make("style", {}, `.labnet-picture[data-panel="${CSS.escape(id)}"] { display: none; }`);
  document.head.append(rule);
  return rule;
};

const render = ({ model, el }) => {
  if (!news.has(nameOf(model))) initialize({ model });
  const heard = news.get(nameOf(model));
  const panel = new Panel(el, { ask: (message) => model.send(message) });
  const draw = () => {
    const snapshot = snapshotOf(model);
    if (snapshot.statistics || snapshot.comparison) panel.draw(snapshot);
    if (snapshot.unreachable) panel.unreachable(snapshot.unreachable);
  };
  const rule = hidePicture(nameOf(model));
  const saving = new Saving(model.widget_manager);
  const timer = setInterval(() => {
    saving.look();
    const seconds = (Date.now() - heard.at) / 1000;
    if (seconds > SILENT_SECONDS && !["stopped", "compared"].includes(panel.section.dataset.state)) panel.silent(seconds);
  }, 1000);
  // "Run All" goes to the last cell, which has this panel in its output only now.
  const revealing = setTimeout(() => {
    if (el.closest(".jp-mod-active")) panel.section.scrollIntoView({ block: "nearest" });
  }, REVEAL_MILLISECONDS);
  heard.panels.add(panel);
  model.on("change:sent", draw);
  draw();
  if (heard.capability && snapshotOf(model).running) panel.controls.allow(heard.capability);
  return () => {
    model.off("change:sent", draw);
    heard.panels.delete(panel);
    clearInterval(timer);
    clearTimeout(revealing);
    rule.remove();
  };
};

export default { initialize, render };
