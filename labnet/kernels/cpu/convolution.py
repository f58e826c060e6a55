"""Kernels of convolution: products of filters and windows, of which some lie in the cache, and one filter per channel.

The products are those of `labnet.ops.nn.convolution`: the same calls of BLAS.
"""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, njit

from labnet.kernels.cpu.arrays import (
    APART,
    INSIDE,
    OPTIONS,
    WRITE,
    allocate,
    data_of,
    flat_size,
    floats,
    free,
    integers,
    item,
    length,
    suits,
    word,
)
from labnet.kernels.cpu.blocks import add, add_rows, clear, copy, copy_every, copy_rows, transpose
from labnet.kernels.cpu.products import multiply, multiply_with_transposed
from labnet.kernels.cpu.summation import ahead
from labnet.kernels.machine_code.array_layout import DATA, FLOAT32, INT64, READ

# geometry: (rows, columns) of the image, of the image with padding, of a window, of the result with unused windows, of
# the stride, of the dilation, and of the padding before the image; the used windows of a row; then the distance of each
# element of a window from the first, in the scratch memory
#
# An image with padding is laid out in the scratch memory such that neighbouring windows read neighbours: with a stride
# of two, the even columns of a row come before the odd ones.

_IMAGE, _PADDED, _KERNEL, _OUT, _STRIDE, _BEFORE, _USED, _TAPS = 0, 2, 4, 6, 8, 12, 14, 15


@njit(**INSIDE)
def _area(sizes, place):
    return sizes[place] * sizes[place + 1]


@njit(**INSIDE)
def _width(sizes):
    """Return the length of a row in the scratch memory."""
    step = sizes[_STRIDE + 1]
    return (sizes[_PADDED + 1] + step - 1) // step * step


@njit(**INSIDE)
def _is_plain(sizes):
    """Return whether an image is read in place: it has neither padding nor a stride along its rows."""
    return _area(sizes, _IMAGE) == _area(sizes, _PADDED) and sizes[_STRIDE + 1] == 1


