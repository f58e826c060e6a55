// The buttons. They work while a cell blocks the kernel, because they do not go through the kernel.

const CONFIRMED_MILLISECONDS = 2000;
const PATIENCE_MILLISECONDS = 4000;

const isLoopback = (host) => /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(host);

// Where Jupyter, which is on the server's machine, forwards to a server; undefined elsewhere.
const proxied = (url) => {
  const server = new URL(url);
  const config = document.getElementById("jupyter-config-data");
  if (!config || !isLoopback(server.hostname) || server.pathname !== "/") return undefined;
  return `${JSON.parse(config.textContent).baseUrl ?? "/"}proxy/${server.port}/`;
};

// Where a path of the server can be reached from this page: through Jupyter, or straight.
const waysTo = (url, path) => {
  const server = new URL(url);
  const proxy = proxied(url);
  const ways = proxy ? [{ address: proxy + path, mode: "same-origin" }] : [];
  if (!isLoopback(server.hostname) || isLoopback(location.hostname)) {
    ways.push({ address: `${server.href.replace(/\/$/, "")}/${path}`, mode: "no-cors" });
  }
  return ways;
};

// The address of the server's page for a reader of this page.
const pageOf = (url) => (isLoopback(new URL(url).hostname) && !isLoopback(location.hostname) ? (proxied(url) ?? url) : url);

// A login page in front of the server answers with 200 too.
const isJson = (response) => (response.headers.get("Content-Type") ?? "").startsWith("application/json");

// Send a capability that the kernel gave us, with an action; return whether it arrived.
const post = async ({ address, mode }, body) => {
  const request = { method: "POST", mode, body, headers: { "Content-Type": "text/plain" } };
  try {
    const response = await fetch(address, { ...request, signal: AbortSignal.timeout(PATIENCE_MILLISECONDS) });
    return response.type === "opaque" || (response.ok && isJson(response));
  } catch {
    return false;
  }
};

const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", { value: text, className: "hidden" });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
};

// What a button asks of the server: a path, and the body behind the capability.
const STOP = { title: "Stop", path: "server/stop", body: (capability) => capability, message: { stop: true } };
const action = (title, name, value = "") => ({
  title,
  path: "server/control",
  body: (capability) => `${capability}\n${name}\n${value}`,
  message: { control: [name, value] },
});

class Controls {
  // `ask` is for when the server was not reached: the kernel does it, but has to wait for the end of the cell.
  constructor({ say, ask }) {
    this.say = say;
    this.ask = ask;
    this.url = "";
    this.capability = null;
    this.renewed = () => {};
    const button = (textContent, className, press) => {
      const made = make("button", { type: "button", textContent, className });
      made.addEventListener("click", press);
      return made;
    };
    this.copyButton = button("Copy client line", "copy", () => this.copyLine());
    this.stopButton = button("Stop server", "stop", () => this.send(STOP));
    this.stopButton.hidden = true;
    this.root = make("div", { className: "controls" }, this.copyButton, this.stopButton);
    this.pauseButton = button("Pause", "", () =>
      this.send(this.paused ? action("Resume", "resume") : action("Pause", "pause")),
    );
    this.pauseButton.title = "refuse training for now: trainers wait, and nothing is lost";
    this.storeButton = button("Checkpoint", "", () => this.send(action("Checkpoint", "checkpoint")));
    this.storeButton.title = "write a checkpoint to the store now";
    this.rate = make("input", { inputMode: "decimal", autocomplete: "off", className: "rate" });
    this.rateForm = make("form", { className: "bare" }, make("label", {}, "learning rate", this.rate));
    this.rateForm.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(action("Set", "lr", this.rate.value.trim()));
      this.rate.blur();
    });
    this.notifyButton = button("Notify me", "", () => this.notify());
    this.notifyButton.title = "show alerts as notifications of the browser";
    this.notifyButton.ariaPressed = "false";
    this.training = make(
      "div",
      { className: "tools", role: "group", ariaLabel: "training", hidden: true },
      this.pauseButton,
      this.storeButton,
      this.rateForm,
      this.notifyButton,
    );
  }

  draw({ url, running, connect, statistics: { server } }) {
    this.url = url;
    this.connect = connect;
    this.copyButton.title = this.line;
    if (!running) this.allow(null);
    this.training.hidden = server.version === undefined;
    this.paused = server.paused;
    setText(this.pauseButton, this.paused ? "Resume" : "Pause");
    this.storeButton.hidden = server.store === undefined;
    const rate = server.learning_rate ?? undefined;
    this.rateForm.hidden = rate === undefined;
    if (document.activeElement !== this.rate && rate !== undefined) this.rate.value = String(rate);
    this.enable(running);
  }

  enable(running) {
    for (const control of [this.pauseButton, this.storeButton, this.rate]) control.disabled = !running;
  }

  // Take a capability, or null where there is none (any more).
  allow(capability) {
    if (capability === null && document.activeElement === this.stopButton) this.copyButton.focus();
    this.capability = capability;
    this.stopButton.hidden = capability === null;
    if (capability !== null) this.renewed();
  }

  focus() {
    (this.stopButton.hidden ? this.copyButton : this.stopButton).focus();
  }

  get line() {
    return this.connect ?? `remote = ln.network.remote_model(${JSON.stringify(this.url)})`;
  }

  async copyLine() {
    await copy(this.line);
    this.copyButton.textContent = "Copied";
    this.copyButton.focus();
    this.say("copied the client line");
    setTimeout(() => (this.copyButton.textContent = "Copy client line"), CONFIRMED_MILLISECONDS);
  }

  async notify() {
    const wanted = this.notifyButton.ariaPressed !== "true";
    const allowed = wanted && "Notification" in window && (await Notification.requestPermission()) === "granted";
    this.notifyButton.ariaPressed = String(allowed);
    if (wanted && !allowed) this.say("the browser does not allow notifications");
  }

  // Wait for a capability that was not used: the kernel sends another one every few seconds.
  async unused() {
    if (this.capability === this.spent) {
      await new Promise((resolve) => {
        this.renewed = resolve;
        setTimeout(resolve, 2 * PATIENCE_MILLISECONDS);
      });
    }
    this.spent = this.capability;
    return this.spent;
  }

  // Ask something of the server.
  async send(wanted) {
    const isStop = wanted === STOP;
    if (isStop) {
      this.stopButton.disabled = true;
      this.stopButton.textContent = "Stopping …";
    }
    const capability = await this.unused();
    let arrived = false;
    for (const way of capability === null ? [] : waysTo(this.url, wanted.path)) {
      arrived = arrived || (await post(way, wanted.body(capability)));
    }
    if (arrived) this.say(`${wanted.title}: sent`);
    else {
      this.ask(wanted.message);
      this.say(isStop ? "the kernel will stop the server when the cell ends" : "the kernel will do it when the cell ends");
    }
    if (!isStop) return;
    setTimeout(() => {
      this.stopButton.disabled = false;
      this.stopButton.textContent = "Stop server";
    }, PATIENCE_MILLISECONDS);
  }
}
