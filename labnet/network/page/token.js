// Stopping a server from its own page. The page has no authority and holds no token: its user types it, it is sent
// once, to the server that the page came from, for a capability that is used up at once, and the field is emptied.

// Return a capability, or null where the token is wrong or missing.
const capabilityFor = async (token) => {
  const headers = token ? { "X-Labnet-Token": token } : {};
  const request = { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MILLISECONDS) };
  const response = await fetch("server/capability", request);
  return response.ok && isJson(response) ? (await response.json()).capability : null;
};

class TokenForm {
  // `controls` are given a stop button that opens the form; `stopped` is called when the server was told.
  constructor({ controls, stopped }) {
    this.controls = controls;
    this.stopped = stopped;
    this.field = make("input", { type: "password", autocomplete: "off", spellcheck: false });
    this.command = make("code");
    this.trouble = make("span", { className: "bad", role: "alert" });
    this.cancel = make("button", { type: "button", textContent: "Cancel" });
    this.root = make(
      "form",
      { hidden: true, ariaLabel: "stop this server" },
      make("label", {}, "Token of this server", this.field),
      make("button", { type: "submit", textContent: "Stop", className: "stop" }),
      this.cancel,
      make("span", { className: "soft" }, "its owner has it from ", this.command),
      this.trouble,
    );
    controls.press = () => (this.root.hidden ? this.begin() : this.close());
    this.cancel.addEventListener("click", () => this.close());
    this.root.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.stop(this.field.value.trim());
    });
  }

  draw({ url, running }) {
    setText(this.command, `labnet token ${new URL(url).port}`);
    this.controls.stopButton.hidden = !running;
    if (!running) this.close();
  }

  // A server without a token is stopped by the button; others ask for it.
  async begin() {
    if (await this.stop("")) return;
    setText(this.trouble, "");
    this.root.hidden = false;
    this.field.focus();
  }

  close() {
    if (this.root.hidden) return;
    this.field.value = "";
    this.root.hidden = true;
    this.controls.focus();
  }

  // Tell whether the server was told to stop.
  async stop(token) {
    let arrived = false;
    try {
      const capability = await capabilityFor(token);
      arrived = capability !== null && (await stopAt({ address: "server/stop", mode: "same-origin" }, capability));
      setText(this.trouble, arrived ? "" : "this is not the token");
    } catch {
      setText(this.trouble, "the server does not answer");
    }
    if (arrived) {
      this.close();
      this.stopped();
    } else {
      this.field.select();
    }
    return arrived;
  }
}