@njit(**APART)
def _copy_image(image, scratch, sizes, is_back):
    """Copy an image to memory with its padding, or back."""
    width, step, left, columns = _width(sizes), sizes[_STRIDE + 1], sizes[_BEFORE + 1], sizes[_IMAGE + 1]
    whole = ahead(scratch, sizes[_BEFORE] * width)
    for first in range(min(step, columns)):
        place = (left + first) % step * (width // step) + (left + first) // step
        inside, outside = ahead(whole, place), ahead(image, first)
        count = (columns - first + step - 1) // step
        for _ in range(sizes[_IMAGE]):
            if is_back and step == 1:
                copy(outside, inside, count)
            elif is_back:
                for i in range(count):
                    outside[i * step] = inside[i]
            else:
                copy_every(inside, outside, step, count)
            inside, outside = ahead(inside, width), ahead(outside, columns)


@njit(**APART)
def _padded(image, scratch, sizes):
    """Return an image with padding."""
    if _is_plain(sizes):
        return image
    clear(scratch, sizes[_PADDED] * _width(sizes))
    _copy_image(image, scratch, sizes, False)
    return scratch


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
    """Return the pointer to what an element of the windows reads, from that of the first."""
    return ahead(start, sizes[_TAPS + tap])


@njit(**INSIDE)
def _pieces(first, count, run, down):
    """Divide windows into the end of a run, whole runs, and the begin of a run.

    Returns the place of the first window, the length of the first piece, the place of the second piece, its number of
    runs, and the length of the third piece.
    """
    begin = first // run * down + first % run
    head = min((run - first % run) % run, count)
    after = begin if head == 0 else begin + down - first % run
    return begin, head, after, (count - head) // run, (count - head) % run


@njit(**APART)
def _copy_windows(start, sizes, channels, first, count, target, pitch):
    """Copy some windows of images with padding, one per channel, to a matrix: a row for each element of a window."""
    run, down, size = _area(sizes, _OUT) // _runs(sizes), sizes[_STRIDE] * _width(sizes), sizes[_PADDED] * _width(sizes)
    begin, head, after, rows, tail = _pieces(first, count, run, down)
    for c in range(channels):
        for t in range(_area(sizes, _KERNEL)):
            source = ahead(start, c * size + sizes[_TAPS + t])
            copy(target, ahead(source, begin), head)
            copy_rows(ahead(target, head), run, ahead(source, after), down, rows, run)
            copy(ahead(target, head + rows * run), ahead(source, after + rows * down), tail)
            target = ahead(target, pitch)


@njit(**APART)
def _add_windows(source, pitch, sizes, channels, first, count, start):
    """Add a matrix as `_copy_windows` makes it to images with padding."""
    run, down, size = _area(sizes, _OUT) // _runs(sizes), sizes[_STRIDE] * _width(sizes), sizes[_PADDED] * _width(sizes)
    begin, head, after, rows, tail = _pieces(first, count, run, down)
    taps = _area(sizes, _KERNEL)
    for t in range(taps):
        for c in range(channels):  # neighbouring elements of a window overlap, so each is read long after it is written
            target, values = ahead(start, c * size + sizes[_TAPS + t]), ahead(source, (c * taps + t) * pitch)
            add(ahead(target, begin), values, head)
            add_rows(ahead(target, after), down, ahead(values, head), run, rows, run)
            add(ahead(target, after + rows * down), ahead(values, head + rows * run), tail)


@njit(**INSIDE)
def _is_matrix(sizes):
    """Return whether images already are matrices of windows, which have one element each."""
    return _area(sizes, _KERNEL) == 1 and _is_plain(sizes) and sizes[_STRIDE] == 1


@njit(**INSIDE)
def _pitch(tile):
    """Return the distance of rows of `tile` numbers such that they do not all begin in the same line of the cache."""
    return tile if tile % 256 else tile + 16


@njit(**APART)
def _products_fit(geometry, filters, axis, images, x, y, tile):
    """Return whether the sizes fit the filters, and neither `inner` nor the windows of a product are one.

    The filters have the shape (groups, K / groups, inner), or with the last two in turn if `axis`, that of K / groups,
    is 2. `x` and `y` are the sizes of the images and of the result.
    """
    numbers, sizes = flat_size(geometry, READ, INT64), integers(word(geometry + DATA))
    if numbers < _TAPS or numbers != _TAPS + _area(sizes, _KERNEL) or not suits(filters, 3, READ, FLOAT32):
        return False
    groups, outer, inner = length(filters, 0), length(filters, axis), length(filters, 3 - axis)
    taps = _area(sizes, _KERNEL)
    if inner < 2 or inner % taps or outer < 1 or tile < 2 or _area(sizes, _OUT) % tile == 1:
        return False
    if x != images * groups * inner // taps * _area(sizes, _IMAGE):
        return False
    return y == images * groups * outer * sizes[_OUT] * sizes[_USED]


@njit(**APART)
def _images_with_padding(x, scratch, channels, sizes):
    """Copy images to cleared memory, unless they have no padding; return where they are."""
    if _is_plain(sizes):
        return x
    for c in range(channels):
        target = ahead(scratch, c * sizes[_PADDED] * _width(sizes))
        _copy_image(ahead(x, c * _area(sizes, _IMAGE)), target, sizes, False)
    return scratch


@njit(**APART)
def _add_bias(products, pitch, filters, count, bias):
    """Add a number to each row of a matrix."""
    for k in range(filters):
        row, shift = ahead(products, k * pitch), bias[k]
        for i in range(count):
            row[i] += shift


@njit(**APART)
def _copy_used(products, pitch, sizes, filters, first, count, result):
    """Copy a product to the result, without unused windows."""
    row, used = sizes[_OUT + 1], sizes[_USED]
    size, begin, start = sizes[_OUT] * used, first // row, first % row
    for k in range(filters):
        source, target, at, column, place = ahead(products, k * pitch), ahead(result, k * size), begin, start, 0
        while place < count:
            length = min(row - column, count - place)
            copy(ahead(target, at * used + column), ahead(source, place), max(min(length, used - column), 0))
            at, column, place = at + 1, 0, place + length


@njit(**INSIDE)
def _scratch_sizes(sizes, channels, filters, pitch):
    """Return how many numbers images with padding, windows, and gradients with unused ones take in scratch memory."""
    taps, count = _area(sizes, _KERNEL), _area(sizes, _OUT)
    image = 0 if _is_plain(sizes) else channels * sizes[_PADDED] * _width(sizes)
    windows = 0 if _is_matrix(sizes) else channels * taps * pitch
    return image, windows, 0 if sizes[_OUT + 1] == sizes[_USED] else filters * count


@njit(**OPTIONS)
def convolve(arrays, images, tile):
    """Multiply filters and windows, `tile` windows at a time, and add a bias.

    Arrays: geometry, images, filters (groups, K / groups, inner), bias (K,), result.
    """
    geometry, x, weight = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    bias, result = item(arrays, 3), item(arrays, 4)
    x_size, y_size = flat_size(x, READ, FLOAT32), flat_size(result, WRITE, FLOAT32)
    if not _products_fit(geometry, weight, 1, images, x_size, y_size, tile):
        return 0
    groups, filters, inner = length(weight, 0), length(weight, 1), length(weight, 2)
    if flat_size(bias, READ, FLOAT32) != groups * filters:
        return 0
    sizes = integers(word(geometry + DATA))
    count, channels, pitch = _area(sizes, _OUT), inner // _area(sizes, _KERNEL), _pitch(tile)
    image, own = channels * _area(sizes, _IMAGE), filters * sizes[_OUT] * sizes[_USED]
    size, window, _ = _scratch_sizes(sizes, channels, filters, pitch)
    memory = allocate(4 * (size + window + filters * pitch))
    if memory == 0:
        return 0
    scratch = floats(memory)
    windows, products = ahead(scratch, size), ahead(scratch, size + window)
    all_used = sizes[_OUT + 1] == sizes[_USED]
    clear(scratch, size)
    for n in range(images * groups):
        group = n % groups
        start = _images_with_padding(ahead(data_of(x), n * image), scratch, channels, sizes)
        factor, shifts = ahead(data_of(weight), group * filters * inner), ahead(data_of(bias), group * filters)
        out = ahead(data_of(result), n * own)
        for first in range(0, count, tile):
            some = min(tile, count - first)
            source, step = ahead(start, first), count
            if not _is_matrix(sizes):
                _copy_windows(start, sizes, channels, first, some, windows, pitch)
                source, step = windows, pitch
            target, down = (ahead(out, first), count) if all_used else (products, pitch)
            multiply(factor, inner, source, step, target, down, filters, inner, some)
            _add_bias(target, down, filters, some, shifts)
            if not all_used:
                _copy_used(products, pitch, sizes, filters, first, some, out)
    free(memory)
    return 1


@njit(**APART)
def _with_unused(y, wide, filters, sizes):
    """Return gradients with zeros for unused windows, in `wide` if there are any."""
    row, used = sizes[_OUT + 1], sizes[_USED]
    if row == used:
        return y
    for r in range(filters * sizes[_OUT]):
        copy(ahead(wide, r * row), ahead(y, r * used), used)
    return wide


@njit(**OPTIONS)
def convolve_input(arrays, images, tile):
    """Multiply filters and gradients, and add the products to the windows of images.

    The last windows come first, so that the products that an image element gets are added in the order of its places in
    the windows. Arrays: geometry, gradients, filters (groups, inner, K / groups), result.
    """
    geometry, y, weight, result = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    x_size, y_size = flat_size(result, WRITE, FLOAT32), flat_size(y, READ, FLOAT32)
    if not _products_fit(geometry, weight, 2, images, x_size, y_size, tile):
        return 0
    groups, inner, filters = length(weight, 0), length(weight, 1), length(weight, 2)
    sizes = integers(word(geometry + DATA))
    count, channels, pitch = _area(sizes, _OUT), inner // _area(sizes, _KERNEL), _pitch(tile)
    image, own = channels * _area(sizes, _IMAGE), filters * sizes[_OUT] * sizes[_USED]
    size, window, unused = _scratch_sizes(sizes, channels, filters, pitch)
    memory = allocate(4 * (size + window + unused + 1))
    if memory == 0:
        return 0
    scratch = floats(memory)
    products, wide = ahead(scratch, size), ahead(scratch, size + window)
    clear(wide, unused)
    for n in range(images * groups):
        to = ahead(data_of(result), n * image)
        whole = to if _is_plain(sizes) else scratch
        gradients = _with_unused(ahead(data_of(y), n * own), wide, filters, sizes)
        factor = ahead(data_of(weight), n % groups * inner * filters)
        if not _is_matrix(sizes):
            clear(whole, channels * sizes[_PADDED] * _width(sizes))
        first = (count - 1) // tile * tile
        while first >= 0:
            some = min(tile, count - first)
            if _is_matrix(sizes):
                target = ahead(to, first)
                multiply(factor, filters, ahead(gradients, first), count, target, count, inner, filters, some)
            else:
                multiply(factor, filters, ahead(gradients, first), count, products, pitch, inner, filters, some)
                _add_windows(products, pitch, sizes, channels, first, some, whole)
            first -= tile
        for c in range(0 if _is_plain(sizes) else channels):
            source = ahead(whole, c * sizes[_PADDED] * _width(sizes))
            _copy_image(ahead(to, c * _area(sizes, _IMAGE)), source, sizes, True)
    free(memory)
    return 1


@njit(**OPTIONS)
def convolve_weight(arrays, images, tile, is_turned):
    """Add the products of windows and gradients, `tile` windows at a time; gradients are transposed first if asked.

    Arrays: geometry, images, gradients, result (groups, inner, K / groups), which is zero at first.
    """
    geometry, x, y, result = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    x_size, y_size = flat_size(x, READ, FLOAT32), flat_size(y, READ, FLOAT32)
    if not _products_fit(geometry, result, 2, images, x_size, y_size, tile) or flat_size(result, WRITE, FLOAT32) < 0:
        return 0
    groups, inner, filters = length(result, 0), length(result, 1), length(result, 2)
    sizes = integers(word(geometry + DATA))
    count, channels, pitch = _area(sizes, _OUT), inner // _area(sizes, _KERNEL), _pitch(tile)
    image, own = channels * _area(sizes, _IMAGE), filters * sizes[_OUT] * sizes[_USED]
    size, window, unused = _scratch_sizes(sizes, channels, filters, pitch)
    memory = allocate(4 * (size + window + unused + filters * (tile + inner)))
    if memory == 0:
        return 0
    scratch = floats(memory)
    windows, wide = ahead(scratch, size), ahead(scratch, size + window)
    turned, products = ahead(wide, unused), ahead(wide, unused + filters * tile)
    clear(scratch, size)
    clear(wide, unused)
    for n in range(images * groups):
        start = _images_with_padding(ahead(data_of(x), n * image), scratch, channels, sizes)
        gradients = _with_unused(ahead(data_of(y), n * own), wide, filters, sizes)
        total = ahead(data_of(result), n % groups * inner * filters)
        for first in range(0, count, tile):
            some = min(tile, count - first)
            source, step = ahead(start, first), count
            if not _is_matrix(sizes):
                _copy_windows(start, sizes, channels, first, some, windows, pitch)
                source, step = windows, pitch
            right = ahead(gradients, first)
            if is_turned:
                transpose(turned, filters, right, count, filters, some)
                multiply(source, step, turned, filters, products, filters, inner, some, filters)
            else:
                multiply_with_transposed(source, step, right, count, products, filters, inner, some, filters)
            add(total, products, inner * filters)
    free(memory)
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
        source = _padded(ahead(data_of(x), image * size), data_of(scratch), sizes)
        w, shift = floats(word(weight + DATA) + 4 * (image % channels) * taps), shifts[image % channels]
        for r in range(sizes[_OUT]):
            start = ahead(source, r * sizes[_STRIDE] * width)
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
            a, w0 = start, w[0]
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
        own = ahead(data_of(result), image * size)
        whole = own if _is_plain(sizes) else data_of(scratch)
        clear(whole, sizes[_PADDED] * width)
        for t in range(taps):
            factor = floats(word(weight + DATA) + 4 * (image % channels) * taps)[t]
            for r in range(sizes[_OUT]):
                gradient = floats(word(g + DATA) + 4 * (image * count + r * run))
                target = _tap(ahead(whole, r * sizes[_STRIDE] * width), sizes, t)
                for k in range(run):
                    target[k] += gradient[k] * factor
        if not _is_plain(sizes):
            _copy_image(own, whole, sizes, True)
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
        values = _padded(ahead(data_of(x), image * size), data_of(scratch), sizes)
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
