"""Kernels of convolution: images as a matrix of windows and back, and one filter per channel."""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, njit

from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, WRITE, data_of, flat_size, floats, integers, item, word
from labnet.kernels.machine_code.array_layout import DATA, FLOAT32, INT64, READ

# geometry: (rows, columns) of the image, of the image with padding, of a window, of the result with unused windows, of
# the stride, of the dilation, and of the padding before the image; then the distance of each element of a window from
# the first, in the scratch memory
#
# An image with padding is laid out in the scratch memory such that neighbouring windows read neighbours: with a stride
# of two, the even columns of a row come before the odd ones.

_IMAGE, _PADDED, _KERNEL, _OUT, _STRIDE, _BEFORE, _TAPS = 0, 2, 4, 6, 8, 12, 14


@njit(**INSIDE)
def _area(sizes, place):
    return sizes[place] * sizes[place + 1]


@njit(**INSIDE)
def _width(sizes):
    """Return the length of a row in the scratch memory."""
    step = sizes[_STRIDE + 1]
    return (sizes[_PADDED + 1] + step - 1) // step * step


@njit(**INSIDE)
def _column(sizes, x):
    """Return the place of a column in a row of the scratch memory."""
    step = sizes[_STRIDE + 1]
    return x % step * (_width(sizes) // step) + x // step


@njit(**INSIDE)
def _is_plain(sizes):
    """Return whether an image is read in place: it has neither padding nor a stride along its rows."""
    return _area(sizes, _IMAGE) == _area(sizes, _PADDED) and sizes[_STRIDE + 1] == 1


@njit(**INSIDE)
def _padded(image, scratch, sizes):
    """Return the address of an image with padding."""
    if _is_plain(sizes):
        return image
    width, step, left = _width(sizes), sizes[_STRIDE + 1], sizes[_BEFORE + 1]
    target = floats(scratch)
    for i in range(sizes[_PADDED] * width):
        target[i] = float32(0)
    for row in range(sizes[_IMAGE]):
        for first in range(min(step, sizes[_IMAGE + 1])):
            source = floats(image + 4 * (row * sizes[_IMAGE + 1] + first))
            target = floats(scratch + 4 * ((sizes[_BEFORE] + row) * width + _column(sizes, left + first)))
            for i in range((sizes[_IMAGE + 1] - first + step - 1) // step):
                target[i] = source[i * step]
    return scratch


@njit(**INSIDE)
def _cropped(scratch, image, sizes):
    """Copy the inside of an image with padding."""
    if _is_plain(sizes):
        return
    width, step, left = _width(sizes), sizes[_STRIDE + 1], sizes[_BEFORE + 1]
    for row in range(sizes[_IMAGE]):
        for first in range(min(step, sizes[_IMAGE + 1])):
            target = floats(image + 4 * (row * sizes[_IMAGE + 1] + first))
            source = floats(scratch + 4 * ((sizes[_BEFORE] + row) * width + _column(sizes, left + first)))
            for i in range((sizes[_IMAGE + 1] - first + step - 1) // step):
                target[i * step] = source[i]


@njit(**INSIDE)
def _fit(geometry, scratch):
    """Return whether the geometry is one, and the scratch memory holds an image with padding."""
    numbers = flat_size(geometry, READ, INT64)
    sizes = integers(word(geometry + DATA))
    if numbers < _TAPS or numbers != _TAPS + _area(sizes, _KERNEL):
        return False
    return flat_size(scratch, WRITE, FLOAT32) >= sizes[_PADDED] * _width(sizes)


@njit(**INSIDE)
def _runs(sizes):
    """Return the number of runs of windows that read neighbours: a row each, or all rows if they are merged."""
    is_merged = sizes[_STRIDE] == 1 and sizes[_STRIDE + 1] == 1 and sizes[_OUT + 1] == sizes[_PADDED + 1]
    return 1 if is_merged else sizes[_OUT]


@njit(**INSIDE)
def _tap(start, sizes, tap):
    """Return the pointer to what an element of the windows reads, from the address of the first."""
    return floats(start + 4 * sizes[_TAPS + tap])


@njit(**OPTIONS)
def columns(arrays, images, pitch):
    """Copy the windows of images; arrays: geometry, scratch, images, result (images, *kernel, pitch)."""
    geometry, scratch, x, result = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    if not _fit(geometry, scratch):
        return 0
    sizes = integers(word(geometry + DATA))
    size, count = _area(sizes, _IMAGE), _area(sizes, _OUT)
    if flat_size(x, READ, FLOAT32) != images * size or pitch < count:
        return 0
    if flat_size(result, WRITE, FLOAT32) != images * _area(sizes, _KERNEL) * pitch:
        return 0
    width, runs = _width(sizes), _runs(sizes)
    run, place = count // runs, word(result + DATA)
    for image in range(images):
        source = _padded(word(x + DATA) + 4 * image * size, word(scratch + DATA), sizes)
        for t in range(_area(sizes, _KERNEL)):
            for r in range(runs):
                values, target = _tap(source + 4 * r * sizes[_STRIDE] * width, sizes, t), floats(place + 4 * r * run)
                for k in range(run):
                    target[k] = values[k]
            place += 4 * pitch
    return 1


@njit(**OPTIONS)
def add_columns(arrays, images, pitch):
    """Sum windows into images; arrays: geometry, scratch, windows (images, *kernel, pitch), result."""
    geometry, scratch, x, result = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    if not _fit(geometry, scratch):
        return 0
    sizes = integers(word(geometry + DATA))
    size, count = _area(sizes, _IMAGE), _area(sizes, _OUT)
    if flat_size(result, WRITE, FLOAT32) != images * size or pitch < count:
        return 0
    if flat_size(x, READ, FLOAT32) != images * _area(sizes, _KERNEL) * pitch:
        return 0
    width, runs = _width(sizes), _runs(sizes)
    run, place = count // runs, word(x + DATA)
    for image in range(images):
        own = word(result + DATA) + 4 * image * size
        whole = own if _is_plain(sizes) else word(scratch + DATA)
        target = floats(whole)
        for i in range(sizes[_PADDED] * width):
            target[i] = float32(0)
        for t in range(_area(sizes, _KERNEL)):
            for r in range(runs):
                values, target = floats(place + 4 * r * run), _tap(whole + 4 * r * sizes[_STRIDE] * width, sizes, t)
                for k in range(run):
                    target[k] += values[k]
            place += 4 * pitch
        _cropped(whole, own, sizes)
    return 1


@njit(**OPTIONS)
def depthwise(arrays, images, channels):
    """Correlate each channel with a filter, and add a number.

    arrays: geometry, scratch, images, filters (channels, *kernel), numbers (channels,), result.
    """
    geometry, scratch, x = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    weight, bias, result = item(arrays, 3), item(arrays, 4), item(arrays, 5)
    if not _fit(geometry, scratch):
        return 0
    sizes = integers(word(geometry + DATA))
    size, count, taps = _area(sizes, _IMAGE), _area(sizes, _OUT), _area(sizes, _KERNEL)
    if flat_size(x, READ, FLOAT32) != images * channels * size or flat_size(weight, READ, FLOAT32) != channels * taps:
        return 0
    if flat_size(result, WRITE, FLOAT32) != images * channels * count or flat_size(bias, READ, FLOAT32) != channels:
        return 0
    width, run, shifts = _width(sizes), sizes[_OUT + 1], data_of(bias)
    for image in range(images * channels):
        source = _padded(word(x + DATA) + 4 * image * size, word(scratch + DATA), sizes)
        w, shift = floats(word(weight + DATA) + 4 * (image % channels) * taps), shifts[image % channels]
        for r in range(sizes[_OUT]):
            start = source + 4 * r * sizes[_STRIDE] * width
            target = floats(word(result + DATA) + 4 * (image * count + r * run))
            if sizes[_KERNEL] == 3 and sizes[_KERNEL + 1] == 3:  # written out, which is several times faster
                a, b, c = _tap(start, sizes, 0), _tap(start, sizes, 3), _tap(start, sizes, 6)
                p, q = sizes[_TAPS + 1], sizes[_TAPS + 2]
                w0, w1, w2, w3, w4, w5, w6, w7, w8 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]
                for k in range(run):
                    first = a[k] * w0 + a[k + p] * w1 + a[k + q] * w2
                    second = first + b[k] * w3 + b[k + p] * w4 + b[k + q] * w5
                    target[k] = second + c[k] * w6 + c[k + p] * w7 + c[k + q] * w8 + shift
                continue
            a, w0 = floats(start), w[0]
            for k in range(run):
                target[k] = a[k] * w0
            t = 1
            while t + 4 <= taps:  # several together, since each pass writes the result
                a, b = _tap(start, sizes, t), _tap(start, sizes, t + 1)
                c, d = _tap(start, sizes, t + 2), _tap(start, sizes, t + 3)
                w0, w1, w2, w3 = w[t], w[t + 1], w[t + 2], w[t + 3]
                for k in range(run):
                    pair = target[k] + a[k] * w0 + b[k] * w1
                    target[k] = pair + c[k] * w2 + d[k] * w3
                t += 4
            while t < taps:
                a, w0 = _tap(start, sizes, t), w[t]
                for k in range(run):
                    target[k] += a[k] * w0
                t += 1
            for k in range(run):
                target[k] += shift
    return 1


@njit(**OPTIONS)
def depthwise_input(arrays, images, channels):
    """Add gradients, multiplied by a filter, to the windows of each channel.

    arrays: geometry, scratch, gradient, filters (channels, *kernel), result.
    """
    geometry, scratch, g = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    weight, result = item(arrays, 3), item(arrays, 4)
    if not _fit(geometry, scratch):
        return 0
    sizes = integers(word(geometry + DATA))
    size, count, taps = _area(sizes, _IMAGE), _area(sizes, _OUT), _area(sizes, _KERNEL)
    if flat_size(g, READ, FLOAT32) != images * channels * count or flat_size(weight, READ, FLOAT32) != channels * taps:
        return 0
    if flat_size(result, WRITE, FLOAT32) != images * channels * size:
        return 0
    width, run = _width(sizes), sizes[_OUT + 1]
    for image in range(images * channels):
        own = word(result + DATA) + 4 * image * size
        whole = own if _is_plain(sizes) else word(scratch + DATA)
        target = floats(whole)
        for i in range(sizes[_PADDED] * width):
            target[i] = float32(0)
        for t in range(taps):
            factor = floats(word(weight + DATA) + 4 * (image % channels) * taps)[t]
            for r in range(sizes[_OUT]):
                gradient = floats(word(g + DATA) + 4 * (image * count + r * run))
                target = _tap(whole + 4 * r * sizes[_STRIDE] * width, sizes, t)
                for k in range(run):
                    target[k] += gradient[k] * factor
        _cropped(whole, own, sizes)
    return 1


@njit(**OPTIONS)
def depthwise_weight(arrays, images, channels):
    """Sum products of windows and gradients over images and rows, so that one sum per column is left.

    arrays: geometry, scratch, sums of one image (*kernel, columns), images, gradient, result (channels, *kernel,
    columns).
    """
    geometry, scratch, own = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    x, g, result = item(arrays, 3), item(arrays, 4), item(arrays, 5)
    if not _fit(geometry, scratch):
        return 0
    sizes = integers(word(geometry + DATA))
    size, count, taps = _area(sizes, _IMAGE), _area(sizes, _OUT), _area(sizes, _KERNEL)
    width, run = _width(sizes), sizes[_OUT + 1]
    if flat_size(x, READ, FLOAT32) != images * channels * size or flat_size(own, WRITE, FLOAT32) != taps * run:
        return 0
    if flat_size(g, READ, FLOAT32) != images * channels * count or run < 2:  # NumPy adds in another order
        return 0
    if flat_size(result, WRITE, FLOAT32) != channels * taps * run:
        return 0
    sums, pitch = data_of(own), sizes[_STRIDE] * width
    for image in range(images * channels):
        values = floats(_padded(word(x + DATA) + 4 * image * size, word(scratch + DATA), sizes))
        gradient = floats(word(g + DATA) + 4 * image * count)
        for i in range(taps * run):
            sums[i] = float32(0)
        t = 0
        while t < taps:
            a, first = sizes[_TAPS + t], t * run
            if t + 3 <= taps:  # three elements and two rows at once, so that sums and gradients are read less often
                b, c = sizes[_TAPS + t + 1], sizes[_TAPS + t + 2]
                second, third = first + run, first + 2 * run
                for r in range(0, sizes[_OUT] - 1, 2):
                    o, p = r * pitch, r * run
                    q, s = o + pitch, p + run
                    for k in range(run):
                        above, below = gradient[p + k], gradient[s + k]
                        sums[first + k] = sums[first + k] + values[o + a + k] * above + values[q + a + k] * below
                        sums[second + k] = sums[second + k] + values[o + b + k] * above + values[q + b + k] * below
                        sums[third + k] = sums[third + k] + values[o + c + k] * above + values[q + c + k] * below
                if sizes[_OUT] % 2:
                    o, p = (sizes[_OUT] - 1) * pitch, (sizes[_OUT] - 1) * run
                    for k in range(run):
                        sums[first + k] += values[o + a + k] * gradient[p + k]
                        sums[second + k] += values[o + b + k] * gradient[p + k]
                        sums[third + k] += values[o + c + k] * gradient[p + k]
                t += 3
                continue
            for r in range(sizes[_OUT]):
                o, p = r * pitch + a, r * run
                for k in range(run):
                    sums[first + k] += values[o + k] * gradient[p + k]
            t += 1
        total = floats(word(result + DATA) + 4 * (image % channels) * taps * run)
        for k in range(taps * run):
            total[k] += sums[k]
    return 1
