// Uses examples/client.mjs as a program would; prints what it saw as one line of JSON.
import { RemoteModel } from "../../../examples/client.mjs"

const [url, token] = process.argv.slice(2)
const remote = new RemoteModel(url, token)
const tensor = (values, shape) => ({ dtype: "F32", shape, data: Float32Array.from(values) })
const x = tensor([1, 2, 3, 4], [2, 2])
const losses = []
let first
for (let step = 0; step < 20; step++) {
  const { output, call } = await remote.forward(x)
  const loss = output.data.reduce((sum, y) => sum + (y - 1) ** 2, 0)
  const gradient = await remote.optimize(call, tensor(output.data.map((y) => 2 * (y - 1)), output.shape), loss)
  first ??= { output: { ...output, data: [...output.data] }, gradient: { ...gradient, data: [...gradient.data] } }
  losses.push(loss)
}
const error = await remote.forward(tensor([1], [1, 1])).catch((failure) => failure.message)
console.log(JSON.stringify({ first, losses, error, channel: Boolean(remote.channel?.isOpen) }))
