"""Names of labnet's own headers and metadata."""

#: Headers with the version of the protocol and with the id of a client.
PROTOCOL = "Labnet-Protocol"
CLIENT = "Labnet-Client"
#: Header with a call id, in the reply to a forward and in the backward.
CALL = "Labnet-Call"
#: Header of a backward whose forward was repeated: the id of the original call.
RENEWS = "Labnet-Renews"
#: Header of a request to ``/settle``: gradients of its calls that were not used are refused from now on.
REFUSE = "Labnet-Refuse"
#: Version of the weights that a forward used or a backward produced.
VERSION = "Labnet-Version"
MODE = "Labnet-Mode"
#: Incarnation of the server that answered.
EPOCH = "Labnet-Epoch"
#: Value in place of an unknown epoch: report the epoch and carry nothing out; and the status of that reply.
ASK, EPOCH_REQUIRED = "?", 428
#: Header of a replayed reply.
REPLAYED = "Labnet-Replayed"

#: Metadata: names of the inputs whose gradient the client wants, and the loss at which its backward began.
WANTED = "requires_grad"
LOSS = "loss"
#: Header with the token.
TOKEN_HEADER = "X-Labnet-Token"
