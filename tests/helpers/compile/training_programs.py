"""Training steps that write state of every kind: parameters, buffers, arguments and their views."""

import numpy as np

import labnet as ln

STEPS = 20


def data(step, *shape):
    return ln.asarray(np.random.default_rng(step).standard_normal(shape).astype("float32"))


class Programs:
    """Steps with state of their own: (function of the step's data, tensors to compare)."""

    @staticmethod
    def model():
        ln.manual_seed(3)
        return ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.tanh, ln.nn.Linear(4, 2))

    def two_steps_of_one_optimizer(self):
        model, optimizer = self.model(), ln.optim.Adam(lr=0.05)

        def step(x):
            for part in (x, x * 0.5):
                loss = (model(part) ** 2).sum()
                optimizer(loss.backward())
            return loss

        return step, [*model.parameters()]

    def two_optimizers(self):
        model = self.model()
        first = ln.optim.Adam(lr=0.05, parameters=model[0].parameters())
        second = ln.optim.SGD(lr=0.1, momentum=0.9, parameters=model[2].parameters())

        def step(x):
            gradients = (model(x) ** 2).mean().backward()
            first(gradients)
            second(gradients)
            return model(x).sum()

        return step, [*model.parameters()]

    def two_optimizers_of_the_same_parameters(self):
        model, first, second = self.model(), ln.optim.AdamW(lr=0.05), ln.optim.Adam(lr=0.01)

        def step(x):
            first((model(x) ** 2).mean().backward())
            loss = (model(x) - 1).abs().mean()
            second(loss.backward())
            return loss

        return step, [*model.parameters()]

    def tied_parameters(self):
        model, optimizer = self.model(), ln.optim.Adam(lr=0.05)
        tied = ln.nn.Linear(4, 4)
        again = ln.nn.Linear(4, 4)
        again.weight = tied.weight

        def step(x):
            h = ln.tanh(model[0](x))
            loss = (again(ln.tanh(tied(h))) ** 2).sum()
            optimizer(loss.backward())
            return loss

        return step, [*model.parameters(), tied.weight, tied.bias, again.bias]

    def lr_that_changes_inside(self):
        model, optimizer = self.model(), ln.optim.Adam(lr=0.5)

        def step(x):
            optimizer.lr = 0.05
            optimizer((model(x) ** 2).sum().backward())
            optimizer.lr, optimizer.betas = 0.01, (0.5, 0.9)
            optimizer((model(x) ** 2).mean().backward())
            optimizer.betas = (0.9, 0.99)
            return model(x)

        return step, [*model.parameters()]

    def accumulated_gradients(self):
        model, optimizer = self.model(), ln.optim.SGD(lr=0.05, momentum=0.5)

        def step(x):
            total = None
            for part in (x, x + 1, x * 2):
                gradients = ((model(part) ** 2).mean() / 3).backward()
                total = gradients if total is None else total + gradients
            optimizer(total)
            return model(x).sum()

        return step, [*model.parameters()]

    def frozen_parameters(self):
        model = self.model()
        model[0].weight.requires_grad = False
        optimizer = ln.optim.Adam(lr=0.05)

        def step(x):
            loss = (model(x) ** 2).sum()
            optimizer(ln.optim.clip_norm(loss.backward(), 0.5))
            return loss

        return step, [*model.parameters()]

    def moving_average_of_weights(self):
        model, optimizer = self.model(), ln.optim.SGD(lr=0.05)
        averages = [parameter.detach() * 1.0 for parameter in model.parameters()]

        def step(x):
            loss = (model(x) ** 2).sum()
            optimizer(loss.backward())
            with ln.no_grad():
                for average, parameter in zip(averages, model.parameters(), strict=True):
                    average.assign(0.9 * average + 0.1 * parameter)
            return loss

        return step, [*model.parameters(), *averages]

    def soft_updates_in_place(self):
        model, target, optimizer = self.model(), self.model(), ln.optim.Adam(lr=0.05)

        def step(x):
            with ln.no_grad():
                wanted = target(x)
            loss = ((model(x) - wanted * 0.5) ** 2).mean()
            optimizer(loss.backward())
            with ln.no_grad():
                for slow, fast in zip(target.parameters(), model.parameters(), strict=True):
                    slow *= 0.75
                    slow += 0.25 * fast
            return loss

        return step, [*model.parameters(), *target.parameters()]

    def running_statistics(self):
        weight, mean, variance = ln.ones(3, requires_grad=True), ln.zeros(3), ln.ones(3)
        count, optimizer = ln.zeros((), dtype="int64"), ln.optim.SGD(lr=0.05)

        def step(x):
            batch_mean, batch_variance = x.mean(axis=0), ln.var(x, axis=0)
            mean[...] = 0.9 * mean + 0.1 * batch_mean
            variance.assign(0.9 * variance + 0.1 * batch_variance)
            count[...] = count + 1
            out = (x - mean) / ln.sqrt(variance + 1e-5) * weight
            optimizer((out**2).mean().backward())
            return out + count

        return step, [weight, mean, variance, count]

    def hidden_state(self):
        ln.manual_seed(5)
        cell = ln.nn.Linear(5, 2)
        hidden = ln.zeros((4, 2))

        def step(x):
            new = ln.tanh(cell(ln.concat([x, hidden], axis=1)))
            hidden[...] = new.detach()
            return new

        return step, [hidden]

    def history_in_a_buffer(self):
        history, position = ln.zeros((STEPS + 2, 3)), ln.zeros(3)

        def step(x):
            history[1:] = history[:-1]
            history[0] = x[0]
            row = history[1]
            row += 1.0
            position[::2] = x[1, ::2]
            position[1] -= 0.5
            return history.sum(axis=0) + row + position

        return step, [history, position]

    def masked_writes(self):
        clipped = ln.zeros((4, 3))

        def step(x):
            y = x * 2
            y[y > 1.0] = 1.0
            y[y[:, 0] < 0] = 7.0
            part = y[1:3]
            part[part < 0] = 0.5
            clipped[x > 0] = 5.0
            clipped[:, 1] = y[:, 1]
            return y, part, part.T @ y[:2]

        return step, [clipped]

    def writes_with_gradients(self):
        weight, optimizer = ln.ones((3, 3), requires_grad=True), ln.optim.SGD(lr=0.01)

        def step(x):
            buffer = ln.zeros((4, 3))
            view = buffer[1]
            buffer[0] = (x @ weight)[0]
            view += x[1] @ weight
            buffer[2:] = ln.exp(buffer[:2])
            total = ln.zeros(())
            for row in range(4):
                total += (buffer[row] ** 2).sum()
            optimizer(total.backward())
            return total, view

        return step, [weight]

    def gradients_of_what_is_overwritten(self):
        weight, optimizer = ln.ones(3, requires_grad=True), ln.optim.SGD(lr=0.05)

        def step(x):
            twice = (weight * 1).detach()
            twice *= weight
            power = weight * x[0]
            before = power * power
            power *= weight
            power[1] = x[1, 1]
            gradients = ((twice**2 + before * power) * 0.1).sum().backward()
            slope = gradients[weight]
            slope *= 0.0
            optimizer(gradients)
            return twice, power, slope

        return step, [weight]

    def write_beside_an_update(self):
        weight, optimizer = ln.ones(3, requires_grad=True), ln.optim.SGD(lr=0.1)

        def step(x):
            optimizer((x @ weight).sum().backward())
            with ln.no_grad():
                weight[weight > 2.0] = 2.0
                weight[...] = weight * 0.99
            optimizer(((x @ weight) ** 2).sum().backward())
            return weight * 1

        return step, [weight]

    def swapped_buffers(self):
        one, other = ln.arange(3.0), ln.arange(3.0) + 10

        def step(x):
            before = one.detach()
            one.assign(other[::-1])
            other.assign(before * 1 + x[0])
            return one + other

        return step, [one, other]

    def gradient_of_an_argument(self):
        weight = ln.ones(3, requires_grad=True)
        optimizer = ln.optim.SGD(lr=0.1, parameters=[weight])

        def step(x):
            x = ln.asarray(x, requires_grad=True)
            loss = ln.tanh(x * weight).sum()
            gradients = loss.backward(retain_graph=True)
            slope = ln.grad(loss, x)
            optimizer(gradients)
            return slope

        return step, [weight]
