// A client of labnet's protocol (docs/protocol.md) in plain JavaScript: forward and optimize, in Node 18 or later and
// in web pages. In Node it calls over a channel where the server opens one.
import { decode, encode } from "./tensors.mjs"

const node = globalThis.process?.versions?.node && (await import("./channel.mjs"))

export class RemoteModel {
  constructor(url, token) {
    Object.assign(this, { url, token, client: crypto.randomUUID().replaceAll("-", ""), sequence: 0, channel: null })
    this.asks = Boolean(node) // for a channel; until one is refused
  }

  /** Make one attempt; gives status, call, retry_after and body. */
  async attempt(path, fields, body) {
    if (this.asks && !this.channel?.isOpen) {
      this.channel = await (this.opening ??= node.open(this.url, this.token).finally(() => (this.opening = null)))
      this.asks = this.channel !== null
    }
    if (this.channel) return this.channel.request({ method: "POST", path, ...fields }, body)
    const headers = { "Content-Type": fields.content_type, "Idempotency-Key": fields.idempotency_key }
    headers["Labnet-Protocol"] = "1"
    if (this.token) headers["X-Labnet-Token"] = this.token
    if (fields.call) headers["Labnet-Call"] = fields.call
    const reply = await fetch(this.url + path, { method: "POST", headers, body })
    const [call, retry_after] = ["Labnet-Call", "Retry-After"].map((name) => reply.headers.get(name))
    return { status: reply.status, call, retry_after, body: await reply.arrayBuffer() }
  }

  /** Send one tensor; a lost or busy attempt is repeated with the same key, so that nothing happens twice. */
  async post(path, tensor, metadata, call) {
    const key = `"${this.client}:${++this.sequence}"`
    const fields = { content_type: "application/x-labnet", idempotency_key: key, call }
    const body = encode({ tensor }, { form: "tensor", ...metadata })
    for (let attempt = 1; ; attempt++) {
      const reply = await this.attempt(path, fields, body).catch((error) => ({ status: 0, error })) // no reply, or cut
      if (attempt < 5 && [0, 429, 502, 503, 504].includes(reply.status)) {
        const asked = 1000 * (reply.retry_after ?? 0) // seconds; the rest differs between clients
        await new Promise((resume) => setTimeout(resume, asked + Math.random() * 100 * 2 ** attempt))
      } else if (!reply.status) throw new Error(`${path}: no complete reply`, { cause: reply.error })
      else if (reply.status < 300) return [decode(reply.body), reply.call]
      else throw new Error(`${path} ${reply.status}: ${JSON.parse(new TextDecoder().decode(reply.body)).message}`)
    }
  }

  /** Output, and the call that its gradient belongs to. */
  async forward(tensor) {
    const [{ tensor: output }, call] = await this.post("/forward", tensor, { requires_grad: "tensor" })
    return { output, call }
  }

  /** Train with the gradient of an output; gives the gradient of the input. */
  optimize = async (call, gradient, loss) =>
    (await this.post("/optimize", gradient, { loss: String(loss) }, call))[0].tensor
}
