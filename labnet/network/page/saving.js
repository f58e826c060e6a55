// A reload loses what a notebook has not saved, and a busy kernel can show it again only when its cell has ended. So the
// notebook of a panel is saved once while its kernel is busy: the picture with its link is there after a reload then.

const BUSY_SECONDS = 2;
const OUTPUT_MILLISECONDS = 1000;

// When each document was last saved from here.
const savedAt = new WeakMap();

// Whether a cell runs; the status of the kernel does not tell it after messages of a subshell.
const isBusy = ({ model, sessionContext }) =>
  sessionContext?.session?.kernel?.status === "busy" ||
  [...(model?.cells ?? [])].some((cell) => cell.executionState === "running");

class Saving {
  // `manager` is that of the widgets; in JupyterLab and Notebook 7 it has the document as its context.
  constructor(manager) {
    this.context = manager?.context;
    this.shown = Date.now();
    this.seconds = 0;
  }

  // To be called once a second.
  look() {
    const { context } = this;
    this.seconds = context && isBusy(context) ? this.seconds + 1 : 0;
    if (this.seconds < BUSY_SECONDS || savedAt.get(context) > this.shown + OUTPUT_MILLISECONDS) return;
    savedAt.set(context, Date.now());
    if (context.model?.dirty && context.contentsModel?.writable) context.save().catch(() => {}); // JupyterLab tells why
  }
}
