"""How many parts of a convolution or a product are worked on at a time: what rules and generated code agree on.

Apart from the code itself, which only a compiler may import.
"""

#: Filters, filters where slopes are computed, and elements of a window: the first that divides their number.
FILTERS, SLOPES, PLACES = (8, 4, 2, 1), (4, 2, 1), (4, 3, 2, 1)
#: Multiplications up to which a product is written out, and how many columns of it are computed side by side.
SMALL, WIDTH = 4096, 8
#: Rows of a small product whose sums are kept in registers, at most.
TALL = 6
#: Rows and columns of a matrix that are transposed at a time.
SIDE = 8
