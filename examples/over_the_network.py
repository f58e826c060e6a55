"""Train programs in torch's words over the network: the model and its optimizer in a server, the loss here.

``python examples/over_the_network.py word2vec residual_network`` names the programs, which are not changed.
"""

import importlib
import sys

from processes import running

import labnet as ln

MODELS = {
    "moons_mlp": "MLP",
    "character_models": "wavenet",
    "variational_autoencoder": "VAE",
    "sine_gru": "Forecast",
    "residual_network": "ResNet",
    "word2vec": "SkipGram",
    "graph_convolution": "GCN",
}


def server(name):
    """Serve the model of a program with its optimizer."""
    program = importlib.import_module(name)
    ln.manual_seed(0)
    model = getattr(program, MODELS[name])()
    return ln.network.serve_model(model, program.optimizer_of(model), port=0, name=name)


def train(program, url, data):
    """Return the loss of each step of a served model."""
    model = ln.network.remote_model(url, blocking=True)
    losses = []
    for batch in data:
        loss = program.loss_of(model, *map(ln.asarray, batch))
        loss.backward()  # the gradient goes back, the server's optimizer takes the step
        losses.append(loss.item())
    return losses


def main():
    for name in sys.argv[1:] or ["moons_mlp", "graph_convolution"]:
        program = importlib.import_module(name)
        with running((server, name)) as (url,):
            found = train(program, url, program.batches())
        print(f"{name}: loss {found[0]:.3f} at first, {found[-1]:.3f} after {len(found)} steps of the server")


if __name__ == "__main__":
    main()
