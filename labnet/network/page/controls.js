// The buttons. They work while a cell blocks the kernel, because they do not go through the kernel.

const CONFIRMED_MILLISECONDS = 2000;
const PATIENCE_MILLISECONDS = 4000;

const isLoopback = (host) => /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(host);

// Where the server can be reached from this page: through Jupyter, which is on the server's machine, or straight.
const waysTo = (url) => {
  const server = new URL(url);
  const ways = [];
  const config = document.getElementById("jupyter-config-data");
  if (config && isLoopback(server.hostname) && server.pathname === "/") {
    const { baseUrl = "/" } = JSON.parse(config.textContent);
    ways.push({ address: `${baseUrl}proxy/${server.port}/server/stop`, mode: "same-origin" });
  }
  if (!isLoopback(server.hostname) || isLoopback(location.hostname)) {
    ways.push({ address: `${server.href.replace(/\/$/, "")}/server/stop`, mode: "no-cors" });
  }
  return ways;
};

// A login page in front of the server answers with 200 too.
const isJson = (response) => (response.headers.get("Content-Type") ?? "").startsWith("application/json");

// Send the capability that the kernel gave us; tell whether it arrived.
const stopAt = async ({ address, mode }, capability) => {
  const request = { method: "POST", mode, body: capability, headers: { "Content-Type": "text/plain" } };
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

class Controls {
  // `ask` is for when the server was not reached: the kernel stops it, but has to wait for the end of the cell.
  constructor({ say, ask }) {
    this.say = say;
    this.ask = ask;
    this.url = "";
    this.capability = null;
    this.copyButton = make("button", { type: "button", textContent: "Copy client line", className: "copy" });
    this.stopButton = make("button", { type: "button", textContent: "Stop server", className: "stop", hidden: true });
    this.copyButton.addEventListener("click", () => this.copyLine());
    this.press = () => this.stop();
    this.stopButton.addEventListener("click", () => this.press());
    this.root = make("div", { className: "controls" }, this.copyButton, this.stopButton);
  }

  draw({ url, running, connect }) {
    this.url = url;
    this.connect = connect;
    this.copyButton.title = this.line;
    if (!running) this.allow(null);
  }

  // Take a capability, or null where there is none (any more).
  allow(capability) {
    if (capability === null && document.activeElement === this.stopButton) this.copyButton.focus();
    this.capability = capability;
    this.stopButton.hidden = capability === null;
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

  async stop() {
    const { capability } = this;
    if (capability === null) return;
    this.stopButton.disabled = true;
    this.stopButton.textContent = "Stopping …";
    let arrived = false;
    for (const way of waysTo(this.url)) {
      arrived = arrived || (await stopAt(way, capability));
    }
    if (!arrived) {
      this.ask();
      this.say("the kernel will stop the server when the cell ends");
    }
    setTimeout(() => {
      this.stopButton.disabled = false;
      this.stopButton.textContent = "Stop server";
    }, PATIENCE_MILLISECONDS);
  }
}
