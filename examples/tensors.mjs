// Tensors as labnet's protocol carries them (docs/protocol.md, "Bodies").
const ARRAYS = { F32: Float32Array, F64: Float64Array, I32: Int32Array, I64: BigInt64Array, BOOL: Uint8Array }

/** Bytes of a message: length of the header, header, data. Tensors are {name: {dtype, shape, data}}. */
export function encode(tensors, metadata) {
  const [header, parts] = [{ __metadata__: metadata }, []]
  let size = 0
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    parts.push([size, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)])
    header[name] = { dtype, shape, data_offsets: [size, (size += data.byteLength)] }
  }
  const text = new TextEncoder().encode(JSON.stringify(header))
  const start = 8 + 8 * Math.ceil(text.length / 8)
  const message = new Uint8Array(start + size).fill(32, 0, start)
  new DataView(message.buffer).setBigUint64(0, BigInt(start - 8), true)
  for (const [at, part] of [[8 - start, text], ...parts]) message.set(part, start + at)
  return message
}

/** Tensors of a message, by name. */
export function decode(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true))
  const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(buffer.slice(8, start)))
  const read = ({ dtype, shape, data_offsets: [begin, end] }) =>
    ({ dtype, shape, data: new ARRAYS[dtype](buffer.slice(start + begin, start + end)) })
  return Object.fromEntries(Object.entries(header).map(([name, entry]) => [name, read(entry)]))
}
