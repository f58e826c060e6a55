// A channel to a labnet server (docs/protocol.md, "Channels") for Node: many calls at once on one connection.
import http from "node:http"
import https from "node:https"

const [HELLO, REQUEST, REPLY, DATA, CANCEL, PING, PONG, STOP] = [1, 2, 3, 4, 5, 6, 7, 8]
const PIECE = 1048576
const [HELLO_SECONDS, PING_SECONDS, DEAD_SECONDS] = [5, 2, 10]

/** Open a channel; null where the server, or a proxy before it, opens none. */
export const open = (url, token) =>
  new Promise((resolve, reject) => {
    const headers = { Connection: "Upgrade", Upgrade: "labnet-channel", "Labnet-Protocol": "1" }
    if (token) headers["X-Labnet-Token"] = token
    const asking = (url.startsWith("https:") ? https : http).get(url + "/channel", { headers, agent: false })
    const end = (settle) => (value) => settle(value, clearTimeout(silent))
    const silent = setTimeout(() => resolve(asking.socket?.destroy() && null), HELLO_SECONDS * 1000)
    asking.on("upgrade", (_, socket, first) => new Channel(socket, first, end(resolve)))
    asking.on("response", (reply) => end(resolve)(reply.destroy() && null)).on("error", end(reject))
  })

class Channel {
  isOpen = true
  calls = new Map()
  number = 0
  bytes = Buffer.alloc(0)

  constructor(socket, first, greeted) {
    Object.assign(this, { socket: socket.setNoDelay(), greeted, heard: Date.now() })
    socket.on("data", (data) => this.receive(data)).on("close", () => this.close()).on("error", () => {})
    this.watch = setInterval(() => this.look(), PING_SECONDS * 1000).unref()
    this.receive(first)
  }

  /** Send a request; gives status, headers by the names of their fields, and body. */
  request(head, body) {
    const number = ++this.number
    this.socket.ref() // Node does not end while a call waits
    for (let at = 0; at === 0 || at < body.length; at += PIECE) {
      const piece = body.subarray(at, at + PIECE)
      if (at) this.send(DATA, number, "", piece.length, piece)
      else this.send(REQUEST, number, JSON.stringify(head), body.length, piece)
    }
    return new Promise((resolve, reject) => this.calls.set(number, { resolve, reject }))
  }

  send(kind, number, head, length, piece) {
    const prelude = Buffer.alloc(24)
    prelude[0] = kind
    prelude.writeUInt32LE(Buffer.byteLength(head), 4)
    prelude.writeBigUInt64LE(BigInt(number), 8)
    prelude.writeBigUInt64LE(BigInt(length), 16)
    this.socket.write(Buffer.concat([prelude, Buffer.from(head), piece]))
  }

  /** While calls wait, ask a silent server whether it is there, and give it up in the end. */
  look() {
    const silent = (Date.now() - this.heard) / 1000
    if (this.calls.size && silent > DEAD_SECONDS) this.socket.destroy()
    else if (this.calls.size && silent >= PING_SECONDS) this.send(PING, 0, "", 0, Buffer.alloc(0))
  }

  /** Use the frames that are complete. */
  receive(data) {
    this.heard = Date.now()
    this.bytes = Buffer.concat([this.bytes, data])
    while (this.bytes.length >= 24) {
      const [kind, size] = [this.bytes[0], 24 + this.bytes.readUInt32LE(4)]
      const [number, length] = [8, 16].map((at) => Number(this.bytes.readBigUInt64LE(at)))
      const end = size + Math.min(length, PIECE)
      if (this.bytes.length < end) return
      this.use(kind, number, this.bytes.subarray(24, size), length, this.bytes.subarray(size, end))
      this.bytes = this.bytes.subarray(end)
    }
  }

  use(kind, number, head, length, piece) {
    const call = this.calls.get(number)
    if (kind === HELLO) this.greeted(this, this.socket.unref())
    else if (kind === PING) this.send(PONG, 0, "", 0, Buffer.alloc(0))
    else if (kind === STOP) this.isOpen = false // it answers the calls that it has, and takes no more
    else if (kind === CANCEL) this.end(number)?.reject(new Error("the server cut its reply"))
    if (!call || (kind !== REPLY && kind !== DATA)) return
    if (kind === REPLY) Object.assign(call, { head: JSON.parse(head), body: new Uint8Array(length), at: 0 })
    call.body.set(piece, call.at)
    call.at += piece.length
    if (call.at === call.body.length) this.end(number).resolve({ ...call.head, body: call.body.buffer })
  }

  end(number) {
    const call = this.calls.get(number)
    if (this.calls.delete(number) && !this.calls.size) this.socket.unref()
    return call
  }

  close() {
    this.isOpen = false
    clearInterval(this.watch)
    this.greeted(null)
    for (const number of this.calls.keys()) this.end(number).reject(new Error("the channel was closed"))
  }
}
