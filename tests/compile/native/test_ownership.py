"""What reference counts and words of memory prove about the owners of an array."""

import numpy as np
import pytest

import labnet as ln
from labnet.compile.native.object_layout import word
from labnet.compile.native.ownership import constant_word, ownership_words, owns_alone, references


@pytest.mark.parametrize("owners", range(4))
def test_each_owner_is_counted_and_the_variable_of_the_caller_is_not(owners):
    found = object()
    kept = [found] * owners
    assert references(found) == owners
    del kept


def test_a_tensor_owns_its_array_until_it_is_handed_out():
    tensor = ln.zeros(3) * 1
    assert owns_alone(tensor)
    handed_out = tensor.array
    assert not owns_alone(tensor)
    del handed_out
    assert owns_alone(tensor)
    view = tensor.array[1:]
    assert not owns_alone(tensor)
    del view


def is_unchanged(words):
    return [word(address) == expected for address, expected in words]


def test_words_of_a_parameter_change_with_each_way_to_lose_ownership():
    parameter = ln.ones(3, requires_grad=True)
    held = parameter.array  # by the step
    words = ownership_words(parameter, is_written=True, is_stepped=True)
    assert is_unchanged(words) == [True, True, True, True]
    view = parameter.array[1:]
    assert is_unchanged(words) == [True, True, False, True]
    del view
    assert is_unchanged(words) == [True, True, True, True]
    parameter.grad = ln.ones(3)
    assert is_unchanged(words) == [True, True, True, False]
    parameter.grad = None
    parameter.array = np.ones(3, np.float32)
    assert is_unchanged(words) == [False, True, False, True]
    parameter.array = held
    parameter.requires_grad = False
    assert is_unchanged(words)[1] is False


def test_a_tensor_that_is_only_read_may_be_read_by_others_too():
    tensor = ln.ones(3)
    words = ownership_words(tensor, is_written=False, is_stepped=False)
    view = tensor.array[1:]
    assert len(words) == 2
    assert all(is_unchanged(words))
    del view


def test_the_constant_word_is_one():
    address, expected = constant_word()
    assert word(address) == expected == id(type(None))
