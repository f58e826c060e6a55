// Acting on a server from its own page. The page has no authority and holds no token: its user types it, it is sent
// once, to the server that the page came from, for a capability that is used up at once, and the field is emptied.

// Return a capability, or null where the token is wrong or missing.
const capabilityFor = async (token) => {
  const headers = token ? { "X-Labnet-Token": token } : {};
  const request = { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MILLISECONDS) };
  const response = await fetch("server/capability", request);
  return response.ok && isJson(response) ? (await response.json()).capability : null;
};

class TokenForm {
  // The buttons of `controls` open the form; `stopped` is called when the server was told to stop.
  constructor({ controls, stopped }) {
    this.controls = controls;
    this.stopped = stopped;
    this.wanted = STOP;
    this.field = make("input", { type: "password", autocomplete: "off", spellcheck: false });
    this.command = make("code");
    this.trouble = make("span", { className: "bad", role: "alert" });
    this.submit = make("button", { type: "submit", textContent: "Stop", className: "stop" });
    this.cancel = make("button", { type: "button", textContent: "Cancel" });
    this.form = make(
      "form",
      { hidden: true, ariaLabel: "stop this server" },
      make("label", {}, "Token of this server", this.field),
      this.submit,
      this.cancel,
      make("span", { className: "soft" }, "its owner has it from ", this.command),
    );
    this.root = make("div", {}, this.form, this.trouble);
    controls.send = (wanted) => (this.form.hidden || wanted.title !== this.wanted.title ? this.begin(wanted) : this.close());
    this.cancel.addEventListener("click", () => this.close());
    this.form.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.act(this.field.value.trim());
    });
  }

  draw({ url, running }) {
    setText(this.command, `labnet token ${new URL(url).port}`);
    this.controls.stopButton.hidden = !running;
    if (!running) this.close();
  }

  // A server without a token obeys the button; others ask for it.
  async begin(wanted) {
    this.wanted = wanted;
    if ((await this.act("")) !== "denied") return;
    setText(this.trouble, "");
    setText(this.submit, wanted.title);
    this.form.ariaLabel = wanted === STOP ? "stop this server" : `${wanted.title.toLowerCase()} with the token`;
    this.form.hidden = false;
    this.field.focus();
  }

  close() {
    if (this.form.hidden) return;
    this.field.value = "";
    setText(this.trouble, "");
    this.form.hidden = true;
    this.controls.focus();
  }

  // Ask the server, and return whether it did it: "done", "refused", or "denied" without the token.
  async act(token) {
    const { wanted } = this;
    let outcome = "refused";
    setText(this.trouble, "");
    try {
      const capability = await capabilityFor(token);
      const way = { address: wanted.path, mode: "same-origin" };
      if (capability === null) outcome = "denied";
      else if (await post(way, wanted.body(capability))) outcome = "done";
      const troubles = { denied: "this is not the token", refused: `the server refused it: ${wanted.title}`, done: "" };
      setText(this.trouble, troubles[outcome]);
    } catch {
      setText(this.trouble, "the server does not answer");
    }
    if (outcome === "done") {
      this.close();
      if (wanted === STOP) this.stopped();
    } else {
      this.field.select();
    }
    return outcome;
  }
}
