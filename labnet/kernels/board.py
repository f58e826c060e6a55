"""Where the board of a team of threads has its words, as offsets in bytes; each has cache lines of its own."""

#: Numbers of the call, its parts and the next part; parts that are computed; whether a kernel refused one.
TICKET, DONE, FAILED = 0, 128, 256
#: Address of the words of the parts, and bytes of a part; whether the helpers end; state of the first helper, and
#: the distance to the next one's.
TASKS, LENGTH, STOP, FIRST_STATE, STATE = 384, 392, 512, 640, 128
