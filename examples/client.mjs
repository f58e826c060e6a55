// A client of labnet's protocol (docs/protocol.md) in plain JavaScript: forward and optimize. Node 18 or later.
const ARRAYS = { F32: Float32Array, F64: Float64Array, I32: Int32Array, I64: BigInt64Array, BOOL: Uint8Array }

/** Bytes of a message: length of the header, header, data. Tensors are {name: {dtype, shape, data}}. */
export function encode(tensors, metadata) {
  const header = { __metadata__: metadata }
  let [chunks, offset] = [[], 0]
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    header[name] = { dtype, shape, data_offsets: [offset, (offset += bytes.length)] }
    chunks.push(bytes)
  }
  const text = Buffer.from(JSON.stringify(header))
  const padding = Buffer.alloc((8 - (text.length % 8)) % 8, " ")
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length + padding.length))
  return Buffer.concat([length, text, padding, ...chunks])
}

/** Tensors of a message, by name. */
export function decode(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true))
  const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(buffer.slice(8, start)))
  const read = ({ dtype, shape, data_offsets: [begin, end] }) =>
    ({ dtype, shape, data: new ARRAYS[dtype](buffer.slice(start + begin, start + end)) })
  return Object.fromEntries(Object.entries(header).map(([name, entry]) => [name, read(entry)]))
}

export class RemoteModel {
  constructor(url, token) {
    Object.assign(this, { url, token, client: crypto.randomUUID().replaceAll("-", ""), sequence: 0 })
  }

  /** Send one tensor; a lost or busy try is repeated with the same key, so that nothing happens twice. */
  async post(route, tensor, metadata, extra = {}) {
    const headers = { "Content-Type": "application/x-labnet", "X-Labnet-Token": this.token, "Labnet-Protocol": "1" }
    Object.assign(headers, extra, { "Idempotency-Key": `"${this.client}:${++this.sequence}"` })
    const body = encode({ tensor }, { form: "tensor", ...metadata })
    for (let attempt = 1; ; attempt++) {
      const reply = await fetch(this.url + route, { method: "POST", headers, body }).catch((error) => error)
      const bytes = await reply.arrayBuffer?.().catch(() => null) // nothing where the connection or the reply was cut
      if (attempt < 5 && (!bytes || reply.status === 429 || reply.status === 503)) {
        const asked = 1000 * (reply.headers?.get("Retry-After") ?? 0) // seconds; the rest differs between clients
        await new Promise((resume) => setTimeout(resume, asked + Math.random() * 100 * 2 ** attempt))
      } else if (!bytes) throw new Error(`${route}: no complete reply`, { cause: reply })
      else if (reply.ok) return [decode(bytes), reply.headers]
      else throw new Error(`${route} ${reply.status}: ${JSON.parse(Buffer.from(bytes)).message}`)
    }
  }

  /** Output, and the call that its gradient belongs to. */
  async forward(tensor) {
    const [{ tensor: output }, headers] = await this.post("/forward", tensor, { requires_grad: "tensor" })
    return { output, call: headers.get("Labnet-Call") }
  }

  /** Train with the gradient of an output; gives the gradient of the input. */
  optimize = async (call, gradient, loss) =>
    (await this.post("/optimize", gradient, { loss: String(loss) }, { "Labnet-Call": call }))[0].tensor
}
