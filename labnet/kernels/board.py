"""Where the board of a team of threads has its words, as offsets in bytes; each has cache lines of its own."""

#: Number of the call and the parts that are left; parts that are computed; whether a kernel refused one.
TICKET, DONE, FAILED = 0, 128, 256
#: Number of parts, address of their words, and bytes of each; whether the helpers end; state of the first helper, and
#: the distance to the next one's.
PARTS, TASKS, LENGTH, STOP, FIRST_STATE, STATE = 384, 392, 400, 512, 640, 128
#: Parts of a call, at most: each has a bit in the lower half of the ticket.
MOST_PARTS = 32
