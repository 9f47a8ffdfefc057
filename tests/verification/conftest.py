"""Fixtures that are shared with the tests of weights."""

from tests.weights.conftest import small_resnet as small_resnet
