"""The names of labnet's own headers and metadata that several modules share."""

#: Header with the version of the protocol, and the one with the id of a client.
PROTOCOL = "Labnet-Protocol"
CLIENT = "Labnet-Client"
#: Header that names a call; the same in the reply to a forward and in the backward.
CALL = "Labnet-Call"
#: Header of a backward whose forward was made again: the call of the first one, which it stands for.
RENEWS = "Labnet-Renews"
#: Version of the weights that a forward saw, or that a backward made.
VERSION = "Labnet-Version"
MODE = "Labnet-Mode"
#: Which incarnation of a server answered.
EPOCH = "Labnet-Epoch"
#: In place of an epoch: the client knows none, and wants nothing carried out before it does; the status of that reply.
ASK, EPOCH_REQUIRED = "?", 428
#: Header of a reply that was given before.
REPLAYED = "Labnet-Replayed"

#: Metadata: names of the inputs whose gradient the client wants, and the loss where its backward began.
WANTED = "requires_grad"
LOSS = "loss"
#: Header with the token.
TOKEN_HEADER = "X-Labnet-Token"
