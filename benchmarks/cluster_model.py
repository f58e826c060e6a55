"""How fast stages and replicas can train, from a few measured constants: the model of ``docs/scale.md``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """What one machine and one network give.

    Attributes
    ----------
    call : float
        Seconds that a forward or backward of a small tensor takes, beside compute and the network.
    client : float
        Seconds of those in which the client's one thread is busy.
    round_trip : float
        Seconds from one host to another and back.
    bandwidth : float
        Bytes per second of each host's link, in each direction.
    copying : float
        Bytes per second at which a large tensor is encoded, checked and copied through without any network.
    """

    call: float
    client: float
    round_trip: float
    bandwidth: float
    copying: float

    def moving(self, nbytes: float) -> float:
        """Return the seconds that bytes take from one host to another."""
        return nbytes / self.bandwidth + nbytes / self.copying


def pipeline(c: Constants, *, stages: int, micro_batches: int, nbytes: float, forward: float, backward: float) -> float:
    """Return steps per second of equal stages that the client passes activations between.

    Parameters
    ----------
    nbytes : float
        Of the activation of a whole batch; it goes in and out of each stage, and so does its gradient.
    forward, backward : float
        Seconds of compute of a stage for a whole batch.
    """
    m = micro_batches
    piece = nbytes / m
    one_way = c.call + c.round_trip + 2 * c.moving(piece)  # to a stage and back
    through = stages * (2 * one_way + (forward + backward) / m)
    # what the next micro-batch has to wait for: a stage's compute, its link in one direction, or the client
    busiest = max((forward + backward) / m, 2 * c.moving(piece), stages * 2 * (c.client + 2 * piece / c.copying))
    settle = c.call + c.round_trip
    return 1.0 / (through + (m - 1) * busiest + settle)


def replicas(
    c: Constants,
    *,
    replicas: int,
    trainers: int,
    weights: float,
    sent: float,
    returned: float,
    forward: float,
    backward: float,
) -> float:
    """Return updates per second of one model on several hosts, with `trainers` that train it side by side.

    Parameters
    ----------
    weights : float
        Bytes of the model.
    sent, returned : float
        Bytes that one step sends to the model, and that come back: inputs, outputs, and the gradients of both.
    """
    followers = replicas - 1
    share = 1.0 / replicas
    step = 2 * (c.call + c.round_trip) + c.moving(sent + returned) + forward + backward
    if followers:  # its gradient goes to the primary, and its next forward waits for the weights that come of it
        step += (c.call + c.round_trip + c.moving(weights)) * followers * share + c.moving(weights) * followers
    # bytes of an update over the busiest link in its busier direction
    of_primary = max(returned * share + weights * followers, sent * share + weights * followers * share)
    of_follower = max(sent * share + weights, returned * share + weights * share) if followers else 0.0
    link = max(of_primary, of_follower) / c.bandwidth
    copying = (sent + returned) * share / c.copying + (2 * followers + 1) * weights / c.copying
    return min(trainers / step, 1.0 / max(link, copying, (forward + backward) * share, 2 * c.client))


def staleness(trainers: int) -> float:
    """Return how many updates come between a forward and its backward, where all train as fast as they can."""
    return trainers - 1.0
