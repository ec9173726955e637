"""`dealkit`: what a notebook imports first."""

import pytest

import dealkit
from dealkit.model.checkpoint import load_model
from dealkit.predict.predictor import Predictor
from dealkit.train.deal import fit


def test_first_names_are_those_of_their_rooms():
    assert (dealkit.Predictor, dealkit.load_model, dealkit.fit) == (Predictor, load_model, fit)
    assert set(dealkit.FIRST) <= set(dir(dealkit))
    with pytest.raises(AttributeError, match="no attribute 'predictor'"):
        dealkit.predictor  # noqa: B018
